"""AdvStyle: the reference's numbers, what its branches do, and that nothing of it is left in the product."""

import numpy as np
import pytest
import torch
from torch import nn

from marrow.core.contracts import Clock
from marrow.core.errors import MarrowError
from marrow.core.spec import build, load_weights, saved_weights
from marrow.nn.style import dsu
from marrow.tasks.classify import Classify
from marrow.teach.advstyle import BATCH, BRANCHES, LEARNED, SAME, AdvStyle, StylePlace

PAPER = ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4")
SMALL = {"img_size": 64, "channels": (8, 16, 24, 32), "stem_width": 8}


def method(name: str = "resnet10t", seed: int = 0, net: dict = SMALL, **arguments) -> AdvStyle:
    torch.manual_seed(seed)
    backbone = build({"source": f"timm:{name}", "args": dict(net)})
    return AdvStyle(Classify(backbone, classes=3), **arguments)


def batch(size: int = 64, count: int = 4) -> dict:
    draw = torch.Generator().manual_seed(1)
    return {"image": torch.rand(count, 3, size, size, generator=draw), "label": torch.arange(count) % 3}


def clock(step: int) -> Clock:
    return Clock(step=step, epoch=0, progress=0.0)


@pytest.mark.parametrize("name", ["adv_first_batch", "adv_given_params"])
def test_the_learned_branch_and_its_reversed_gradients_are_the_references(golden, name):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "advstyle" / f"{name}.npz").items()}
    place = StylePlace(case["x"].shape[1], "advstyle", float(case["adv_weight"])).double()
    if not case["initialised_from_batch"]:
        with torch.no_grad():
            place.mean_scale.copy_(case["adv_mean_std"])
            place.std_scale.copy_(case["adv_std_std"])
            place.first.fill_(False)
    x = case["x"].requires_grad_()
    y = place(x, LEARNED, (case["noise_mean"], case["noise_std"]))
    (y - case["target"]).square().mean().backward()
    near = {"rtol": 1e-6, "atol": 1e-8}
    torch.testing.assert_close(y, case["y"], **near)
    torch.testing.assert_close(x.grad, case["grad_x"], **near)
    torch.testing.assert_close(place.mean_scale.detach(), case["adv_mean_std"], **near)
    torch.testing.assert_close(place.mean_scale.grad, case["grad_adv_mean_std"], **near)
    torch.testing.assert_close(place.std_scale.grad, case["grad_adv_std_std"], **near)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 2176), ("resnet50", 7936)])
def test_the_papers_places_have_the_papers_number_of_parameters(name, count):
    with torch.device("meta"):
        made = method(name, net={}, at=PAPER)
    assert sum(p.numel() for p in made.styles.parameters()) == count


@pytest.mark.parametrize("kind", BRANCHES)
def test_eval_leaves_every_map_alone(kind):
    x = torch.randn(3, 4, 5, 5)
    place = StylePlace(4, kind, 10.0).eval()
    assert all(place(x, branch) is x for branch in (SAME, LEARNED, BATCH))


def test_the_scales_begin_once_and_the_flag_is_kept():
    x, other = torch.randn(4, 3, 5, 5), 9 * torch.randn(4, 3, 5, 5)
    place = StylePlace(3, "advstyle", 1.0)
    place(x, LEARNED)
    begun = place.mean_scale.detach().clone()
    wanted = x.mean((2, 3), keepdim=True).var(0, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(begun, wanted)
    again = StylePlace(3, "advstyle", 1.0)
    again.load_state_dict(place.state_dict())
    again(other, LEARNED)
    assert torch.equal(again.mean_scale, begun)


def test_a_direction_has_the_batchs_intensity():
    x = torch.randn(6, 3, 5, 5)
    noise = (torch.ones(6, 3, 1, 1), torch.zeros(6, 3, 1, 1))
    place = StylePlace(3, "direction", 1.0)
    place(x, LEARNED, noise)
    with torch.no_grad():
        place.mean_scale.mul_(100.0)
    moved = (place(x, LEARNED, noise) - x).mean((2, 3))[0]
    intensity = x.mean((2, 3)).var(0).add(1e-6).sqrt()
    torch.testing.assert_close(moved.norm(), intensity.norm(), rtol=1e-4, atol=1e-5)


def test_the_scales_climb_the_loss_that_the_net_descends():
    """The gradient at the scales is -adv_weight times that of the same step without reversal."""
    x, noise = torch.randn(5, 3, 6, 6), (torch.randn(5, 3, 1, 1), torch.randn(5, 3, 1, 1))
    found = []
    for weight in (1.0, 10.0):
        place = StylePlace(3, "advstyle", weight)
        place(x, LEARNED, noise).pow(3).sum().backward()
        found.append(place.mean_scale.grad)
    torch.testing.assert_close(found[1], 10 * found[0])
    place = StylePlace(3, "advstyle", 1.0)
    place(x, LEARNED, noise)
    start = place(x, LEARNED, noise).pow(3).sum()
    start.backward()
    with torch.no_grad():
        place.mean_scale -= 1e-4 * place.mean_scale.grad  # what an optimiser that descends does
    assert place(x, LEARNED, noise).pow(3).sum() > start


def test_branches_follow_the_clock_and_come_equally_often():
    made = method()
    seen = {branch: 0 for branch in BRANCHES["advstyle"]}
    for step in range(150):
        for draw in torch.rand(len(made.places), generator=clock(step).rng).tolist():
            seen[BRANCHES["advstyle"][int(draw * 3)]] += 1
    share = [n / sum(seen.values()) for n in seen.values()]
    assert all(abs(s - 1 / 3) < 0.05 for s in share)
    losses = []
    for each in (made, method()):
        torch.manual_seed(0)
        losses.append(each.train()(batch(), clock(3)).losses["cross_entropy"])
    assert torch.equal(*losses)


def test_a_step_without_any_change_is_the_plain_step():
    made = method(at=("layer1",))
    same = next(s for s in range(99) if torch.rand(1, generator=clock(s).rng) < 1 / 3)
    plain = made.task.losses(made.task(batch()), batch())["cross_entropy"]
    assert torch.equal(made(batch(), clock(same)).losses["cross_entropy"], plain)
    other = next(s for s in range(99) if torch.rand(1, generator=clock(s).rng) > 0.7)
    assert not torch.equal(made(batch(), clock(other)).losses["cross_entropy"], plain)


@pytest.mark.parametrize(("name", "net"), [
    ("resnet10t", SMALL),
    ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 4, "depths": (1, 1), "embed_dim": 24, "num_heads": (2, 4)}),
    ("convnext_atto", {"img_size": 64, "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
])  # fmt: skip
def test_a_hook_changes_the_map_of_each_place(name, net):
    """Where channels come last too: the changed map is what the next layer sees."""
    made = method(name, net=net, style="dsu")
    place = made.places[1]
    module = made.task.backbone.root.get_submodule(place.module)
    seen = []
    torch.manual_seed(5)
    made.train()
    for draw in (0.9, 0.0):
        with made._restyling([0.0, draw] + [0.0] * (len(made.places) - 2)):
            hook = module.register_forward_hook(
                lambda m, args, out: seen.append(out.permute(0, 3, 1, 2) if place.last else out)
            )
            made.task(batch(net["img_size"]))
            hook.remove()
    changed, plain = seen
    assert changed.shape == plain.shape and changed.shape[1] == place.channels
    assert not torch.allclose(changed.mean((2, 3)), plain.mean((2, 3)), atol=1e-3)


def test_nothing_of_it_is_in_the_product():
    made = method()
    keys = set(saved_weights(made.task))
    made.train()
    made(batch(), clock(0))
    product = made.product()
    assert product is made.task and set(saved_weights(product)) == keys
    assert not [m for m in product.modules() if m._forward_hooks or isinstance(m, StylePlace)]
    again = build(product.spec)
    load_weights(again, saved_weights(product))
    assert torch.equal(again.eval()(batch())["logits"], product.eval()(batch())["logits"])


def test_a_place_that_the_net_goes_around_is_named():
    """timm checkpoints the blocks of a stage one by one, so a hook on the stage would never be called."""
    made = method(style="dsu", at=("layer1",)).train()
    made.task.backbone.checkpoint_gradients()
    acts = next(s for s in range(99) if torch.rand(1, generator=clock(s).rng) > 0.5)
    with pytest.raises(MarrowError, match="the net did not run through 'layer1' as a module"):
        made(batch(), clock(acts))


def test_every_scale_has_a_gradient_whatever_the_branches_are():
    made = method().train()
    for step in range(3):
        made.zero_grad()
        made(batch(), clock(step)).losses["cross_entropy"].backward()
        assert all(p.grad is not None for p in made.parameters())


def test_dsu_is_what_the_place_does():
    x, noise = torch.randn(3, 4, 5, 5), (torch.randn(3, 4, 1, 1), torch.randn(3, 4, 1, 1))
    assert torch.equal(StylePlace(4, "dsu", 1.0)(x, BATCH, noise), dsu(x, noise))


def test_a_transformers_patch_tokens_are_restyled_and_its_class_token_left_alone():
    net = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 3}
    made = method("vit_tiny_patch16_224", net=net, style="dsu").train()
    assert [p.module for p in made.places] == ["patch_embed.proj", "blocks.0", "blocks.1"]
    seen = []
    made.task.backbone.net.blocks[0].register_forward_hook(lambda m, i, out: seen.append(out))  # before the restyling
    made.task.backbone.net.blocks[1].register_forward_pre_hook(lambda m, i: seen.append(i[0]))  # after it
    for step in range(8):
        del seen[:]
        made(batch(32), clock(step))
        before, after = seen
        torch.testing.assert_close(after[:, :1], before[:, :1], rtol=0, atol=0)
        if not torch.equal(after, before):
            # Each channel of an image has another mean and deviation over its 16 patches, and nothing else.
            a, b = ((x[:, 1:] - x[:, 1:].mean(1, True)) / x[:, 1:].std(1, keepdim=True) for x in (before, after))
            torch.testing.assert_close((a * b).mean(1).abs(), (a * a).mean(1), rtol=1e-3, atol=1e-3)
            return
    raise AssertionError("no draw restyled the first block")


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="advstyle.adv_weight: 0 is not above 0"):
        method(adv_weight=0)
    with pytest.raises(MarrowError, match="one image alone has no other style"):
        method().train()(batch(count=1), clock(0))
    with pytest.raises(MarrowError, match="makes maps of 1 x 1"):
        method(net={**SMALL, "img_size": 32}, at=("layer4",))
    with pytest.raises(MarrowError, match="advstyle needs maps"):
        method("pvt_tiny", net={"img_size": 64})
    nothing = Classify(build({"source": "timm:resnet10t", "args": dict(SMALL)}), classes=3)
    nothing.backbone = nn.Identity()
    with pytest.raises(MarrowError, match="classify has 0 backbones"):
        AdvStyle(nothing)
