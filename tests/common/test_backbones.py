"""Every backbone: shapes, what it gives, its own normalisation, and that its spec builds it again."""

import time

import pytest
import timm
import torch

from marrow.core.spec import build, load_weights, saved_weights
from marrow.core.timm_backbone import arguments_of

from . import pieces


@pytest.fixture(params=pieces.backbone_names())
def name(request):
    return request.param


def test_features_have_the_promised_shapes(name):
    model = pieces.backbone(name).eval()
    x = pieces.images(2)
    maps = (0, -1) if "maps" in model.gives else ()
    out = model(x, maps=maps)
    assert out.pooled.shape == (2, model.dim)
    assert ("tokens" in model.gives) == (out.tokens is not None)
    if out.tokens is not None:
        assert out.tokens.ndim == 3 and len(out.tokens) == 2
    if maps:
        finest, coarsest = out.maps
        assert finest.ndim == coarsest.ndim == 4
        assert finest.shape[-1] >= coarsest.shape[-1]


def test_it_learns_from_pixels(name):
    model = pieces.backbone(name).train()
    model(pieces.images(4)).pooled.square().mean().backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent


def test_bytes_and_fractions_are_the_same_picture(name):
    model = pieces.backbone(name).eval()
    x = pieces.images(2)
    torch.testing.assert_close(model(x).pooled, model(x.float() / 255).pooled)


def test_its_spec_builds_it_again(name):
    model = pieces.backbone(name).eval()
    again = build(model.spec).eval()
    load_weights(again, saved_weights(model))
    assert again.spec == model.spec and again.input == model.input
    torch.testing.assert_close(again(pieces.images()).pooled, model(pieces.images()).pooled, rtol=0, atol=0)


def test_its_weights_open_in_plain_timm(name):
    model = pieces.backbone(name)
    arguments = {k: v for k, v in model.spec["args"].items() if k != "img_size"}
    if "img_size" in arguments_of(name):
        arguments["img_size"] = pieces.SIZE
    net = timm.create_model(name, num_classes=0, **arguments)
    net.load_state_dict(saved_weights(model), strict=True)


@pytest.mark.parametrize("cls", pieces.our_classes(), ids=lambda cls: cls.__name__)
def test_our_tiny_size_runs_in_under_a_second(cls):
    net = cls(**cls.tiny).eval()
    started = time.process_time()
    with torch.inference_mode():
        out = net(torch.rand(1, 3, pieces.SIZE, pieces.SIZE))
    assert time.process_time() - started < 1
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", pieces.our_backbones())
def test_our_sizes_follow_timm(name):
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=7)
        assert net(torch.empty(2, 3, *net.pretrained_cfg["input_size"][1:])).shape == (2, 7)
        side = 2 * net.feature_info[-1]["reduction"]
        assert net.forward_head(net.forward_features(torch.empty(2, 3, side, side)), pre_logits=True).shape == (
            2, net.head_hidden_size)  # fmt: skip
        net.reset_classifier(0)
    assert {"num_chs", "reduction", "module"} <= set(net.feature_info[0])
    assert net.no_weight_decay() is not None and net.group_matcher()
    assert not timm.model_entrypoint(name).__module__.startswith("timm.")
