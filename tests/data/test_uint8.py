"""Images are bytes until they are on the device; models normalise them there."""

import pytest
import torch

from marrow.core.collate import move
from marrow.core.engine import Engine
from marrow.core.loader import Data, batches, train_batches
from marrow.core.preprocess import plain
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.data.views import Augment
from marrow.tasks.classify import Classify
from marrow.teach.supervised import Supervised


@pytest.fixture
def task():
    torch.manual_seed(0)
    net = TimmBackbone.create("resnet10t", img_size=32, channels=[8, 16, 24, 32], stem_width=8)
    return Classify(net, classes=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_batches_and_moves_keep_bytes(workers, photos, task):
    source, settings = open_source({"images": str(photos)}), Settings(steps=1, batch=4, workers=workers)
    for view in (Augment((16, 16)), Augment((16, 16), crop=None, pad=2), plain(task.input)):
        trained = next(train_batches(Data({"train": source}), ("train",), view, settings))
        passed = next(batches(source, view, 4, workers))
        for batch in (trained, passed, move(trained, torch.device("meta"), torch.channels_last)):
            assert batch["image"].dtype == torch.uint8


def test_a_model_is_given_bytes_and_normalises_them_itself(photos, task):
    given, inside = [], []
    task.register_forward_pre_hook(lambda module, args: given.append(args[0]["image"].dtype))
    first = next(m for m in task.backbone.net.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_pre_hook(lambda module, args: inside.append(args[0].dtype))
    source = open_source({"images": str(photos)})
    engine = Engine(Settings(steps=2, batch=4, micro_batch=2, optim={"main": Optim("sgd", 0.01)}), device="cpu")
    engine.train(Supervised(task), Data({"train": source}))
    (row,) = [r for r in engine.evaluate(task, source, batch=5) if r["metric"] == "top1"]
    assert row["n"] == 12 and {*given} == {torch.uint8} and {*inside} == {torch.float32} and len(given) >= 7
    image = torch.stack([plain(task.input)(source[i])["image"] for i in range(4)])
    task.eval()
    with torch.no_grad():
        bytes_in, shares_in = (task({"image": x})["logits"] for x in (image, image / 255))
    assert torch.allclose(bytes_in, shares_in, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_batches_for_a_gpu_are_pinned(photos):
    data, settings = Data({"train": open_source({"images": str(photos)})}), Settings(steps=1, batch=4, workers=2)
    batch = next(train_batches(data, ("train",), Augment((16, 16)), settings, pin=True))
    assert batch["image"].is_pinned() and batch["image"].dtype == torch.uint8
    assert move(batch, torch.device("cuda"))["image"].dtype == torch.uint8
