import pytest
import torch
from torch import nn

from marrow.core.contracts import Clock
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.classify import Classify
from marrow.tasks.expanded_classify import ExpandedClassify
from marrow.teach.ssld import SSLD


def task(**more) -> ExpandedClassify:
    torch.manual_seed(0)
    shape = {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3, "reg_tokens": 1}
    backbone = TimmBackbone.create("vit_tiny_patch16_224", img_size=32, **shape)
    return ExpandedClassify(backbone, **{"classes": 5, "width": 96, **more})


def batch() -> dict:
    draw = torch.Generator().manual_seed(0)
    return {"image": torch.rand(3, 3, 32, 32, generator=draw), "label": torch.tensor([0, 4, 2])}


def test_the_head_is_the_released_one():
    made = ExpandedClassify(TimmBackbone.create("vit_tiny_patch16_224", reg_tokens=1), classes=10)
    assert [type(m) for m in made.expansion] == [nn.LayerNorm, nn.Linear, nn.GELU]
    assert made.expansion[1].weight.shape == (1280, 192) and made.head.weight.shape == (10, 1280)
    assert made.backbone.net.num_prefix_tokens == 2


def test_logits_are_those_of_the_layers_one_after_the_other():
    made = task().eval()
    pooled = made.backbone(batch()["image"]).pooled
    wide = nn.functional.gelu(
        nn.functional.layer_norm(pooled, (48,)) @ made.expansion[1].weight.T + made.expansion[1].bias
    )
    torch.testing.assert_close(made(batch())["logits"], wide @ made.head.weight.T + made.head.bias)


def test_loss_and_answers_are_those_of_classify():
    made, plain = task(label_smoothing=0.1), Classify(task().backbone, classes=5, label_smoothing=0.1)
    out = made(batch())
    assert torch.equal(made.losses(out, batch())["cross_entropy"], plain.losses(out, batch())["cross_entropy"])
    assert torch.equal(made.decode(out, batch())["label"], out["logits"].argmax(-1))


def test_a_supervised_teacher_fine_tunes_it():
    teacher = Classify(TimmBackbone.create("cifar_resnet20", img_size=32), classes=5)
    with torch.no_grad():
        teacher.head.weight.mul_(50)
    made = task()
    step = SSLD(made, teacher, crop=None)(batch(), Clock(0, 0, 0.0))
    sum(step.losses.values()).backward()
    assert made.expansion[1].weight.grad.abs().sum() > 0 and made.backbone.net.reg_token.grad is not None


@pytest.mark.parametrize(("more", "where"), [({"width": 0}, "width"), ({"classes": 1}, "classes"),
                                             ({"label_smoothing": 1.0}, "label_smoothing")])  # fmt: skip
def test_bad_input(more, where):
    with pytest.raises(MarrowError) as error:
        task(**more)
    assert str(error.value).startswith(f"expanded_classify.{where}: ")
