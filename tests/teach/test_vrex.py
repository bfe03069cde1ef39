"""V-REx: the loss against numbers by hand, what equal domains leave, and what it refuses."""

import math

import pytest
import torch

from marrow.core.contracts import Backbone, Clock, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.data import open_sources
from marrow.tasks.classify import Classify
from marrow.teach.pixpro import PixPro
from marrow.teach.supervised import Supervised
from marrow.teach.vrex import VREx, pooled_risks

LATE = Clock(step=90, epoch=0, progress=0.9)


class Flat(Backbone):
    """The pixels of a 1 x 2 grey picture as features."""

    spec, dim, gives, input = {"source": "test:flat"}, 2, frozenset({"pooled"}), Input(size=(1, 2), channels=1)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float())


def plain(**arguments) -> VREx:
    """Around a classifier whose logits are the two pixels."""
    task = Classify(Flat(), classes=2)
    with torch.no_grad():
        task.head.weight.copy_(torch.eye(2))
        task.head.bias.zero_()
    return VREx(Supervised(task), **arguments)


def batch(*examples: tuple[tuple[float, float], int, str]) -> dict:
    pixels, labels, domains = zip(*examples)
    return {"image": torch.tensor(pixels).view(-1, 1, 1, 2), "label": torch.tensor(labels), "domain": list(domains)}


ONE = ((0.0, 0.0), 0, "photo")  # loss ln 2
TWO = ((math.log(3.0), 0.0), 0, "sketch")  # loss ln 4/3
SURE = ((50.0, 0.0), 0, "photo")  # loss 0


def test_the_loss_by_hand():
    step = plain(weight=4.0)(batch(ONE, TWO, SURE), LATE)
    photo, sketch = math.log(2) / 2, math.log(4 / 3)  # of two photos one costs nothing; the domains count alike
    assert step.losses["risk"].item() == pytest.approx((photo + sketch) / 2, rel=1e-6)
    assert step.losses["variance"].item() == pytest.approx(4 * ((photo - sketch) / 2) ** 2, rel=1e-5)
    assert step.logs["worst"].item() == pytest.approx(max(photo, sketch), rel=1e-6)


def test_domains_that_cost_alike_have_no_variance():
    alike = plain()(batch(ONE, (*ONE[:2], "sketch")), LATE).losses
    assert alike["variance"].item() == 0.0 and alike["risk"].item() == pytest.approx(math.log(2))


def test_a_weight_of_nothing_is_the_mean_over_domains():
    assert plain(weight=0.0)(batch(ONE, TWO), LATE).losses["variance"].item() == 0.0


def test_the_variance_weighs_one_at_first():
    method = plain(weight=10.0, wait=0.5)
    early, late = (method(batch(ONE, TWO), Clock(0, 0, p)).losses["variance"].item() for p in (0.4, 0.5))
    assert late == pytest.approx(10 * early)
    weak = plain(weight=0.5, wait=0.5)
    assert weak(batch(ONE, TWO), Clock(0, 0, 0.0)).losses["variance"].item() == pytest.approx(0.5 * early)


def test_risks_are_means_over_what_there_is():
    assert pooled_risks(torch.tensor([6.0, 1.0]), torch.tensor([3.0, 2.0])).tolist() == [2.0, 0.5]


def test_it_evens_out_what_domains_cost():
    """Digits as they are, and on their side in an eighth of the number: a plain mean serves those that are many."""
    torch.manual_seed(0)
    upright = {"images": "digits", "split": "train", "domain": "upright"}
    sides = {"images": "digits", "split": "train", "turned": 1, "fraction": 0.125, "domain": "side"}
    spread = {}
    for weight in (0.0, 20.0):
        torch.manual_seed(0)
        task = Classify(Pooled(), classes=10)
        settings = Settings(steps=150, batch=128, optim={"main": Optim("adamw", lr=1e-2)})
        Engine(settings, device="cpu").train(
            VREx(Supervised(task), weight=weight), Data({"train": open_sources([upright, sides], "train")})
        )
        with torch.no_grad():
            losses = [float(task.losses(task(b), b)["cross_entropy"]) for b in map(whole, (upright, sides))]
        spread[weight] = abs(losses[0] - losses[1])
    assert spread[20.0] < spread[0.0] / 2


class Pooled(Backbone):
    """The pixels of an 8 x 8 picture."""

    spec, dim, gives, input = {"source": "test:pooled"}, 64, frozenset({"pooled"}), Input(size=(8, 8))

    def features(self, x, *, maps=()):
        return Features(x.float().mean(1).flatten(1) / 255)


def whole(source: dict) -> dict:
    """All of a source as one batch."""
    return next(iter(Engine(device="cpu").batches(open_sources([source], "train"), Pooled().input, 5000)))


def test_only_heads_are_trained_where_the_inner_method_says_so():
    torch.manual_seed(0)
    method = VREx(Supervised(Classify(Flat(), classes=2), head_only=True))
    assert {n for n, p in method.named_parameters() if p.requires_grad} == {
        "inner.task.head.weight",
        "inner.task.head.bias",
    }


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="all images of a batch are from one domain"):
        plain()(batch(ONE, SURE), LATE)
    with pytest.raises(MarrowError, match="data.train: the images do not say which domain they are from"):
        plain()({k: v for k, v in batch(ONE, TWO).items() if k != "domain"}, LATE)
    with pytest.raises(MarrowError, match="vrex.weight: -1.0 is below 0"):
        plain(weight=-1.0)
    with pytest.raises(MarrowError, match="vrex.wait: 2.0 is no share"):
        plain(wait=2.0)
    with pytest.raises(MarrowError, match="vrex: supervised asks no frozen teacher"):
        plain().targets({})


def test_a_method_without_embeddings_is_refused():
    from marrow.core.timm_backbone import TimmBackbone

    net = TimmBackbone.create("resnet10t", img_size=64, channels=(8, 8, 8, 8), stem_width=8)
    with pytest.raises(MarrowError, match="vrex.inner: pixpro gives no 'embedding-loss'"):
        VREx(PixPro(net))
