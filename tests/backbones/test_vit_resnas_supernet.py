"""The sub-nets of a ViT-Res: what they cost, cut out by masks and by slicing, and the order of heads and hidden units."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from timm.layers import Mlp

from marrow.backbones.vit_res_blocks import SelfAttention
from marrow.backbones.vit_resnas import VitRes
from marrow.backbones.vit_resnas_masks import (
    Ranks,
    head_importance,
    hidden_importance,
    masked,
    masks_of,
    order,
    rearrange_heads,
    rearrange_hidden,
    sampled,
)  # fmt: skip
from marrow.backbones.vit_resnas_space import SearchSpace, macs, pieces
from marrow.backbones.vit_resnas_subnet import extracted, supernet
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.classify import Classify

NET = dict(
    img_size=32, patch_size=4, dims=(16, 24, 32), head_dims=(4, 4, 4), heads=((4,) * 3, (4,) * 3, (6,) * 2),
    hidden=((24,) * 3, (32,) * 3, (48,) * 2),
)  # fmt: skip
SHARES = {"dims": (1.0, 0.75), "heads": (1.0, 0.75, 0.5), "hidden": (1.0, 0.75, 0.5), "removable": (1,)}
X = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def task() -> Classify:
    torch.manual_seed(0)
    task = Classify(TimmBackbone.create("vit_res_tiny", **NET), classes=5)
    with torch.no_grad():
        for parameter in task.parameters():  # zeros and ones of an untrained net would hide a wrong slice
            parameter.add_(0.1 * torch.randn_like(parameter))
    return task.eval()


@pytest.fixture
def space(task) -> SearchSpace:
    return SearchSpace.of(supernet(task), **SHARES)


def cost_of(net: VitRes, space: SearchSpace):
    return lambda genes: sum(macs(net, piece) for piece in pieces(space.architecture(genes)))


def ranks_of(net: VitRes, moved: bool) -> list[list[Ranks]]:
    draw = torch.randperm if moved else torch.arange
    return [[Ranks(draw(b.attn.heads), draw(b.mlp.fc1.out_features)) for b in s.blocks] for s in net.stages]


def random_architectures(space: SearchSpace, count: int, seed: int = 0):
    return sampled(space, count, 1.0, torch.Generator().manual_seed(seed))


def test_a_cut_out_sub_net_says_what_the_masked_supernet_says(task, space):
    net, found = supernet(task), random_architectures(space, 6)
    with torch.inference_mode():
        with masked(net, masks_of(net, found, ranks_of(net, moved=False), each=1)):
            together = task({"image": X})["logits"]
        alone = [extracted(task, a)({"image": X[i : i + 1]})["logits"] for i, a in enumerate(found)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert len({len(stage) for a in found for stage in a.blocks}) > 1  # some lack a block
    assert not torch.allclose(together, task({"image": X})["logits"], atol=1e-3)


def test_so_it_does_after_its_units_were_ranked(task, space):
    torch.manual_seed(1)
    net, found = supernet(task), random_architectures(space, 3, seed=1)
    ranks = ranks_of(net, moved=True)
    whole = task({"image": X})["logits"]
    with torch.inference_mode():
        with masked(net, masks_of(net, found, ranks, each=2)):
            together = task({"image": X})["logits"]
        for stage, own in zip(net.stages, ranks):
            for block, rank in zip(stage.blocks, own):
                rearrange_heads(block.attn, rank.heads.argsort())
                rearrange_hidden(block.mlp, rank.hidden.argsort())
        alone = [extracted(task, a)({"image": X[2 * i : 2 * i + 2]})["logits"] for i, a in enumerate(found)]
    torch.testing.assert_close(task({"image": X})["logits"], whole)
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_the_gradients_of_a_masked_supernet_are_those_of_the_sub_net(task, space):
    net, [found] = supernet(task), random_architectures(space, 1, seed=2)
    small = extracted(task, found)
    small({"image": X})["logits"].square().sum().backward()
    with masked(net, masks_of(net, [found], ranks_of(net, moved=False), each=6)):
        task({"image": X})["logits"].square().sum().backward()
    (index, heads, _), width = found.blocks[0][0], found.dims[0]
    ours = net.stages[0].blocks[index].attn.qkv.weight.grad.unflatten(0, (3, 4, 4))
    theirs = supernet(small).stages[0].blocks[0].attn.qkv.weight.grad.unflatten(0, (3, heads, 4))
    torch.testing.assert_close(ours[:, :heads, :, :width], theirs, rtol=1e-4, atol=1e-5)
    assert not ours[:, heads:].any() and not ours[..., width:].any()
    assert not net.stages[1].first.patch_reduce.weight.grad[found.dims[1] :].any()


def test_without_masks_the_net_is_as_before(task, space):
    before, net = task({"image": X})["logits"], supernet(task)
    with masked(net, masks_of(net, random_architectures(space, 1), ranks_of(net, moved=False), each=6)):
        assert not torch.equal(task({"image": X})["logits"], before)
    assert torch.equal(task({"image": X})["logits"], before)


def test_macs_are_the_traced_ones(task, space):
    net = supernet(task)
    price = cost_of(net, space)
    rng = random.Random(0)
    genes = [tuple(rng.choice(c) for c in space.choices) for _ in range(5)] + list(space.ends())
    for own in genes:
        small = extracted(task, space.architecture(own))
        assert price(own) == cost(small.backbone).macs
    assert price(space.ends()[0]) < price(space.ends()[1])


def test_a_drawn_sub_net_meets_the_budget(task, space):
    price, rng = cost_of(supernet(task), space), random.Random(0)
    low, high = map(price, space.ends())
    budget = (low + high) / 2
    drawn = [space.drawn(rng, price, 0.975 * budget, budget) for _ in range(20)]
    assert all(0.975 * budget <= price(genes) <= budget for genes in drawn) and len(set(drawn)) > 10
    with pytest.raises(MarrowError, match="none of 1000 random sub-nets costs between"):
        space.drawn(rng, price, low + 1, low + 2)


def test_every_width_comes_equally_often_and_the_space_opens_with_the_warm_up(space):
    rng = torch.Generator().manual_seed(0)
    found = sampled(space, 6, 1.0, rng)
    assert sorted(a.dims[0] for a in found) == [12, 12, 12, 16, 16, 16]
    first_block = [dict((i, (h, m)) for i, h, m in a.blocks[2])[0] for a in found]
    assert sorted(h for h, _ in first_block) == [3, 3, 4, 4, 6, 6]
    assert sorted(len(a.blocks[0]) for a in found) == [2, 2, 2, 3, 3, 3]
    assert set(sampled(space, 6, 0.0, rng)) == {space.architecture(space.ends()[1])}
    half = sampled(space, 6, 0.5, rng)
    assert {h for a in half for stage in a.blocks for _, h, _ in stage} == {6, 4, 3}
    assert {h for a in half for _, h, _ in a.blocks[2]} == {6, 4} and {len(a.blocks[0]) for a in half} == {3}


def test_a_block_that_is_gone_has_one_form(space):
    genes = list(space.ends()[0])
    genes[6:9] = [2, 16, 0]  # the second block of the first stage
    assert space.tidy(genes)[6:9] == (4, 24, 0)
    assert [i for i, *_ in space.architecture(genes).blocks[0]] == [0, 2]


def test_the_papers_widths_come_out_of_the_shares():
    kinds = dict(dims=(256, 512, 1024), head_dims=(32, 48, 64), heads=((6,) * 6, (12,) * 6, (12,) * 6))
    with torch.device("meta"):
        net = VitRes(**kinds, hidden=((768,) * 6, (1536,) * 6, (3072,) * 6))
    shares = (1.0, 0.9167, 0.8333, 0.75, 0.6667, 0.5833, 0.5)
    space = SearchSpace.of(net, (1.0, 0.875, 0.75, 0.6875, 0.625), (1.0, 0.8333, 0.6667, 0.5), shares, None)
    assert space.dims == tuple(tuple(w * 2**i for w in (256, 224, 192, 176, 160)) for i in range(3))
    assert space.heads == ((6, 5, 4, 3), (12, 10, 8, 6), (12, 10, 8, 6))
    assert space.hidden == tuple(tuple(w * 2**i for w in range(768, 383, -64)) for i in range(3))
    assert space.removable == (frozenset({1, 3, 5}),) * 3


@pytest.mark.parametrize("name", ["mlp_channel_sort", "attn_head_sort"])
def test_golden_order(golden, name):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "vit_resnas" / f"{name}.npz").items()}
    before, after = ({k[len(p) :]: v for k, v in case.items() if k.startswith(p)} for p in ("w:", "after:"))
    if name.startswith("mlp"):
        module = Mlp(*case["w:fc1.weight"].T.shape)
        module.load_state_dict(before)
        rearrange_hidden(module, order(hidden_importance(module)))
    else:
        module = SelfAttention(8, int(case["num_heads"]), int(case["head_dim"]))
        module.load_state_dict(before)
        rearrange_heads(module, order(head_importance(module)))
    assert all(torch.equal(value, after[key]) for key, value in module.state_dict().items())


def test_new_weights_for_a_sub_net_are_not_the_supernets(task, space):
    [found] = random_architectures(space, 1)
    inherited, fresh = extracted(task, found), extracted(task, found, fresh=True)
    assert {k: v.shape for k, v in inherited.state_dict().items()} == {
        k: v.shape for k, v in fresh.state_dict().items()
    }
    name = "backbone.net.stages.0.blocks.0.mlp.fc1.weight"
    assert torch.equal(inherited.state_dict()[name], task.state_dict()[name][: found.blocks[0][0][2], : found.dims[0]])
    assert not torch.equal(fresh.state_dict()[name], inherited.state_dict()[name])
    with torch.no_grad():
        inherited.head.weight.zero_()
    assert task.head.weight.any()  # what is cut out is a copy


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"removable": (0, 1)}, "blocks 0 and 1 cannot both be removable"),
        ({"removable": (3,)}, "there is no block 3; blocks are 0 to 2"),
        ({"removable": (-1,)}, "there is no block -1"),
        ({"dims": (1.0, 0.5)}, "stage 1 could have 12 channels after 16"),
        ({"heads": (1.5,)}, "shares of the supernet's width above 0 and up to 1"),
        ({"hidden": ()}, "shares of the supernet's width"),
    ],
)
def test_a_space_that_does_not_fit_is_named(task, changed, words):
    with pytest.raises(MarrowError, match=words):
        SearchSpace.of(supernet(task), **{**SHARES, **changed})


def test_a_net_whose_blocks_differ_is_no_supernet(task):
    uneven = deepcopy(supernet(task))
    uneven.stages[1].blocks[0].mlp = Mlp(24, 40)
    with pytest.raises(MarrowError, match="the blocks of stage 1 of a supernet are all of one size"):
        SearchSpace.of(uneven, **SHARES)
    with pytest.raises(MarrowError, match="a task on a ViT-Res is needed, got Classify"):
        supernet(Classify(TimmBackbone.create("resnet10t"), classes=3))
