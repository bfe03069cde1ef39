import pytest
import torch

import marrow.backbones  # noqa: F401  registers cifar_resnet20
from marrow.core.contracts import Backbone, Features
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.nn.pyramid import inner_map, pyramid


class Flat(Backbone):
    """Pixels as features."""

    gives = frozenset({"pooled"})

    def features(self, x, *, maps=()):
        return Features(x.flatten(1))


SMALL = {"channels": (8, 16, 24, 32), "stem_width": 8}


def strides(name: str, size: int | tuple[int, int] = 64, **args) -> list[float]:
    return [level.stride for level in pyramid(TimmBackbone.create(name, img_size=size, **args), "segment.backbone")]


def test_the_last_map_of_every_stride_from_a_quarter_on():
    assert strides("resnet10t", **SMALL) == [4, 8, 16, 32]
    assert strides("resnet10t", output_stride=16, **SMALL) == [4, 8, 16]
    assert strides("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)) == [4, 8, 16, 32]
    assert strides("cifar_resnet20", 32) == [1, 2, 4], "all, where only one is coarse enough"
    assert strides("vit_tiny_patch16_224", depth=3) == [16]


def test_stages_and_channels_are_those_of_the_maps():
    backbone = TimmBackbone.create("resnet10t", img_size=(64, 96), output_stride=16, **SMALL)
    levels = pyramid(backbone, "segment.backbone")
    maps = backbone.eval()(torch.rand(1, 3, 64, 96), maps=[level.stage for level in levels]).maps
    assert [m.shape[1] for m in maps] == [level.channels for level in levels] == [8, 16, 32]
    assert levels[-1].stage == 4, "two stages have stride 16, the deeper one is taken"


def test_a_backbone_without_maps_is_refused_in_a_sentence():
    with pytest.raises(
        MarrowError, match="segment.backbone: 'maps' are needed from the backbone; this one gives pooled"
    ):
        pyramid(Flat(), "segment.backbone")


def test_an_inner_module_must_make_a_map():
    backbone = TimmBackbone.create("resnet10t", img_size=64, **SMALL)
    assert inner_map(backbone, "layer3", "segment.assistant") == (24, False)
    with pytest.raises(MarrowError, match=r"'global_pool' makes no map .* but \(1, 32\)"):
        inner_map(backbone, "global_pool", "segment.assistant")
    with pytest.raises(MarrowError, match="no module 'layer9'.*did you mean 'layer"):
        inner_map(backbone, "layer9", "segment.assistant")
    swin = TimmBackbone.create("swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(1, 1), embed_dim=24,
                               num_heads=(2, 4))  # fmt: skip
    assert inner_map(swin, "layers.0", "segment.assistant") == (24, True)
