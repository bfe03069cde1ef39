"""What the wrapper promises: sums over sizes, one run of the net and of the teacher, and words for what does not fit."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from marrow.core.contracts import Backbone, Clock, Features, Input, Method, Step
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.fit_check import check_fit
from marrow.core.loader import Data
from marrow.core.recipe import Recipe
from marrow.core.settings import Optim, Settings
from marrow.core.static_check import check_static
from marrow.data import open_source
from marrow.nn.divergence import sym_kl
from marrow.run import run
from marrow.tasks.classify import Classify
from marrow.tasks.nested_classify import NestedClassify
from marrow.tasks.retrieve import Retrieve
from marrow.tasks.segment import Segment
from marrow.teach.advstyle import AdvStyle
from marrow.teach.cvrl import CVRL, clip_contrast
from marrow.teach.matryoshka import Matryoshka
from marrow.teach.ssld import SSLD
from marrow.teach.supervised import Supervised

CLOCK = Clock(step=1, epoch=0, progress=0.5)


class Flat(Backbone):
    """The pixels of a 4 x 4 grey image as features; it counts how often it ran."""

    spec, dim, gives, input = {"source": "test:flat"}, 16, frozenset({"pooled"}), Input(size=(4, 4), channels=1)
    runs = 0

    def features(self, x, *, maps=()):
        self.runs += 1
        return Features(x.flatten(1).float())


class Perceptron(Backbone):
    """Eight by eight means of a picture, through one hidden layer."""

    spec, dim, gives, input = {"source": "test:perceptron"}, 32, frozenset({"pooled"}), Input(size=(32, 32))

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, self.dim))

    def features(self, x, *, maps=()):
        return Features(self.net(F.avg_pool2d(x[:, 0].float() / 255, 4).flatten(1)))


class Pairs(Method):
    """Contrast of two noisy copies of an image, on the embedding itself."""

    gives = frozenset({"embedding-loss"})

    def __init__(self, encoder: Backbone):
        super().__init__()
        self.encoder = encoder

    def embed(self, batch: Mapping) -> dict[str, Tensor]:
        return {"one": self.encoder(batch["image"]).pooled, "other": self.encoder(batch["image"].flip(-1)).pooled}

    def score(self, z: dict[str, Tensor], batch: Mapping, clock: Clock) -> Step:
        cosine = z["one"] @ z["other"].T / 0.1
        return Step({"contrast": F.cross_entropy(cosine, torch.arange(len(cosine)))})

    def forward(self, batch, clock, player="main"):
        return self.score(self.embed(batch), batch, clock)

    def product(self) -> nn.Module:
        return self.encoder


def batch(count: int = 6) -> dict:
    torch.manual_seed(0)
    return {"image": torch.rand(count, 1, 4, 4), "label": torch.arange(count) % 3}


def supervised(**arguments) -> Supervised:
    torch.manual_seed(0)
    return Supervised(Classify(Flat(), classes=3, **arguments))


def total(step: Step) -> Tensor:
    return sum(step.losses.values())


@pytest.mark.parametrize("tied", [False, True])
def test_the_loss_is_the_weighted_sum_over_sizes(tied):
    method, given = Matryoshka(supervised(label_smoothing=0.1), sizes=(2, 16), weights=(0.5, 3.0), tied=tied), batch()
    step, task, x = method(given, CLOCK), method.product(), given["image"].flatten(1)
    assert list(step.losses) == ["cross_entropy_2", "cross_entropy_16"] and isinstance(task, NestedClassify)
    wanted = [F.cross_entropy(task.head.at(m)(x[:, :m]), given["label"], label_smoothing=0.1) for m in (2, 16)]
    torch.testing.assert_close(torch.stack([*step.losses.values()]), torch.stack([0.5 * wanted[0], 3.0 * wanted[1]]))
    assert task.backbone.runs == 1


def test_the_whole_width_alone_is_the_method_itself():
    plain, nested = supervised(), Matryoshka(supervised(), sizes=(16,))
    torch.testing.assert_close(total(nested(batch(), CLOCK)), total(plain(batch(), CLOCK)))


def test_ssld_teaches_every_size_and_asks_its_teacher_once():
    torch.manual_seed(0)
    student, teacher = Classify(Flat(), classes=3), Classify(Flat(), classes=3)
    with torch.no_grad():
        teacher.head.weight.mul_(10)
    method, given = Matryoshka(SSLD(student=student, teacher=teacher, flip=False), sizes=(4, 16)), batch()
    step, task = method(given, CLOCK), method.product()
    x, told = given["image"].flatten(1), teacher(given)["logits"]
    for size in (4, 16):
        torch.testing.assert_close(
            step.losses[f"sym_kl_{size}"], sym_kl(task.head.at(size)(x[:, :size]), told, 1.0).mean()
        )
    assert set(step.logs) == {f"{name}_{size}" for name in ("agreement", "teacher_entropy") for size in (4, 16)}
    teacher.backbone.runs = 0
    method(given, CLOCK)
    assert teacher.backbone.runs == 1
    stored = method({**given, "targets": method.targets(given)}, CLOCK)
    torch.testing.assert_close(stored.losses, step.losses)


def test_embeddings_of_any_method_are_cut_and_of_length_one_again():
    method, given = Matryoshka(Pairs(Flat()), sizes=(3, 16)), batch()
    step = method(given, CLOCK)
    for size in (3, 16):
        one, other = (F.normalize(x.flatten(1)[:, :size], dim=-1) for x in (given["image"], given["image"].flip(-1)))
        torch.testing.assert_close(
            step.losses[f"contrast_{size}"], F.cross_entropy(one @ other.T / 0.1, torch.arange(6))
        )
    assert isinstance(method.product(), Flat)


def test_a_search_is_trained_at_every_size():
    torch.manual_seed(0)
    task = Retrieve(Flat(), classes=3)
    method, given = Matryoshka(Supervised(task)), batch()
    step, made = method(given, CLOCK), method.product()
    assert (
        list(step.losses) == ["cross_entropy_8", "cross_entropy_16"]
        and made.sizes == (8, 16)
        and "nested" in made.gives
    )
    assert made.spec["sizes"] == [8, 16]
    torch.testing.assert_close(step.losses["cross_entropy_16"], total(Supervised(task)(given, CLOCK)))


def test_what_a_search_is_not_trained_for_is_left_out():
    torch.manual_seed(0)
    task = Retrieve(Flat(), classes=3)
    method, given = Matryoshka(Supervised(task), sizes=(4,)), batch()
    made, step = method.product(), method(given, CLOCK)
    assert torch.equal(made.directions, task.directions[:, :4]) and made(given)["embedding"].shape == (6, 4)
    total(step).backward()
    assert made.directions.grad.any(0).all()
    logits = F.normalize(given["image"].flatten(1)[:, :4], dim=1) @ F.normalize(made.directions, dim=1).T
    torch.testing.assert_close(total(step), F.cross_entropy(logits / task.temperature, given["label"]))


def test_drawn_sizes_differ_from_step_to_step_and_cost_the_same_in_the_mean():
    method, every = (Matryoshka(supervised(), sizes=(2, 4, 8, 16), sizes_per_step=n) for n in (1, 0))
    every.product().load_state_dict(method.product().state_dict())
    seen, sums = set(), []
    for step in range(60):
        losses = method(batch(), Clock(step, 0, 0.0)).losses
        [name] = losses
        seen.add(name)
        sums.append(losses[name])
        assert method(batch(), Clock(step, 0, 0.0)).losses.keys() == losses.keys()
    assert len(seen) == 4
    torch.testing.assert_close(torch.stack(sums).mean(), total(every(batch(), CLOCK)), rtol=0.1, atol=0)


def test_a_nested_task_is_trained_on():
    task = NestedClassify(Flat(), classes=3, sizes=(4, 16))
    assert Matryoshka(Supervised(task)).product() is task
    with pytest.raises(MarrowError, match="the task was built for the sizes 4, 16"):
        Matryoshka(Supervised(task), sizes=(8, 16))
    with pytest.raises(MarrowError, match="matryoshka.tied: it is about the heads that classify is given"):
        Matryoshka(Supervised(task), tied=True)


def test_it_learns_digits_at_every_size():
    torch.manual_seed(0)
    method = Matryoshka(Supervised(Classify(Perceptron(), classes=10)), sizes=(4, 8, 32))
    engine = Engine(Settings(steps=100, batch=32, optim={"main": Optim("adamw", lr=1e-2)}), device="cpu")
    train, val = (open_source({"images": "digits", "split": split}) for split in ("train", "val"))
    engine.train(method, Data({"train": train}))
    rows = {row["metric"]: row["value"] for row in engine.evaluate(method.product(), val)}
    assert min(rows[name] for name in ("top1", "top1_8", "top1_4")) > 0.7


NET = {"backbone": "resnet10t", "img_size": 32, "channels": [8, 16, 24, 32], "stem_width": 8}
HEAD = {"task": "classify", "backbone": NET, "classes": 10}


def stage(inner: dict, **arguments) -> dict:
    return {"seed": 0, "stages": [{"teach": "matryoshka", "inner": inner, "data": {"train": [{"images": "digits"}]},
                                   "args": arguments, "steps": 2}]}  # fmt: skip


def test_a_recipe_says_the_method_inside_and_both_passes_look_into_it():
    right = stage({"teach": "supervised", "task": HEAD, "pad": 2})
    assert check_static(right) == []
    problems, [row] = check_fit(Recipe.from_dict(right))
    assert problems == [] and row["role"] == "inner.task" and row["model"] == "classify(resnet10t)"
    [problem] = check_static(stage({"teach": "supervised", "task": HEAD, "pads": 2}))
    assert problem.startswith("stages[0].inner.pads: Supervised has no argument 'pads'; did you mean 'pad'?")
    [problem] = check_static(stage({"teach": "supervised"}))
    assert problem == "stages[0].inner: Supervised needs a model as 'task'"
    problems, _ = check_fit(Recipe.from_dict(stage({"teach": "supervised", "task": HEAD}, sizes=[8, 512])))
    assert problems == ["stages[0].args.sizes: size 512 > embedding width 32"]
    embed = {"task": "embed", "backbone": NET}
    problems, _ = check_fit(Recipe.from_dict(stage({"teach": "ssld", "student": embed, "teacher": HEAD})))
    assert any("stages[0].inner.student: ssld needs 'logits' from student" in p for p in problems)
    cached = stage({"teach": "supervised", "task": HEAD})
    cached["stages"][0]["cached_views"] = 2
    problems, _ = check_fit(Recipe.from_dict(cached))
    assert len(problems) == 1 and "supervised asks no frozen teacher" in problems[0]


def test_clips_are_told_apart_by_the_first_features_alone(tmp_path):
    """Contrast without a head: what is cut is the backbone's own embedding."""
    inflated = {"edit": "inflate", "values": {"frames": 4, "stride": 2}, "of": [NET]}
    recipe = stage({"teach": "cvrl", "backbone": inflated, "out": None, "flip": False}, sizes=[4, 32])
    videos = {"images": "moving_digits", "split": "train", "per_class": 1, "labels": False}
    recipe["stages"][0] |= {"data": {"train": [videos], "batch": 4}, "name": "net"}
    kept = run(recipe, tmp_path, quiet=True)[0].load()
    method = CVRL(kept.eval(), out=None, flip=False)
    given = {name: torch.rand(3, 4, 3, 32, 32) for name in ("clip_1", "clip_2")} | {"looped": torch.zeros(3)}
    whole, nested = method(given, CLOCK), Matryoshka(method, sizes=(4, 32))(given, CLOCK)
    torch.testing.assert_close(nested.losses["contrast_32"], whole.losses["contrast"])
    a, b = (kept(given[name]).pooled[:, :4] for name in ("clip_1", "clip_2"))
    torch.testing.assert_close(nested.losses["contrast_4"], clip_contrast(a, b, 0.1))


def test_what_makes_no_sense_is_refused():
    for arguments, sentence in (({"sizes": (8, 512)}, "matryoshka.sizes: size 512 > embedding width 16"),
                                ({"sizes": (8, 4)}, "8, 4 are not in ascending order"), ({"sizes": (0, 4)}, "size 0 holds no"),
                                ({"weights": (1.0,)}, "1 weights for 2 sizes"), ({"weights": (1.0, -1.0)}, "-1.0 is not a positive"),
                                ({"sizes_per_step": 3}, "3 of 2 sizes cannot be drawn")):  # fmt: skip
        with pytest.raises(MarrowError, match=sentence):
            Matryoshka(supervised(), **arguments)
    with pytest.raises(
        MarrowError, match="how wide the embeddings of .* are is not known before it runs. Name the sizes"
    ):
        Matryoshka(Pairs(Flat()))
    with pytest.raises(MarrowError, match="size 32 > embedding width 16 of 'one'"):
        Matryoshka(Pairs(Flat()), sizes=(8, 32))(batch(), CLOCK)
    with pytest.raises(MarrowError, match="no head whose columns"):
        Matryoshka(Pairs(Flat()), sizes=(8,), tied=True)


def test_methods_and_tasks_without_an_embedding_are_refused():
    from marrow.core.timm_backbone import TimmBackbone

    net = TimmBackbone.create("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    with pytest.raises(MarrowError, match="advstyle gives no 'embedding-loss'"):
        Matryoshka(AdvStyle(Classify(net, classes=3)))
    with pytest.raises(MarrowError, match="segment has no embedding that could be cut; classify and retrieve have one"):
        Matryoshka(Supervised(Segment(net, classes=3)))
