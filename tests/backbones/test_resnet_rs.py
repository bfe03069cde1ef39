import pytest
import timm
import torch

from marrow.backbones.resnet_rs import WIDTHS, scale
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone

PARAMETERS = {50: 35691912, 101: 63618696, 152: 86621576, 200: 93209992, 270: 129861448, 350: 163956168, 420: 191891656}


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_timms_networks_are_the_papers(depth):
    with torch.device("meta"):
        net = timm.create_model(f"resnetrs{depth}")
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[depth]
    assert net.maxpool[0].stride == (2, 2) and net.layer2[0].downsample[0].kernel_size == 2
    assert net.layer1[0].se.fc1.out_channels == 64  # a quarter of the block's output


@pytest.mark.slow
@pytest.mark.parametrize("depth", [200, 270, 350, 420])
def test_timms_deep_networks_are_the_papers(depth):
    with torch.device("meta"):
        net = timm.create_model(f"resnetrs{depth}")
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[depth]


def test_a_long_training_grows_deep_and_a_short_one_wide():
    deep, wide = scale("resnet", 6e9, epochs=350), scale("resnet", 6e9, epochs=10)
    assert deep.width == 1 and deep.depth > wide.depth and wide.width > 1
    assert deep.resolution == wide.resolution == 192
    assert max(deep.macs, wide.macs) <= 6e9
    assert "depth first" in deep.why and "width first" in wide.why


def test_it_is_the_largest_that_fits():
    found = scale("resnet", 2e9)
    with torch.device("meta"):
        deeper = TimmBackbone.create("resnet50", img_size=found.resolution)
        same = TimmBackbone.create(found.backbone.pop("backbone"), **found.backbone)
    assert found.depth == 34 and cost(deeper).macs > 2e9 >= found.macs
    assert (cost(same).macs, cost(same).params) == (found.macs, found.params)


def test_resolution_grows_slowly():
    sides = [scale("resnet", budget * 1e9).resolution for budget in (4, 11, 20, 60)]
    assert sides == [160, 192, 224, 256]


def test_a_given_resolution_stays_and_small_budgets_get_narrow_nets():
    found = scale("resnet", 20e6, resolution=32)
    assert (found.depth, found.resolution) == (18, 32) and found.width in WIDTHS and found.width < 1
    assert found.backbone["channels"] == [int(found.width * c) for c in (64, 128, 256, 512)]
    assert TimmBackbone.create(**{"name": found.backbone.pop("backbone"), **found.backbone}).dim == found.width * 512
    assert scale("resnet", 20e6).resolution < 160


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnett", 1e9), "unknown family 'resnett'; did you mean 'resnet"),
        (
            ("resnet", 1e5),
            "no resnet costs 1e[+]05 multiply-adds; the nearest, depth 18 at width 0.25 and 32 px, costs",
        ),
        (("resnet", -1), "not a positive one"),
    ],
)
def test_what_does_not_fit_is_named(arguments, words):
    with pytest.raises(MarrowError, match=words):
        scale(*arguments)
