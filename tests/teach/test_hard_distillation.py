"""Hard distillation: each token's half of the loss written out, a limiting case, what the product says, what is refused."""

import pytest
import torch
from torch.nn import functional as F

from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.classify import Classify
from marrow.teach.hard_distillation import HardDistillation
from marrow.teach.multi_architectural import MultiArchitectural
from marrow.teach.supervised import Supervised

from .test_multi_architectural import END, NET, Bright, batch


def task(seed: int = 0, **arguments) -> Classify:
    torch.manual_seed(seed)
    made = Classify(TimmBackbone.create("vit_res_tiny", **{**NET, **arguments}), classes=2)
    made.head.weight.data.mul_(20)
    return made


@torch.no_grad()
def teacher() -> Classify:
    """Untrained, and of two minds about one half and the other of `batch()`."""
    made = task(1).eval()
    first, second = made(batch())["logits"].unbind(1)
    made.head.bias[0] -= (first - second).sort().values[3:5].mean()
    return made


def test_each_token_has_its_own_half_of_the_loss():
    method = HardDistillation(task(distilled=True), teacher()).eval()
    student, given = method.student, batch()
    pooled, weight, bias = student.backbone(given["image"]).pooled, student.head.weight, student.head.bias
    assert pooled.shape == (8, 2 * 16)
    of_class = 2 * pooled[:, :16] @ weight[:, :16].T + bias
    of_distillation = 2 * pooled[:, 16:] @ weight[:, 16:].T + bias
    decided = method.teacher(given)["logits"].argmax(1)
    assert decided.float().std() > 0 and not torch.equal(decided, given["label"])
    losses = method(given, END).losses
    torch.testing.assert_close(losses["label"], F.cross_entropy(of_class, given["label"]) / 2)
    torch.testing.assert_close(losses["teacher"], F.cross_entropy(of_distillation, decided) / 2)
    # Afterwards it says the mean of both answers.
    torch.testing.assert_close(student(given)["logits"], (of_class + of_distillation) / 2)


def test_without_the_token_one_answer_has_both_halves():
    method = HardDistillation(task(), teacher()).eval()
    logits, decided = method.student(batch())["logits"], method.teacher(batch())["logits"].argmax(1)
    losses = method(batch(), END).losses
    torch.testing.assert_close(losses["label"], F.cross_entropy(logits, batch()["label"]) / 2)
    torch.testing.assert_close(losses["teacher"], F.cross_entropy(logits, decided) / 2)


def test_a_teacher_that_is_always_right_makes_it_supervised_training():
    method = HardDistillation(task(), teacher()).eval()
    right = {**batch(), "targets": {"logits": F.one_hot(batch()["label"], 2).float()}}
    total = sum(method(right, END).losses.values())
    torch.testing.assert_close(total, F.cross_entropy(method.student(batch())["logits"], batch()["label"]))


def test_each_token_learns_what_it_is_told():
    engine = Engine(Settings(steps=40, batch=16, optim={"main": Optim("adamw", 3e-3)}), device="cpu")
    contrary = task(1)
    engine.train(Supervised(contrary), Data({"train": Bright()}))
    with torch.no_grad():
        contrary.head.weight.mul_(-1), contrary.head.bias.mul_(-1)
    method = HardDistillation(task(distilled=True), contrary)
    method.fit(engine, Data({"train": Bright()}))
    of_class, of_distillation = (z.argmax(1) for z in method.eval().answers(batch_of(Bright())))
    assert torch.equal(of_class, torch.arange(32) % 2) and torch.equal(of_distillation, 1 - of_class)


def batch_of(source) -> dict[str, torch.Tensor]:
    return {"image": torch.stack([source[i]["image"] for i in range(len(source))])}


def test_what_does_not_fit_is_named():
    with pytest.raises(MarrowError, match="teacher has 3 outputs, student 2"):
        HardDistillation(task(), Classify(TimmBackbone.create("vit_res_tiny", **NET), classes=3))
    with pytest.raises(MarrowError, match="the batch has no 'label'.* ssld learns from a teacher without labels"):
        HardDistillation(task(), teacher())({"image": batch()["image"]}, END)
    with pytest.raises(MarrowError, match="a ViT-Res with a distillation token is no supernet"):
        MultiArchitectural(task(distilled=True))
