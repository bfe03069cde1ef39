"""Backbones of clips: nets of pictures over the frames, and inflated ones."""

import pytest
import torch

from marrow.core.contracts import Backbone
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.models import resolve
from marrow.core.spec import build, load_weights, saved_weights
from marrow.core.timm_backbone import TimmBackbone

SMALL = {"backbone": "resnet10t", "img_size": 32, "channels": [8, 16, 24, 32], "stem_width": 8}
VALUES = {"frames": 4, "stride": 2}


def clip_net(edit: str, of: dict = SMALL) -> Backbone:
    torch.manual_seed(0)
    return resolve({"edit": edit, "values": VALUES, "of": [of]}, {}, "net").eval()


def clips(count: int = 2, frames: int = 4) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, frames, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


@pytest.mark.parametrize("edit", ["inflate", "over_frames"])
def test_its_spec_builds_it_again(edit):
    net = clip_net(edit)
    again = build(net.spec).eval()
    load_weights(again, saved_weights(net))
    assert again.spec == net.spec and again.input == net.input and again.input.frames == 4
    out = net(clips(), maps=(0, -1))
    assert torch.equal(out.pooled, again(clips()).pooled) and out.pooled.shape == (2, net.dim)
    assert all(m.ndim == 5 for m in out.maps) and out.maps[1].shape[1] == 32
    torch.testing.assert_close(out.pooled, net(clips().float() / 255).pooled)


@pytest.mark.parametrize("of", [SMALL, {**SMALL, "output_stride": 16}, {**SMALL, "in_chans": 1}])
@pytest.mark.parametrize("edit", ["inflate", "over_frames"])
def test_a_clip_that_stands_still_is_its_picture(edit, of):
    torch.manual_seed(0)
    picture = resolve(of, {}, "net").eval()
    still = clips(2, 1)
    torch.testing.assert_close(clip_net(edit, of)(still.expand(-1, 4, -1, -1, -1)).pooled, picture(still[:, 0]).pooled)


def test_only_an_inflated_net_can_tell_the_order_of_frames():
    x = clips(2, 8)
    frames, inflated = clip_net("over_frames"), clip_net("inflate")
    torch.testing.assert_close(frames(x).pooled, frames(x.flip(1)).pooled)
    with torch.no_grad():  # its weights of other frames begin at zero
        inflated.net.layer4[0].conv1.weight[:, :, 0] += 0.1
    assert not torch.allclose(inflated(x).pooled, inflated(x.flip(1)).pooled, rtol=1e-2)


def test_frames_beside_the_middle_learn_from_the_first_step():
    net = clip_net("inflate").train()
    net(clips(4, 8)).pooled.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(net.net.conv1[0].weight.grad[:, :, tap].abs().max() > 0 for tap in range(5))


def test_r3d_50_has_the_papers_size():
    net = resolve(
        {"edit": "inflate", "values": {"frames": 16, "stride": 2}, "of": [{"backbone": "resnet50"}]},
        {},
        "net",
        meta=True,
    )
    assert sum(p.numel() for p in net.parameters()) == 31_672_128 == 23_508_032 + 37_632 + 8_126_464
    with torch.device("meta"):
        assert net(torch.empty(1, 16, 3, 224, 224), maps=(-1,)).maps[0].shape == (1, 2048, 8, 7, 7)
    assert cost(net).macs > 8 * cost(TimmBackbone.create("resnet50")).macs


def test_what_does_not_fit_is_refused():
    vit = {"backbone": "vit_tiny_patch16_224", "img_size": 32, "depth": 1}
    with pytest.raises(MarrowError, match="one ResNet of timm is inflated, got VisionTransformer.*over_frames"):
        clip_net("inflate", vit)
    with pytest.raises(MarrowError, match="is not known to be inflated"):
        clip_net("inflate", {"backbone": "ecaresnet26t", "img_size": 32})
    with pytest.raises(MarrowError, match="one backbone of pictures is put over frames"):
        clip_net("over_frames", {"edit": "over_frames", "values": VALUES, "of": [SMALL]})
    with pytest.raises(MarrowError, match="clips \\(B, T, C, H, W\\) are needed, got \\(2, 3, 32, 32\\)"):
        clip_net("over_frames")(clips()[:, 0])
