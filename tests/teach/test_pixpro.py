import numpy as np
import pytest
import torch
from torch.nn import functional as F

from marrow.core.contracts import Clock
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.nn.dense_encoder import likeness
from marrow.nn.momentum import momentum_at
from marrow.nn.pixel_pairs import positive_pairs
from marrow.teach.pixpro import PixPro, Propagation, consistency, propagate

FIRST = Clock(step=0, epoch=0, progress=0.0)
GRID = (7, 7)
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
SMALL = {"hidden": 16, "out": 8}


def net(name: str = "vit_tiny_patch16_224", size: int = 32, **args) -> TimmBackbone:
    torch.manual_seed(0)
    tiny = {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3} if name.startswith("vit") else {}
    return TimmBackbone.create(name, img_size=size, **tiny, **args)


def method(**args) -> PixPro:
    torch.manual_seed(0)
    return PixPro(net(), **SMALL, **args)


def batch(count: int = 4, seed: int = 0) -> dict:
    draw = torch.Generator().manual_seed(seed)
    views = torch.randint(0, 256, (2, count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, 0.7, 0.7], [0.2, 0.3, 1.0, 1.0]])[:, None].expand(2, count, 4)
    return {"view_1": views[0], "view_2": views[1], "box_1": boxes[0], "box_2": boxes[1]}


def unit_maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


@pytest.mark.parametrize("name", ["consistency_loss_7x7", "consistency_loss_flip"])
def test_the_loss_and_its_gradient_are_the_published_ones(golden, name):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "pixpro" / f"{name}.npz").items()}
    q = case["q"].requires_grad_()
    positive = positive_pairs(case["coord_q"], case["coord_k"], GRID, GRID, case["pos_ratio"].item())
    loss = consistency(q, case["k"], positive)
    loss.backward()
    torch.testing.assert_close(loss, case["loss"], rtol=1e-6, atol=1e-8)
    # The published gradient takes q as it is, here it is made a unit vector first, which takes away what is along q.
    along = (case["grad_q"] * case["q"].detach()).sum(1, keepdim=True) * case["q"].detach()
    torch.testing.assert_close(q.grad, case["grad_q"] - along, rtol=1e-6, atol=1e-8)


def test_the_propagation_is_the_published_one(golden):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "pixpro" / "propagation_p2_linear.npz").items()}
    value = F.conv2d(case["x"], case["value_weight"][:, :, None, None], case["value_bias"])
    torch.testing.assert_close(propagate(case["x"], value, case["p"].item()), case["y"], rtol=1e-6, atol=1e-8)


def test_the_same_view_twice():
    """Horizontal neighbours are 1 / sqrt(2) of a diagonal apart: 0.7 keeps each place alone, 0.72 adds four neighbours."""
    alone, five = (positive_pairs(WHOLE, WHOLE, GRID, GRID, ratio) for ratio in (0.7, 0.72))
    assert torch.equal(alone[0], torch.eye(49, dtype=torch.bool))
    assert five.sum() == 49 + 2 * 84
    x = unit_maps(1, 5, *GRID)
    assert consistency(x, x, alone).item() == pytest.approx(-2.0, abs=1e-6)


def test_a_mirrored_view_with_mirrored_features_loses_the_same():
    one, two = torch.tensor([[0.1, 0.0, 0.8, 0.9]]), torch.tensor([[0.3, 0.2, 1.0, 1.0]])
    y, x = unit_maps(1, 5, *GRID), unit_maps(1, 5, *GRID, seed=1)
    plain = consistency(y, x, positive_pairs(one, two, GRID, GRID, 0.7))
    mirrored = consistency(y, x.flip(-1), positive_pairs(one, two[:, [2, 1, 0, 3]], GRID, GRID, 0.7))
    unmoved = consistency(y, x, positive_pairs(one, two[:, [2, 1, 0, 3]], GRID, GRID, 0.7))
    torch.testing.assert_close(plain, mirrored)
    assert abs(plain - unmoved) > 1e-3


def test_views_that_share_no_place_have_neither_loss_nor_gradient():
    left, right = torch.tensor([[0.0, 0.0, 0.4, 1.0]]), torch.tensor([[0.6, 0.0, 1.0, 1.0]])
    y = unit_maps(1, 5, *GRID).requires_grad_()
    loss = consistency(y, unit_maps(1, 5, *GRID, seed=1), positive_pairs(left, right, GRID, GRID, 0.7))
    loss.backward()
    assert loss == 0 and y.grad.abs().max() == 0


def test_the_cell_that_counts_is_the_larger_one():
    small = torch.tensor([[0.499, 0.499, 0.501, 0.501]])
    near = positive_pairs(WHOLE, small, GRID, GRID, 0.7)
    assert near[0, 24].all() and near.any(2).sum() == 1  # the whole small view lies in the middle cell of the other


def test_propagation_of_equal_and_of_orthogonal_places():
    vector = torch.tensor([3.0, 4.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    smoothed = Propagation(3, gamma=2.0, layers=0)(vector)
    torch.testing.assert_close(F.normalize(smoothed, dim=1), vector / 5)
    apart = torch.eye(4).view(1, 4, 2, 2)
    torch.testing.assert_close(Propagation(4, gamma=2.0, layers=0)(apart), apart)


def test_propagation_below_one_has_a_gradient_at_zero():
    x = torch.eye(4).view(1, 4, 2, 2).requires_grad_()
    propagate(x, x, 0.5).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_the_copy_follows_more_and_more_slowly():
    assert momentum_at(0.0) == pytest.approx(0.99) and momentum_at(1.0) == 1.0
    assert momentum_at(0.5, 0.9) == pytest.approx(0.95)
    trained = method()
    weight = trained.online.pixels[0].weight
    with torch.no_grad():
        before = weight.clone()
        weight.add_(1.0)
    trained.after_step(FIRST)
    torch.testing.assert_close(trained.copy.module.pixels[0].weight, before + 0.01)


def test_heads_have_the_papers_sizes():
    with torch.device("meta"):
        found = PixPro(TimmBackbone.create("resnet50", img_size=224))
    assert sum(p.numel() for p in found.online.pixels.parameters()) == 9_449_728
    assert sum(p.numel() for p in found.propagation.parameters()) == 65_792


def test_both_branches_add_up_and_each_can_be_left_out():
    losses = [method(pixel_weight=a, instance_weight=b)(batch(), FIRST).losses for a, b in ((1, 0), (0, 1), (1, 0.5))]
    assert [set(each) for each in losses] == [{"pixels"}, {"instance"}, {"pixels", "instance"}]
    assert all(-4.0 <= value.item() <= 4.0 for each in losses for value in each.values())


def test_only_what_is_trained_gets_a_gradient():
    trained = method(instance_weight=1.0)
    step = trained(batch(), FIRST)
    sum(step.losses.values()).backward()
    assert not [n for n, p in trained.named_parameters() if p.requires_grad != (p.grad is not None)]
    frozen = {n for n, p in trained.online.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"net.norm.weight", "net.norm.bias"}  # behind the last block's map


def test_an_earlier_stage_leaves_the_later_ones_alone():
    backbone = net("resnet10t", size=64, channels=(8, 16, 24, 32), stem_width=8)
    PixPro(backbone, stage=-2, **SMALL)
    frozen = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"layer4"}


def test_statistics_of_later_stages_stay_as_they_are():
    backbone = net("resnet10t", size=64, channels=(8, 16, 24, 32), stem_width=8)
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    trained = PixPro(backbone, stage=-2, **SMALL).train()
    trained(batch(), FIRST)
    moved = {k.split(".")[1] for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert {"bn1", "layer3"} <= moved and "layer4" not in moved


def test_likeness_of_equal_and_of_orthogonal_pictures():
    assert likeness(torch.ones(3, 4, 2, 2)) == pytest.approx(1.0)
    assert likeness(torch.eye(4).view(4, 4, 1, 1)) == pytest.approx(0.0, abs=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(
        MarrowError, match="needs a map of more than one place; stage -1 of resnet10t is 1 x 1 .*larger images"
    ):
        PixPro(net("resnet10t", channels=(8, 16, 24, 32), stem_width=8), **SMALL)
    with pytest.raises(MarrowError, match="^pixpro.stage: there is no stage 7; the backbone has 0 to 1"):
        method(stage=7)
    with pytest.raises(MarrowError, match="^pixpro.layers: -1 layers"):
        method(layers=-1)
    with pytest.raises(MarrowError, match="leave nothing to learn"):
        method(pixel_weight=0.0)
    with pytest.raises(MarrowError, match="^pixpro.momentum: a momentum of 1.0 is outside"):
        method(momentum=1.0)
    for name in ("hidden", "out"):
        with pytest.raises(MarrowError, match=f"^pixpro.{name}: a width of -1 is below 1"):
            PixPro(net(), **SMALL | {name: -1})
    trained = method()
    with pytest.raises(MarrowError, match="a batch of one image"):
        trained(batch(1), FIRST)
    with pytest.raises(MarrowError, match="the batch has no 'view_1'; two cuts"):
        trained({"image": batch()["view_1"]}, FIRST)
    with pytest.raises(MarrowError, match="as if they were in pixels"):
        trained({**batch(), "box_2": 32 * batch()["box_2"]}, FIRST)
