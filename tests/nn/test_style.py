"""Statistics of maps and what changes them: the reference's numbers, closed forms, and half precision."""

import numpy as np
import pytest
import torch

from marrow.nn.style import EPS, dsu, efdmix, gradient_reverse, mixstyle, perturbed, spread, statistics, towards


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def x() -> torch.Tensor:
    return 2.0 + 3.0 * drawn(4, 5, 6, 7)


@pytest.fixture
def noise() -> tuple[torch.Tensor, torch.Tensor]:
    return drawn(4, 5, 1, 1, seed=1), drawn(4, 5, 1, 1, seed=2)


def test_dsu_and_its_gradient_are_the_references(golden):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "advstyle" / "dsu.npz").items()}
    x = case["x"].requires_grad_()
    y = dsu(x, (case["noise_mean"], case["noise_std"]))
    loss = (y - case["target"]).square().mean()
    loss.backward()
    torch.testing.assert_close(y, case["y"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(loss, case["loss"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(x.grad, case["grad_x"], rtol=1e-6, atol=1e-8)


def test_the_new_mean_is_exact_and_the_new_deviation_up_to_eps(x, noise):
    a, b = drawn(1, 5, 1, 1, seed=3), drawn(1, 5, 1, 1, seed=4)
    mean, std = statistics(x)
    y = perturbed(x, a, b, noise)
    new_mean, new_std = mean + noise[0] * a, std + noise[1] * b
    torch.testing.assert_close(y.mean((2, 3), keepdim=True), new_mean)
    variance = x.var((2, 3), keepdim=True)
    wanted = new_std.abs() * (variance / (variance + EPS)).sqrt()
    torch.testing.assert_close(y.std((2, 3), keepdim=True), wanted)


def test_the_gradients_are_those_of_the_function(noise):
    x = drawn(4, 5, 2, 3, seed=6).requires_grad_()
    a, b = drawn(1, 5, 1, 1, seed=7).requires_grad_(), drawn(1, 5, 1, 1, seed=8).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: perturbed(*given, noise), (x, a, b))
    assert torch.autograd.gradcheck(lambda given: dsu(given, noise), (x,))


def test_without_scales_nothing_changes(x, noise):
    nothing = torch.zeros(1, 5, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(perturbed(x, nothing, nothing, noise), x)


def test_the_reversed_gradient_is_minus_the_weight_times_the_plain_one():
    for weight in (1.0, 10.0):
        a = torch.tensor([1.0, -2.0], requires_grad=True)
        (gradient_reverse(a, weight) ** 3).sum().backward()
        torch.testing.assert_close(a.grad, -weight * 3 * a.detach() ** 2)


def test_a_direction_gets_the_length_of_an_intensity(x):
    direction, intensity = drawn(1, 5, 1, 1, seed=5), spread(statistics(x)[0])
    found = towards(direction, intensity)
    torch.testing.assert_close(found.norm(), intensity.norm())
    torch.testing.assert_close(found / found.norm(), direction / direction.norm())


def test_mixstyle_with_no_own_share_takes_the_partners_style(x):
    partner = torch.tensor([1, 2, 3, 0])
    share = torch.zeros(4, 1, 1, 1, dtype=torch.float64)
    mixed = statistics(mixstyle(x, share, partner))
    for found, wanted in zip(mixed, statistics(x)):
        torch.testing.assert_close(found, wanted[partner], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mixstyle(x, share + 1, partner), x)


def test_mixed_statistics_carry_no_gradient(x):
    x.requires_grad_()
    y = mixstyle(x, torch.full((4, 1, 1, 1), 0.3, dtype=torch.float64), torch.tensor([1, 0, 3, 2]))
    y.sum().backward()
    own, theirs = statistics(x.detach())[1], statistics(x.detach())[1][[1, 0, 3, 2]]
    torch.testing.assert_close(x.grad, ((0.3 * own + 0.7 * theirs) / own).expand_as(x))


def test_efdmix_with_no_own_share_has_the_partners_values_in_the_own_order(x):
    partner = torch.tensor([1, 2, 3, 0])
    y = efdmix(x, torch.zeros(4, 1, 1, 1, dtype=torch.float64), partner).flatten(2)
    torch.testing.assert_close(y.sort(-1).values, x.flatten(2)[partner].sort(-1).values)
    assert torch.equal(y.argsort(-1), x.flatten(2).argsort(-1))
    torch.testing.assert_close(efdmix(x, torch.ones(4, 1, 1, 1, dtype=torch.float64), partner), x)


def test_half_precision_is_raised_for_the_statistics_and_comes_back(noise):
    x = (1000 + 1e-3 * drawn(4, 5, 6, 7)).to(torch.bfloat16)  # constant in bfloat16, so its variance is that of eps
    y = dsu(x, tuple(n.float() for n in noise))
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
    assert statistics(x)[0].dtype == torch.float32
    torch.testing.assert_close(statistics(x)[1], torch.full((4, 5, 1, 1), EPS**0.5))
