"""Licences as timm records them, and the chain of a stage."""

from pathlib import Path

import pytest

from marrow.core.artifact import Artifact
from marrow.ship.licences import UNKNOWN, chain, entry, weights_licence


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
