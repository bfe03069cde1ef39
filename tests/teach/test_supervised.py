import pytest
import torch

from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.tasks.classify import Classify
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
