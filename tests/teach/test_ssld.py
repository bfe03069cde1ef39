import math

import pytest
import torch
from torch import nn

from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.nn.divergence import sym_kl
from marrow.tasks.classify import Classify
from marrow.teach.ssld import SSLD, check_informed, divergence_of, two_way

SMALL = {"channels": (8, 16, 24, 32), "stem_width": 8}
FIRST = Clock(step=0, epoch=0, progress=0.0)


def task(
    classes: int = 4, seed: int = 0, sure: float = 1.0, name: str = "resnet10t", size: int = 32, **more
) -> Classify:
    """A tiny classifier; `sure` makes an untrained head's posteriors peaked, as a trained one's are."""
    torch.manual_seed(seed)
    arguments = SMALL if name == "resnet10t" else {}
    made = Classify(TimmBackbone.create(name, img_size=size, **arguments, **more), classes=classes)
    with torch.no_grad():
        made.head.weight.mul_(sure)
    return made


def teacher(classes: int = 4, **more) -> Classify:
    return task(classes, seed=1, sure=50.0, **more)


class Pictures(Source):
    """Noise; `labels` "own", "shuffled" or None."""

    def __init__(self, labels: str | None = "own"):
        self.images = torch.randint(
            0, 256, (24, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
        )
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        label = {"own": {"label": index % 4}, "shuffled": {"label": (7 * index + 1) % 4}, None: {}}[self.labels]
        return {"image": self.images[index], **label}

    def fraction(self, index: int) -> float:
        return index / len(self)

    def name(self, index: int) -> str:
        return f"picture {index}"


def batch(size: int = 32, count: int = 16) -> dict:
    draw = torch.Generator().manual_seed(3)
    return {"image": torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8)}


def trained(method: SSLD, source: Source, steps: int = 3) -> SSLD:
    settings = Settings(steps=steps, batch=8, optim={"main": Optim("sgd", lr=0.05)})
    Engine(settings, device="cpu").train(method, Data({"train": source}))
    return method


def test_the_loss_is_the_mean_divergence_of_both_networks_on_one_view():
    method = SSLD(task(), teacher()).eval()
    step = method(batch(), FIRST)
    s, t = method.student(batch())["logits"], method.teacher(batch())["logits"]
    assert step.losses.keys() == {"sym_kl"}
    torch.testing.assert_close(step.losses["sym_kl"], sym_kl(s, t).mean())
    torch.testing.assert_close(step.logs["agreement"], (s.argmax(-1) == t.argmax(-1)).float().mean())
    q = t.softmax(-1)
    torch.testing.assert_close(step.logs["teacher_entropy"], -(q * q.log()).sum(-1).mean())


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient():
    method = SSLD(teacher(), teacher()).eval()
    step = method(batch(), FIRST)
    step.losses["sym_kl"].backward()
    assert step.losses["sym_kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert step.logs["agreement"] == 1.0
    assert max(p.grad.abs().max().item() for p in method.parameters()) < 1e-5


@pytest.mark.parametrize("labels", ["shuffled", None])
def test_labels_make_no_difference_to_the_bit(labels):
    a, b = (trained(SSLD(task(), teacher()), Pictures(kind)) for kind in ("own", labels))
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


def test_the_student_moves_towards_its_teacher():
    source = Pictures(None)
    method = SSLD(task(), teacher(), crop=None, flip=False)
    view = {"image": source.images}
    before = method.eval()(view, FIRST).losses["sym_kl"].item()
    trained(method, source, steps=40)
    assert method.eval()(view, FIRST).losses["sym_kl"].item() < before / 2


@pytest.mark.parametrize("kind", ["sym_kl", "js", "kl", "ce"])
def test_every_divergence_is_least_at_the_teacher(kind):
    t = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()
    s = t.clone().requires_grad_()
    value = divergence_of(s, t, kind, "softmax", 1.0)
    value.backward()
    torch.testing.assert_close(s.grad, torch.zeros_like(s), atol=1e-12, rtol=0)
    assert divergence_of(t + torch.randn_like(t), t, kind, "softmax", 1.0) > value


def test_temperature_keeps_the_size_of_the_gradient():
    """For T -> infinity T^2 KL tends to the variance of the logits' difference over 2 C, whatever T."""
    s, t = torch.randn(1, 5).double(), torch.randn(1, 5).double()
    limit = ((t - s) - (t - s).mean()).square().mean() / 2
    assert divergence_of(s, t, "kl", "softmax", 1e4).item() == pytest.approx(limit.item(), rel=1e-3)


def test_independent_classes_add_up():
    s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), -math.log(3.0)]])
    assert divergence_of(s, t, "sym_kl", "sigmoid", 1.0).item() == pytest.approx(2 * 0.137327, abs=1e-6)
    torch.testing.assert_close(two_way(t).softmax(-1)[..., 0], t.sigmoid())
    method = SSLD(task(), teacher(), activation="sigmoid").eval()
    assert method(batch(), FIRST).losses["sym_kl"] > 0


def test_batch_statistics_change_the_teachers_answer_and_not_its_buffers():
    buffers = {k: v.clone() for k, v in teacher().state_dict().items()}
    losses = {}
    for kind in ("running", "batch"):
        method = SSLD(task(), teacher(), teacher_bn=kind)
        losses[kind] = trained(method, Pictures()).eval()(batch(), FIRST).losses["sym_kl"].item()
        assert all(torch.equal(v, method.teacher.module.state_dict()[k]) for k, v in buffers.items())
    assert losses["running"] != losses["batch"]


def test_each_network_gets_the_view_at_its_own_size():
    method = SSLD(task(size=32), teacher(size=48))
    assert method.views()(Pictures()[0])["image"].shape == (3, 48, 48)
    sizes = []
    for net in (method.student, method.teacher.module):
        net.backbone.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[-2:])))
    method.eval()(batch(size=48), FIRST)
    assert sizes == [(32, 32), (48, 48)]


def test_head_only_trains_nothing_else_on_plain_pictures():
    method = SSLD(task(), teacher(), head_only=True)
    assert torch.equal(method.views()(Pictures()[3])["image"], Pictures()[3]["image"])
    before = {k: v.clone() for k, v in method.student.state_dict().items()}
    after = trained(method, Pictures()).student.state_dict()
    moved = {k for k, v in before.items() if not torch.equal(v, after[k])}
    assert moved == {"head.weight", "head.bias"}


def test_class_map_joins_and_drops_the_teachers_classes():
    method = SSLD(task(3), teacher(5), class_map=(0, 2, 0, -1, 1)).eval()
    loss = method(batch(), FIRST).losses["sym_kl"]
    q = method.teacher(batch())["logits"].softmax(-1)
    joined = torch.stack([q[:, 0] + q[:, 2], q[:, 4], q[:, 1]], -1)
    torch.testing.assert_close(
        loss, sym_kl(method.student(batch())["logits"], joined.log()).mean(), rtol=1e-4, atol=1e-5
    )
    assert "class_map" not in method.state_dict()


@pytest.mark.parametrize(
    "arguments",
    [
        {"drop_rate": 0.5},
        {"name": "vit_tiny_patch16_224", "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2,
         "proj_drop_rate": 0.3, "attn_drop_rate": 0.3},
    ],
)  # fmt: skip
def test_dropout_is_off_in_the_student(arguments):
    student = task(**arguments).train()
    for m in student.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()  # so that nothing but dropout can make two passes differ
    twice = [student(batch())["logits"] for _ in range(2)]
    assert not torch.equal(*twice)
    SSLD(student, teacher())
    twice = [student(batch())["logits"] for _ in range(2)]
    assert torch.equal(*twice)


def test_names_of_classes_come_from_the_teacher():
    names = ["a", "b", "c", "d"]
    known = teacher()
    known.labels = names
    assert SSLD(task(), known).product().labels == names
    other = task()
    other.labels = names[::-1]
    with pytest.raises(MarrowError, match="name their classes differently"):
        SSLD(other, known)
    assert SSLD(other, known, class_map=(3, 2, 1, 0)).product().labels == names[::-1]


def test_different_class_counts_are_refused():
    with pytest.raises(
        MarrowError, match=r"teacher has 7 outputs, student 4: give both the same classes \(or `class_map=`\)"
    ):
        SSLD(task(4), teacher(7))
    with pytest.raises(MarrowError, match="class_map joins classes"):
        SSLD(task(2), teacher(3), class_map=(0, 1, 1), activation="sigmoid")


@pytest.mark.parametrize("classes", [2, 4, 10, 100])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_an_untrained_teacher_is_refused_at_the_first_step(classes, activation):
    unsure = torch.randn(64, classes, generator=torch.Generator().manual_seed(0)) * 0.05
    with pytest.raises(MarrowError, match="does not tell its classes apart"):
        check_informed(unsure, activation)
    check_informed(100 * unsure, activation)


def test_a_uniform_teacher_is_refused_before_a_weight_moves():
    method = SSLD(task(10), task(10, seed=1, sure=0.01))
    before = method.student.head.weight.clone()
    with pytest.raises(MarrowError, match="ssld.teacher: the teacher does not tell its classes apart"):
        trained(method, Pictures())
    assert torch.equal(method.student.head.weight, before)


def test_other_bad_input_is_refused():
    with pytest.raises(MarrowError, match="0.0 is not a positive number"):
        SSLD(task(), teacher(), temperature=0.0)
    with pytest.raises(MarrowError, match="teacher sees 3 channels, student 1"):
        SSLD(task(in_chans=1, mean=(0.5,), std=(0.5,)), teacher())


@pytest.mark.parametrize("more", [{}, {"activation": "sigmoid"}, {"class_map": (0, 1, 1, -1, 2, 3)}])
def test_a_stored_teacher_gives_the_same_student_to_the_bit(tmp_path, more):
    source = Pictures()
    settings = Settings(steps=7, batch=8, optim={"main": Optim("sgd", lr=0.05)}, cached_views=2)
    made = []
    for cache in (None, tmp_path, tmp_path):
        method = SSLD(task(), teacher(6 if "class_map" in more else 4), **more)
        engine = Engine(settings, device="cpu", cache=cache)
        engine.train(method, Data({"train": source}))
        made.append((method.state_dict(), engine.history["teacher_cache"]))
    (online, _), (first, filled), (second, read) = made
    assert filled == {"rows": 48, "asked": 48} and read == {"rows": 48, "asked": 0}
    for name, value in online.items():
        assert torch.equal(first[name], value) and torch.equal(second[name], value), name


def test_a_teacher_on_batch_statistics_is_not_stored(tmp_path):
    method = SSLD(task(), teacher(), teacher_bn="batch")
    with pytest.raises(MarrowError, match="the teacher uses the statistics of each batch.*use the running statistics"):
        Engine(Settings(steps=1, batch=8, cached_views=2), device="cpu", cache=tmp_path).train(
            method, Data({"train": Pictures()})
        )
