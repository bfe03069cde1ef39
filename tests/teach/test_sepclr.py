import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from marrow.core.contracts import Backbone, Clock, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.data.blended import Blended
from marrow.nn.conditional_gaussian import ConditionalGaussian
from marrow.nn.separation import CONTINUOUS, DISCRETE, align, attribute_align, joint, uniform, without_background
from marrow.teach.sepclr import TAU, SepCLR, known_terms, terms

FIRST = Clock(step=0, epoch=0, progress=0.0)
WEIGHTS = {"common_align": 1, "common_uniform": 2, "salient_align": 1000, "salient_uniform": 2000, "info_less": 1000}


class Flat(Backbone):
    """A linear layer on the pixels of a 4 x 4 grey picture."""

    spec, dim, gives, input = {"source": "test:flat"}, 6, frozenset({"pooled"}), Input(size=(4, 4), channels=1)

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(16, 6)

    def features(self, x, *, maps=()):
        return Features(self.linear(x.flatten(1).float() / 255))


class Pictures(Source):
    def __init__(self, count: int = 16, seed: int = 0):
        draw = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (count, 1, 4, 4), generator=draw, dtype=torch.uint8)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "label": index % 3, "length": index / 10}

    def fraction(self, index: int) -> float:
        return (index + self.seed / 2) / len(self)

    def name(self, index: int) -> str:
        return f"picture {index} of {self.seed}"


def method(**args) -> SepCLR:
    torch.manual_seed(0)
    return SepCLR(Flat(), Flat(), dim=4, salient_dim=3, **args)


def batch(count: int = 10) -> dict:
    draw = torch.Generator().manual_seed(1)
    views = torch.randint(0, 256, (2, 2, count, 1, 4, 4), generator=draw, dtype=torch.uint8)
    labels = {"label": torch.arange(count) % 3, "length": torch.arange(count) / 10}
    return {
        name: {"view_1": views[i, 0], "view_2": views[i, 1], **labels}
        for i, name in enumerate(("background", "target"))
    }


def test_the_terms_and_their_gradients_are_the_published_ones(golden):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "sepclr" / "all_terms.npz").items()}
    c1, c2, s1, s2 = codes = [
        case[f"{kind}_{view}"].requires_grad_() for kind in ("common", "salient") for view in (1, 2)
    ]
    is_target = case["is_target"] > 0
    unit = [F.normalize(c, dim=1) for c in (c1, c2)]
    found = terms(*unit, s1, s2, is_target)
    teachers = [without_background(s, is_target) for s in (s1, s2)]
    found["joint_entropy"] = sum(joint(c, t, TAU) for c, t in zip(unit, teachers)) / 2
    total = sum({**WEIGHTS, "joint_entropy": 10}[name] * term for name, term in found.items())
    for name, term in {**found, "total": total}.items():
        wanted = case["salient_info_less" if name == "info_less" else name]
        torch.testing.assert_close(term.detach(), wanted, rtol=1e-6, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")
    total.backward()
    for name, code in zip(("common_1", "common_2", "salient_1", "salient_2"), codes):
        torch.testing.assert_close(code.grad, case[f"grad_{name}"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("attribute", "name", "gradient", "width"), [
    ("y", "sup_align", "grad_sup", CONTINUOUS), ("y_discrete", "discrete_sup_align", "grad_discrete", DISCRETE)])  # fmt: skip
def test_the_terms_on_known_attributes_are_the_published_ones(golden, attribute, name, gradient, width):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "sepclr" / "supervised_align.npz").items()}
    x = case["x"].requires_grad_()
    loss = attribute_align(x, case[attribute], width)
    loss.backward()
    torch.testing.assert_close(loss.detach(), case[name], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(x.grad, case[gradient], rtol=1e-6, atol=1e-8)


def test_closed_forms():
    same, one = torch.ones(5, 3, dtype=torch.float64), torch.tensor([[1.0, 0.0]])
    assert uniform(same, TAU).item() == pytest.approx(0.0, abs=1e-9)
    assert uniform(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), TAU).item() == pytest.approx(-4.0)
    assert joint(same, same, TAU).item() == pytest.approx(0.0, abs=1e-9)
    far = 1e3 * torch.eye(5, dtype=torch.float64)
    assert joint(far, far, TAU).item() == pytest.approx(-math.log(5))
    assert align(one, -one, TAU).item() == pytest.approx(4.0)


def test_equal_codes_have_finite_gradients():
    code = torch.zeros(4, 3, requires_grad=True)
    (uniform(code, TAU) + joint(code, code, TAU)).backward()
    assert code.grad.abs().max() == 0


def test_backgrounds_are_moved_by_the_info_less_term_alone():
    code = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    is_target = torch.tensor([True, False] * 3)
    found = terms(F.normalize(code.detach(), dim=1), F.normalize(code.detach(), dim=1), code, code + 1, is_target)
    for name, term in found.items():
        if term.requires_grad:
            [gradient] = torch.autograd.grad(term, code, retain_graph=True)
            assert (gradient[~is_target].abs().max() > 0) == (name == "info_less")


def test_an_attribute_pulls_together_what_shares_it():
    """Two targets of class 0 at 0 and 2, one of class 1 at 5: only the first pair counts, over three pairs."""
    s = torch.tensor([[0.0], [2.0], [5.0], [3.0]])
    is_target = torch.tensor([True, True, True, False])
    found = known_terms(s, s, is_target, [torch.tensor([0, 0, 1])])
    assert found["salient_align"].item() == pytest.approx((4 / 3 + 9) / 2)
    zeroed = torch.tensor([[0.0], [2.0], [5.0], [0.0]])
    assert found["salient_uniform"].item() == pytest.approx(uniform(zeroed, TAU).item())


def test_the_bound_is_zero_for_a_code_that_tells_nothing_and_trains_codes_only():
    torch.manual_seed(0)
    guess = ConditionalGaussian(2, 1)
    c, s = torch.randn(7, 2, requires_grad=True), torch.randn(7, 1)
    mean, spread = guess(c)
    pairs = torch.stack([(-(s[j] - mean).square() / spread.exp() / 2).sum(1) for j in range(7)])  # [j, i]
    wanted = (pairs.diagonal() - pairs.mean(0)).mean()
    bound = guess.bound(c, s)
    torch.testing.assert_close(bound, wanted)
    bound.backward()
    assert c.grad.abs().max() > 0 and all(p.grad is None for p in guess.parameters())
    assert guess.bound(c, torch.ones(7, 1)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("args", "names"), [
    ({}, {"joint_entropy"}), ({"leakage": "k-mi"}, {"information"}), ({"leakage": "vclub"}, {"information", "surprise"}),
    ({"leakage": "none"}, set())])  # fmt: skip
def test_every_way_to_keep_the_codes_apart_trains_everything(args, names):
    trained = method(**args)
    step = trained(batch(), FIRST)
    assert set(step.losses) == set(WEIGHTS) | names
    assert 0.0 <= step.logs["salient_tells_set"] <= 1.0
    sum(step.losses.values()).backward()
    assert not [n for n, p in trained.named_parameters() if p.grad is None]


def test_known_attributes_take_the_place_of_the_salient_terms():
    trained = method(attributes=("label", "length"))
    step = trained(batch(), FIRST)
    assert set(step.losses) == {"common_align", "common_uniform", "salient_align", "salient_uniform", "joint_entropy"}
    assert trained.heads["salient"][-1].out_features == 2
    with pytest.raises(
        MarrowError, match="no field 'colour' with one number each.*They have view_1, view_2, label, length"
    ):
        method(attributes=("colour",))(batch(), FIRST)
    with pytest.raises(MarrowError, match="^sepclr.attributes: 'label' is named twice"):
        method(attributes=("label", "length", "label"))


def test_targets_and_backgrounds_come_apart():
    """Backgrounds are dark, targets have bright pictures: after training the salient code of a background is near 0."""
    settings = Settings(steps=60, batch=16, optim={"main": Optim("adam", lr=0.01)})
    trained, data = (
        method(jitter=0.0, flip=False, crop=(0.9, 1.0)),
        Data({"background": Pictures(), "target": Pictures(seed=1)}),
    )
    data.streams["background"].images //= 4
    Engine(settings, device="cpu").train(trained, data)
    trained.eval()
    with torch.no_grad():
        length = [trained.heads["salient"](trained.task.salient(data.streams[s].images).pooled).norm(dim=1).mean()
                  for s in ("background", "target")]  # fmt: skip
    assert length[0] < 0.5 * length[1]


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="^sepclr.null_weight: a weight of -1.0 is below 0"):
        method(null_weight=-1.0)
    with pytest.raises(MarrowError, match="a joint batch of 14 is too small to estimate a density from; 16"):
        method()(batch(7), FIRST)
    many, few = batch(20), {name: {k: v[:1] for k, v in stream.items()} for name, stream in batch().items()}
    for name, counts in (
        ("background", "1 'background' and 20 'target'"),
        ("target", "20 'background' and 1 'target'"),
    ):
        with pytest.raises(
            MarrowError, match=f"^data.batch: a joint batch of {counts} cannot be compared; 2 or more of each"
        ):
            method()(many | {name: few[name]}, FIRST)
    settings = Settings(steps=1, batch=16)
    shared = Data({"background": Pictures(), "target": Pictures()})
    with pytest.raises(
        MarrowError, match="^data.target: 'picture 0 of 0' of the stream 'background' is also in 'target'"
    ):
        Engine(settings, device="cpu").train(method(), shared)


@pytest.mark.parametrize(("args", "match"), [
    ({"dim": 0}, "^sepclr.dim: a width of 0 is below 1"), ({"salient_dim": -1}, "^sepclr.salient_dim: a width of -1 is below"),
    ({"jitter": 1.5}, "^sepclr.jitter: 1.5 is outside 0..1"), ({"grey": -0.1}, "^sepclr.grey: -0.1 is outside 0..1")])  # fmt: skip
def test_wrong_values_are_named(args, match):
    with pytest.raises(MarrowError, match=match):
        SepCLR(Flat(), Flat(), **args)


def test_a_picture_that_others_lie_over_is_still_the_same_picture():
    background = Data(
        {"background": Blended(Pictures(), None, ""), "target": Blended(Pictures(), Pictures(seed=1), "")}
    )
    with pytest.raises(
        MarrowError, match="^data.target: 'picture 0 of 0' of the stream 'background' is also in 'target', as"
    ):
        Engine(Settings(steps=1, batch=16), device="cpu").train(method(), background)


def test_colours_may_stay_as_they_are():
    red = torch.zeros(3, 4, 4, dtype=torch.uint8)
    red[0] = 200
    plain, greyed = (SepCLR(Flat(), Flat(), jitter=0.0, grey=share).view for share in (0.0, 1.0))
    for _ in range(20):
        assert plain({"image": red})["view_1"][1].max() == 0
    assert greyed({"image": red})["view_1"][1].min() > 0


def test_weights_multiply_their_own_terms_alone():
    one, large = (method(salient_weight=w, null_weight=w, joint_weight=w)(batch(), FIRST).losses for w in (1.0, 1000.0))
    for name, loss in one.items():
        torch.testing.assert_close(large[name], loss * (1.0 if name.startswith("common") else 1000.0))
