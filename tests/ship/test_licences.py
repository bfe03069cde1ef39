"""Licences as timm and folders for the hub record them, and the chain of a stage."""

import json
from pathlib import Path

import pytest

from marrow.core.artifact import Artifact
from marrow.ship.licences import UNKNOWN, chain, entry, folder_licence, weights_licence


@pytest.mark.parametrize(
    ("source", "licence"),
    [
        ("timm:resnet18.a1_in1k", "apache-2.0"),
        ("timm:resnet18", "apache-2.0"),
        ("timm:resnet18.fb_swsl_ig1b_ft_in1k", "cc-by-nc-4.0"),
        ("timm:resnet18.no_such_tag", UNKNOWN),
        ("hf:facebook/dinov3-vits16", "dinov3-license"),
        ("hf:somebody/something", UNKNOWN),
    ],
)
def test_what_is_recorded_is_said_and_nothing_else(source, licence):
    assert weights_licence(source) == licence


def test_a_chain_names_ready_made_weights_once_and_no_folders():
    inherited = [entry("teacher weights", "resnet18.a1_in1k", "apache-2.0")]
    parents = [Artifact(Path("a"), {"licences": inherited}), Artifact(Path("b"), {"licences": inherited})]
    roles = {
        "teacher": {"task": "classify", "backbone": {"backbone": "resnet18.fb_swsl_ig1b_ft_in1k", "pretrained": True}},
        "student": {"backbone": "resnet10t", "weights": "/home/somebody/mine.pth"},
        "other": {"backbone": "resnet10t"},
    }
    links = chain(roles, parents)
    assert [(link["of"], link["name"], link["licence"]) for link in links] == [
        ("teacher weights", "resnet18.fb_swsl_ig1b_ft_in1k", "cc-by-nc-4.0"),
        ("student weights", "mine.pth", UNKNOWN),
        ("teacher weights", "resnet18.a1_in1k", "apache-2.0"),
    ]
    assert links[0]["terms"] == "no commercial use"


@pytest.mark.parametrize(
    ("card", "config", "licence"),
    [
        ("---\nlicense: mit\ntags: [vision]\n---\n# A net", {"license": "apache-2.0"}, "mit"),
        ("---\ntags: [vision]\n---\nlicense: mit", {"license": "apache-2.0"}, "apache-2.0"),
        ("---\nlicense: other\n---\n", {"pretrained_cfg": {"license": "cc-by-nc-4.0"}}, "cc-by-nc-4.0"),
        ("# license: mit", {}, UNKNOWN),
        ("---\nlicense: [mit\n---\n", {"architecture": "resnet18"}, UNKNOWN),
        ("---\nlicense: {a: b}\n---\n", {"license": 3}, UNKNOWN),
        ("", [], UNKNOWN),
    ],
)
def test_a_folder_for_the_hub_records_its_own(card, config, licence, tmp_path):
    assert folder_licence(tmp_path) == UNKNOWN
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert folder_licence(tmp_path) == weights_licence(f"hf:{tmp_path}") == licence
    roles = {
        "teacher": {"backbone": f"hf:{tmp_path}"},
        "student": {"backbone": "resnet18", "weights": f"{tmp_path}/w.pth"},
    }
    teacher, student = chain(roles)
    assert (teacher["of"], teacher["name"], teacher["licence"]) == ("teacher weights", tmp_path.name, licence)
    assert (student["of"], student["name"], student["licence"]) == ("student weights", "w.pth", licence)


def test_a_name_on_the_hub_stands_in_the_chain_as_it_is():
    (link,) = chain({"teacher": {"task": "classify", "backbone": {"backbone": "hf:google/vit-base-patch16-224"}}})
    assert (link["name"], link["licence"]) == ("google/vit-base-patch16-224", "apache-2.0")
