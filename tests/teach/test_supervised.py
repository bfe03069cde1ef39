import pytest
import torch
from torch import nn

from marrow.core.contracts import Clock, Input, Task
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.tasks.classify import Classify
from marrow.tasks.embed import Embed
from marrow.teach.supervised import Supervised

SMALL = {"channels": (16, 32, 64, 64), "stem_width": 8}


def task(**arguments) -> Classify:
    torch.manual_seed(0)
    return Classify(TimmBackbone.create("resnet10t", img_size=32, **SMALL), classes=10, **arguments)


def test_the_loss_is_the_tasks():
    method = Supervised(task(label_smoothing=0.1)).eval()
    batch = {"image": torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), "label": torch.arange(4)}
    step = method(batch, Clock(0, 0, 0.0))
    wanted = method.task.losses(method.task(batch), batch)
    assert step.losses.keys() == wanted.keys() == {"cross_entropy"}
    assert torch.equal(step.losses["cross_entropy"], wanted["cross_entropy"])


def test_it_learns_the_digits():
    method = Supervised(task(), pad=1)
    settings = Settings(steps=60, batch=64, optim={"main": Optim(lr=3e-3)})
    engine = Engine(settings, device="cpu")
    engine.train(method, Data({"train": open_source({"images": "digits", "split": "train"})}))
    top1 = engine.evaluate(method.product(), open_source({"images": "digits", "split": "val"}))[0]
    assert top1["metric"] == "top1" and top1["value"] > 0.8


def test_views_are_plain_until_asked_for():
    image = torch.arange(32 * 32, dtype=torch.int32).view(1, 32, 32).expand(3, -1, -1).to(torch.uint8)
    example = {"image": image, "label": 3}
    assert torch.equal(Supervised(task()).views()(example)["image"], image)
    mirror, shift = Supervised(task(), flip=True).views(), Supervised(task(), pad=4).views()
    views = [mirror(example)["image"] for _ in range(20)]
    assert any(torch.equal(v, image) for v in views) and any(torch.equal(v, image.flip(-1)) for v in views)
    shifted = [shift(example)["image"] for _ in range(5)]
    assert all(v.shape == image.shape for v in shifted) and not all(torch.equal(v, image) for v in shifted)


def test_padding_and_random_cuts_exclude_each_other():
    with pytest.raises(MarrowError, match="padding goes with crop=None"):
        Supervised(task(), crop=(0.5, 1.0), pad=4)


def digits() -> Data:
    return Data({"train": open_source({"images": "digits", "split": "train"})})


def test_with_head_only_the_backbone_stays_as_it_is():
    method = Supervised(task(), head_only=True)
    before = {k: v.clone() for k, v in method.task.state_dict().items()}
    assert [p for p in method.groups()["main"]] == list(method.task.head.parameters())
    Engine(Settings(steps=5, batch=16, ema=0.5), device="cpu").train(method, digits())
    changed = {k for k, v in method.product().state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"head.weight", "head.bias"}  # not the statistics of BatchNorm either


def test_with_head_only_no_graph_is_built_inside_the_backbone():
    method = Supervised(task(), head_only=True)
    batch = {"image": torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), "label": torch.arange(4)}
    for mode in (False, True):
        method.train(mode)
        assert method.task.training is mode and not any(m.training for m in method.task.backbone.modules())
        assert not method.task.backbone(batch["image"]).pooled.requires_grad
    method(batch, Clock(0, 0, 0.0)).losses["cross_entropy"].backward()
    assert method.task.head.weight.grad is not None and method.task.backbone.net.conv1[0].weight.grad is None


def test_probing_then_fine_tuning_in_one_recipe(tmp_path):
    from marrow.run import run

    data = {"train": [{"images": "digits", "split": "train", "per_class": 2}], "batch": 8}
    settings = {"data": data, "steps": 2}
    backbone = {
        "backbone": "resnet10t",
        "img_size": 32,
        **{k: list(v) if k == "channels" else v for k, v in SMALL.items()},
    }
    recipe = {"seed": 0, "stages": [
        {"teach": "supervised", "name": "probe", "task": {"task": "classify", "backbone": backbone, "classes": 10},
         "args": {"head_only": True}, "optim": {"sgd": {"lr": 0.1}}, **settings},
        {"teach": "supervised", "name": "tuned", "task": {"stage": "probe"}, "layer_decay": 0.5,
         "optim": {"adamw": {"lr": 1e-3, "weight_decay": 0.05}}, **settings},
    ]}  # fmt: skip
    probe, tuned = (a.load().state_dict() for a in run(recipe, tmp_path / "run", device="cpu", quiet=True))
    moved = {k for k in probe if not torch.equal(probe[k], tuned[k])}
    assert {"head.weight", "backbone.net.conv1.0.weight", "backbone.net.bn1.running_mean"} <= moved


def test_layers_of_a_backbone_that_is_not_trained_have_no_rates():
    method = Supervised(task(), head_only=True)
    with pytest.raises(MarrowError, match="no timm backbone to train"):
        Engine(Settings(steps=1, layer_decay=0.5), device="cpu").train(method, digits())


class Bare(Task):
    """A linear layer without a backbone."""

    input = Input(size=(32, 32))

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)


def test_head_only_needs_a_backbone_and_something_outside_of_it():
    with pytest.raises(MarrowError, match="head_only: this task has nothing to train outside of its backbone"):
        Supervised(Embed(task().backbone), head_only=True)
    with pytest.raises(MarrowError, match="head_only: this task has no backbone to keep as it is"):
        Supervised(Bare(), head_only=True)
