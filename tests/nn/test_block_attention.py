import pytest
import torch
from torch.nn import functional as F

from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.wrappers import taps
from marrow.nn.block_attention import (
    FEATURES,
    Plan,
    attended,
    block_index,
    check_bare,
    check_class_token,
    check_heads,
    check_same_grid,
    feature_width,
    freeze_behind,
    plan_of,
    split,
    up_to,
)

SMALL = {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}
# One of every way to make queries, keys and values: fused, with bias apart, each by itself, normalised, rotated, biased.
FAMILIES = {
    "vit_tiny_patch16_224": {},
    "vit_base_patch16_rpn_224": {},
    "deit3_small_patch16_224": {"qk_norm": True},
    "eva02_tiny_patch14_224": {},
    "eva02_base_patch14_224": {},
    "beit_base_patch16_224": {},
    "vit_relpos_small_patch16_224": {},
    "vit_base_patch16_rope_mixed_224": {},
    "vit_small_patch16_dinov3": {},
    "naflexvit_base_patch16_gap": {},
}


def net(name: str = "vit_tiny_patch16_224", **more) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone.create(name, **{"img_size": 32, **SMALL, **FAMILIES.get(name, {}), **more})


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_attention_of_every_family_is_rebuilt_from_what_is_read(name):
    backbone = net(name).eval()
    assert "qkv" in backbone.gives
    last = backbone.root.blocks[1].attn
    with torch.no_grad(), taps(backbone, "blocks.1.attn.proj") as out, attended(backbone, [0, 1]) as found:
        backbone(images())
    mine = found[1]
    bias = {"vit_relpos_small_patch16_224": lambda: last.rel_pos.get_bias(), "beit_base_patch16_224": last._get_rel_pos_bias
            if hasattr(last, "_get_rel_pos_bias") else None}.get(name)  # fmt: skip
    mixed = F.scaled_dot_product_attention(mine.q, mine.k, mine.v, attn_mask=bias() if bias else None)
    mixed = mixed.transpose(1, 2).flatten(2)
    wanted = last.proj(last.norm(mixed) if "norm" in dict(last.named_children()) else mixed)
    torch.testing.assert_close(wanted, out["blocks.1.attn.proj"])


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "xcit_nano_12_p8_224", "cait_xxs24_224", "resnet10t"])
def test_other_attention_is_no_qkv(name):
    with torch.device("meta"):
        backbone = TimmBackbone.create(name, img_size=224)
    assert "qkv" not in backbone.gives


def test_nothing_runs_behind_the_last_block_that_is_asked_for():
    backbone = net(depth=3)
    ran = []
    for index, block in enumerate(backbone.root.blocks):
        block.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
    found = up_to(backbone, images(), [0, 1])
    assert ran == [0] and found.keys() == {0, 1}
    whole = net(depth=3)
    with attended(whole, [0, 1]) as wanted:
        whole(images())
    assert all(torch.equal(a, b) for i in (0, 1) for a, b in zip(found[i], wanted[i]))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224"])
@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_is_what_the_whole_net_says_there(name, feature):
    backbone = net(name, depth=3).eval()
    block = backbone.root.blocks[1]
    with torch.no_grad(), taps(backbone, *(f"blocks.1{part}" for part in ("", ".norm1", ".attn", ".mlp"))) as inner:
        with attended(backbone, [1]) as whole:
            backbone(images())
    heads = {part: getattr(whole[1], part).transpose(1, 2).flatten(2) for part in ("q", "k", "v")}
    wanted = {"input": inner["blocks.1.norm1"], "attention": inner["blocks.1.attn"], "mlp": inner["blocks.1.mlp"],
              "block": inner["blocks.1"], **heads}  # fmt: skip
    ran = []
    block.mlp.register_forward_hook(lambda *_: ran.append("mlp"))
    backbone.root.blocks[2].register_forward_pre_hook(lambda *_: ran.append("next"))
    with torch.no_grad():
        found = up_to(backbone, images(), [0, 1], feature=feature)
    assert torch.equal(found[1].x, wanted[feature]) and torch.equal(found[1].q, whole[1].q)
    assert found[0].x.shape == (2, found[1].q.shape[2], 48) and ran == (["mlp"] if feature in ("mlp", "block") else [])
    assert feature_width(backbone, plan_of(backbone, "x.student"), feature) == found[1].x.shape[-1]


def test_features_of_heads_that_are_narrower_together_than_the_tokens():
    plan = plan_of(net(), "x.student")._replace(width=32)
    assert (feature_width(net(), plan, "v"), feature_width(net(), plan, "block")) == (32, 48)


def test_no_hook_stays_behind_after_an_error():
    backbone = net()
    with pytest.raises(AssertionError):
        up_to(backbone, torch.rand(1, 3, 40, 40), [1])
    up_to(backbone, images(), [1])
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in backbone.modules())


def test_another_number_of_heads_cuts_the_same_numbers():
    backbone = net()
    attention, x = backbone.root.blocks[0].attn, torch.randn(2, 5, 48)
    three, six = split(attention, x), split(attention, x, heads=6)
    assert six.q.shape == (2, 6, 5, 8)
    assert torch.equal(six.q.transpose(1, 2).flatten(2), three.q.transpose(1, 2).flatten(2))


def test_the_plan_of_a_net():
    assert plan_of(net(num_heads=6), "x.student") == (2, 1, 16, 6, 48, (4, 4))
    assert plan_of(net("vit_small_patch16_dinov3"), "x.student").prefix == 5


def test_a_net_without_such_attention_is_told_so():
    with pytest.raises(MarrowError, match=r"x\.student: x needs 'qkv' from student; resnet10t gives .* Try vit_\*"):
        plan_of(TimmBackbone.create("resnet10t", img_size=32), "x.student")


def test_blocks_are_counted_from_both_ends():
    plan = plan_of(net(), "x.student")
    assert [block_index(i, plan, "x.layer") for i in (-2, -1, 0, 1)] == [0, 1, 0, 1]
    with pytest.raises(MarrowError, match=r"x\.layer: there is no block 2 in a net of 2, which are 0 to 1"):
        block_index(2, plan, "x.layer")


def test_a_share_of_the_blocks_ends_with_a_block():
    plan = plan_of(net(), "x.student")._replace(depth=24)
    assert [block_index(share, plan, "x.layer") for share in (0.75, 0.5, 1.0, 0.05)] == [17, 11, 23, 0]
    assert block_index(1, plan, "x.layer") == 1
    for share in (0.02, 0.0, -0.5, 1.02, float("nan")):
        with pytest.raises(MarrowError, match=rf"x\.layer: {share} of 24 blocks ends with none of them"):
            block_index(share, plan, "x.layer")


def test_as_many_patches_in_another_grid():
    square, flat = (plan_of(net(img_size=size), "x.student") for size in ((32, 32), (16, 64)))
    assert square.patches == flat.patches == 16 and flat.grid == (2, 8)
    check_same_grid(square, square, "x")
    with pytest.raises(
        MarrowError, match="x: teacher 4 x 4 patch tokens, student 2 x 8: they need the same grid, image"
    ):
        check_same_grid(flat, square, "x")


def test_where_a_net_has_no_grid_the_patches_are_counted():
    free, square = Plan(2, 1, 16, 3, 48, None), Plan(2, 1, 16, 3, 48, (4, 4))
    check_same_grid(free, square, "x")
    with pytest.raises(MarrowError, match="x: teacher 9 patch tokens, student 16: they need the same grid"):
        check_same_grid(square, free._replace(patches=9), "x")


def test_a_class_token():
    for name in ("vit_tiny_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224"):
        check_class_token(net(name), "x.student")
    without = net(class_token=False, reg_tokens=1, global_pool="avg")
    with pytest.raises(MarrowError, match=r"x\.student: a class token is compared, and this net has none"):
        check_class_token(without, "x.student")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_base_patch14_224", "vit_base_patch16_rpn_224"])
def test_what_is_frozen_is_what_gets_no_gradient(name):
    backbone = net(name)
    freeze_behind(backbone, 1, "qkv")
    left = {n for n, p in backbone.named_parameters() if p.requires_grad}
    for p in backbone.parameters():
        p.requires_grad_(True)
    sum(part.sum() for part in up_to(backbone, images(), [1])[1][1:]).backward()
    assert left == {n for n, p in backbone.named_parameters() if p.grad is not None}
    assert "net.blocks.1.attn.proj.weight" not in left and "net.blocks.0.attn.proj.weight" in left


@pytest.mark.parametrize(("feature", "left"), [
    ("input", {"norm1"}), ("v", {"norm1", "attn.qkv"}), ("attention", {"norm1", "attn.qkv", "attn.proj"}),
    ("mlp", {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"}),
    ("block", {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"}),
])  # fmt: skip
def test_what_is_frozen_behind_a_feature(feature, left):
    backbone = net(depth=3)
    freeze_behind(backbone, 1, "x", feature)
    trained = {n.removeprefix("net.").rpartition(".")[0] for n, p in backbone.named_parameters() if p.requires_grad}
    assert {n.removeprefix("blocks.1.") for n in trained if n.startswith("blocks.1.")} == left
    assert not any(n.startswith(("blocks.2", "norm")) for n in trained) and "blocks.0.mlp.fc2" in trained


def test_heads_that_cannot_be_cut():
    with pytest.raises(MarrowError, match="the teacher has 5 heads, into which the student's width 48 cannot be cut"):
        check_heads(net(), 1, plan_of(net(), "x.student"), 5, "x")
    for name, how in (("deit3_small_patch16_224", "normalised"), ("eva02_tiny_patch14_224", "rotated")):
        backbone = net(name)
        check_heads(backbone, 1, plan_of(backbone, "x.student"), 3, "x")
        with pytest.raises(MarrowError, match=f"are {how} head by head"):
            check_heads(backbone, 1, plan_of(backbone, "x.student"), 6, "x")


def test_a_relative_bias_is_no_bare_attention():
    check_bare(net(), "x.model")
    with pytest.raises(MarrowError, match="beit_base_patch16_224 adds a bias of relative positions"):
        check_bare(net("beit_base_patch16_224"), "x.model")


def test_gradient_checkpointing_is_refused():
    backbone = net()
    backbone.checkpoint_gradients()
    with pytest.raises(MarrowError, match="checkpoint_gradients: .* runs them a second time"):
        up_to(backbone, images(), [1])
