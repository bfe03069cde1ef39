import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.nn.block_attention import Attended, attended
from marrow.nn.loose_tokens import (
    check_hidden,
    check_loose_tokens,
    dropping,
    kept,
    least_redundant,
    only,
    restricted,
    seen,
)
from marrow.nn.token_relations import token_relations


def net(name: str = "vit_tiny_patch16_224", depth: int = 6, **more) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone.create(name, img_size=32, patch_size=8, depth=depth, embed_dim=48, num_heads=3, **more).eval()


def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_of_two_equal_patches_one_leaves_first():
    draw = torch.Generator().manual_seed(0)
    patches = torch.eye(12)[torch.stack([torch.randperm(12, generator=draw) for _ in range(4)])]
    patches[:, 7] = patches[:, 3]
    places = least_redundant(patches, 11 / 12)
    assert places.shape == (4, 11)
    for row in places.tolist():
        assert row == sorted(row) and set(range(12)) - set(row) <= {3, 7}


def test_redundancy_is_the_mean_of_the_cosine_matrix():
    patches = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    cosine = torch.nn.functional.cosine_similarity(patches[:, :, None], patches[:, None], dim=-1)
    wanted = cosine.mean(-1).argsort(-1)[:, :5].sort(-1).values
    assert torch.equal(least_redundant(patches, 0.5), wanted)


@pytest.mark.parametrize(
    ("patches", "keep", "left"), [(196, 0.7, 138), (138, 0.7, 97), (10, 0.7, 7), (4, 1.0, 4), (3, 0.01, 1)]
)
def test_how_many_are_left(patches, keep, left):
    assert least_redundant(torch.randn(1, patches, 8), keep).shape == (1, left)


def test_kept_of_tokens_and_of_heads():
    x, places = torch.arange(2 * 6 * 3.0).view(2, 6, 3), torch.tensor([[0, 4], [1, 2]])
    assert torch.equal(kept(x, places, 1)[1], x[1, [0, 2, 3]])
    heads = x[:, None].expand(-1, 5, -1, -1)
    assert torch.equal(kept(heads, places, 1)[0, 3], x[0, [0, 1, 5]])


def test_relations_of_the_tokens_that_live_sum_to_one():
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 10, 6, generator=draw)
    teacher = Attended(torch.randn(2, 10, 5, generator=draw), q, k, v)
    places = torch.tensor([[0, 3, 8], [1, 2, 4]])
    relation = token_relations(restricted(teacher, places, 1))["qk"]
    assert relation.shape == (2, 4, 4, 4)
    torch.testing.assert_close(relation.sum(-1), torch.ones(2, 4, 4))
    whole = token_relations(teacher)["qk"][1, 2][:, [0, 2, 3, 5]][[0, 2, 3, 5]]
    torch.testing.assert_close(relation[1, 2], whole / whole.sum(-1, keepdim=True))


def test_each_picture_hides_its_own_share():
    torch.manual_seed(0)
    places = seen(8, 196, 0.75)
    assert places.shape == (8, 49) and len({tuple(row) for row in places.tolist()}) == 8
    for row in places.tolist():
        assert row == sorted(set(row)) and 0 <= row[0] and row[-1] < 196
    assert seen(2, 10, 0.26).shape == (2, 7)


def test_a_share_that_hides_all_or_none():
    check_hidden(0.75, 4, "x.mask")
    for share, hidden in ((0.1, 0), (0.9, 4), (-0.5, -2)):
        with pytest.raises(
            MarrowError, match=f"x.mask: a share of {share} hides {hidden} of 4 patches; some must be hidden"
        ):
            check_hidden(share, 4, "x.mask")


def test_blocks_see_only_the_tokens_that_stay():
    backbone, places = net(), torch.tensor([[0, 5], [1, 2], [3, 15]])
    with torch.no_grad(), attended(backbone, [0]) as found:
        whole = backbone(images())
    with torch.no_grad(), only(backbone, places), attended(backbone, [0]) as some:
        part = backbone.features(images())
    assert part.tokens.shape == (3, 2, 48)
    torch.testing.assert_close(some[0].x, kept(found[0].x, places, 1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(images()).pooled, whole.pooled)  # the hook is gone
        with only(backbone, None):
            torch.testing.assert_close(backbone(images()).pooled, whole.pooled)


def test_patches_leave_in_two_steps():
    backbone = net()
    with torch.no_grad(), attended(backbone, range(6)) as found, dropping(backbone, [1, 3], 0.7) as live:
        tokens = backbone.features(images()).tokens
    assert [found[i].x.shape[1] - 1 for i in range(6)] == [16, 16, 12, 12, 9, 9]
    assert tokens.shape == (3, 9, 48) and live[3].shape == (3, 9)
    for first, second in zip(live[1].tolist(), live[3].tolist()):
        assert set(second) < set(first) <= set(range(16))


def test_positions_inside_the_attention_are_refused():
    check_loose_tokens(net(depth=1), "mae.encoder")
    for name in ("eva02_tiny_patch14_224", "beit_base_patch16_224"):
        with pytest.raises(MarrowError, match=f"mae.encoder: mae needs a net whose tokens can be left out; {name} has"):
            check_loose_tokens(net(name, depth=1), "mae.encoder")
