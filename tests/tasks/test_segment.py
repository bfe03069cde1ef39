import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import marrow
from marrow.core.contracts import Input
from marrow.core.cost import cost
from marrow.core.engine import Engine
from marrow.core.errors import Interrupted, MarrowError
from marrow.core.loader import Data
from marrow.core.selection import named
from marrow.core.settings import Optim, Settings
from marrow.core.source import VOID
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.nn.pyramid import pyramid
from marrow.tasks.segment import Segment
from marrow.teach.supervised import Supervised

SMALL = {"backbone": "resnet10t", "channels": [8, 16, 24, 32], "stem_width": 8}
NAMES = ["miou", "pixel_accuracy", "iou_sky", "iou_road", "iou_car"]


def segment(size: int | tuple[int, int] = 32, classes: int = 3, **args) -> Segment:
    torch.manual_seed(0)
    backbone = TimmBackbone.create("resnet10t", img_size=size, channels=(8, 16, 24, 32), stem_width=8)
    return Segment(backbone, classes=classes, width=8, **args)


def answers(probability: list, mask: list) -> tuple[dict, dict]:
    """Logit maps (B, C, 1, W) from probabilities B x W x C, and the batch of their masks B x W."""
    maps = torch.tensor(probability).log().movedim(-1, 1)[:, :, None]
    return {"logit_maps": maps}, {"mask": torch.tensor(mask)[:, None]}


def test_loss_by_hand():
    task = segment()
    out, batch = answers([[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]],
                          [[0.125, 0.5, 0.375]] * 3], [[1, 2, VOID], [0, VOID, VOID]])  # fmt: skip
    # the first image has two known pixels, the second one: each image is a mean of its own
    wanted = ((np.log(4) - np.log(0.6)) / 2 + np.log(8)) / 2
    assert task.losses(out, batch)["cross_entropy"].item() == pytest.approx(wanted)
    assert set(task.losses(out, batch)) == {"cross_entropy"}


def test_parts_of_a_batch_weigh_as_the_whole():
    task, torch_loss = segment(dice=0.5), F.cross_entropy
    out, mask = {"logit_maps": torch.randn(4, 3, 8, 8)}, torch.randint(0, 3, (4, 8, 8))
    assert task.losses(out, {"mask": mask})["cross_entropy"] == pytest.approx(
        torch_loss(out["logit_maps"], mask).item()
    )
    mask[0, :6], mask[3] = VOID, VOID
    whole = task.losses(out, {"mask": mask})
    halves = [task.losses({k: v[i : i + 2] for k, v in out.items()}, {"mask": mask[i : i + 2]}) for i in (0, 2)]
    for name in ("cross_entropy", "dice"):
        assert whole[name].item() == pytest.approx(sum(h[name].item() for h in halves) / 2)


def test_dice_has_its_weight():
    out, batch = {"logit_maps": torch.randn(2, 3, 8, 8)}, {"mask": torch.randint(0, 3, (2, 8, 8))}
    one, half = (segment(dice=w).losses(out, batch)["dice"].item() for w in (1.0, 0.5))
    assert 0 < one < 1 and half == pytest.approx(one / 2)


def test_decode_and_metric_by_hand():
    out, batch = answers([[[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.2, 0.1, 0.7]]], [[0, 1, 1, VOID]])
    decoded = Segment.decode(out, batch)
    assert decoded["mask"].tolist() == [[[0, 0, 1, 2]]]
    torch.testing.assert_close(decoded["probability"][0, :, 0, 0], torch.tensor([0.7, 0.2, 0.1]))
    metric = Segment.metric()
    metric.update(decoded, batch)
    rows = {row["metric"]: row for row in named(metric.compute(), ["sky", "road", "car"])}
    numbered = [row["metric"] for row in named(metric.compute(), None)]
    assert list(rows) == NAMES and numbered[2:] == ["iou_0", "iou_1", "iou_2"]
    assert {row["n"] for row in rows.values()} == {1}
    # class 0: 1 of 2; class 1: 1 of 2; class 2 was said of a void pixel only, and does not occur
    assert [rows[name]["value"] for name in NAMES] == [0.5, pytest.approx(2 / 3), 0.5, 0.5, None]
    assert "does not occur" in rows["iou_car"]["reason"]


def test_metric_counts_pixels_over_all_images():
    metric = Segment.metric()
    for probability, mask in (([[[0.9, 0.1]] * 9], [[0] * 9]), ([[[0.9, 0.1]] * 1], [[1]])):
        out, batch = answers(probability, mask)
        metric.update(Segment.decode(out, batch), batch)
    # not the mean over images, which would be 1/2: class 0 9 of 10, class 1 none of 1
    assert metric.compute()[0]["value"] == pytest.approx(0.45)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (torch.full((2, 8, 8), 3), "mask: a mask has the class id 3, the task knows 0 to 2.*give 'void: 3'"),
        (torch.full((2, 8, 8), -2), "a mask has the class id -2"),
        (torch.zeros(2, 8, 6).long(), r"the masks are \(2, 8, 6\), the images \(2, 8, 8\)"),
        ([torch.zeros(8, 8).long()] * 2, "the masks are of unequal sizes"),
        (None, "the batch has no 'mask'; segment learns and measures with masks"),
    ],
)
def test_masks_that_do_not_fit(mask, sentence):
    out, batch = {"logit_maps": torch.randn(2, 3, 8, 8)}, {} if mask is None else {"mask": mask}
    with pytest.raises(MarrowError, match=sentence):
        segment().losses(out, batch)
    with pytest.raises(MarrowError, match=sentence):
        Segment.metric().update(Segment.decode(out, batch), batch)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"classes": 1}, "segment.classes: 1 classes cannot be told apart"),
        ({"decoder": "unet"}, "segment.decoder: unknown decoder 'unet'; known: fpn, deeplab"),
        ({"overlap": 1.0}, "segment.overlap: 1.0 is outside 0..1"),
        ({"picture": (64, 24)}, "segment.picture: pictures of 64 x 24 .* do not hold a window of .* 32 x 32"),
        ({"assistant": "layer33"}, "no module 'layer33' in ResNet; did you mean 'layer3'"),
        ({"assistant": ("layer1", "layer2")}, "reads maps of 8, 16, 24, 32 channels, these modules make 8, 16"),
    ],
)
def test_arguments_that_do_not_fit(args, sentence):
    with pytest.raises(MarrowError, match=sentence):
        segment(**args)


@pytest.mark.parametrize("decoder", ["fpn", "deeplab"])
def test_whole_images_of_any_size_get_an_answer_for_each_pixel(decoder):
    task = segment((60, 84), decoder=decoder).eval()
    assert task({"image": torch.rand(2, 3, 60, 84)})["logit_maps"].shape == (2, 3, 60, 84)
    assert task({"image": torch.rand(1, 3, 50, 70)})["logit_maps"].shape == (1, 3, 50, 70)


def test_a_transformer_with_maps_of_one_stride():
    vit = TimmBackbone.create("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48)
    assert Segment(vit, classes=3, width=8)({"image": torch.rand(2, 3, 32, 32)})["logit_maps"].shape == (2, 3, 32, 32)
    with pytest.raises(MarrowError, match="segment.decoder: .* maps of one stride. fpn takes one"):
        Segment(vit, classes=3, decoder="deeplab")


def test_windows_of_a_large_picture_are_averaged():
    task = segment(picture=(32, 48), overlap=0.5).eval()
    x = torch.rand(2, 3, 32, 48)
    left, right = (task({"image": x[..., a : a + 32]})["logit_maps"] for a in (0, 16))
    out = task({"image": x})["logit_maps"]
    torch.testing.assert_close(out[..., :16], left[..., :16])
    torch.testing.assert_close(out[..., 32:], right[..., 16:])
    torch.testing.assert_close(out[..., 16:32], (left[..., 16:] + right[..., :16]) / 2)
    assert task.input.size == (32, 48) and task.backbone.input.size == (32, 32)


def test_pictures_are_never_cropped_before_they_are_measured():
    assert segment().input == Input(size=(32, 32), resize="squash", crop_pct=1.0, mean=segment().backbone.input.mean,
                                    std=segment().backbone.input.std, interpolation="bicubic")  # fmt: skip


def test_the_assistant_teaches_what_lies_before_its_map():
    task = segment(assistant="layer2", assistant_weight=0.25).train()
    batch = {"image": torch.rand(2, 3, 32, 32), "mask": torch.randint(0, 3, (2, 32, 32))}
    out = task(batch)
    losses = task.losses(out, batch)
    assert losses["assistant"].item() == pytest.approx(0.25 * F.cross_entropy(out["assistant"], batch["mask"]).item())
    losses["assistant"].backward()
    reached = {name.split(".")[2] for name, p in task.backbone.named_parameters("backbone") if p.grad is not None}
    assert reached == {"conv1", "bn1", "layer1", "layer2"}
    assert set(task.eval()(batch)) == {"logit_maps"}


def test_the_decoder_itself_teaches_the_assistant_of_a_composite():
    torch.manual_seed(0)
    backbone = TimmBackbone.create("cb_resnet50", base="cifar_resnet20", img_size=32)
    first, lead = backbone.root.members
    lead.load_state_dict(first.state_dict(), strict=False)  # it has no stem and first stage of its own
    levels = pyramid(backbone, "")
    inside = tuple(f"members.0.norms.{i}" for i in range(len(first.norms)))[-len(levels) :]
    task = Segment(backbone, classes=3, width=8, assistant=inside).train()
    assert set(dict(task.named_children())) == {"backbone", "head"}, "no head of its own"
    batch = {"image": torch.rand(2, 3, 32, 32), "mask": torch.randint(0, 3, (2, 32, 32))}
    out = task(batch)
    # Connections start as zero, so with equal weights lead and assistant agree, and the decoder says the same of both.
    torch.testing.assert_close(out["assistant"], out["logit_maps"])
    task.losses(out, batch)["assistant"].backward()
    reached = {name.split(".")[1] for name, p in backbone.root.named_parameters() if p.grad is not None}
    assert reached == {"0"} and all(p.grad is not None for p in task.head.parameters())
    assert set(task.eval()(batch)) == {"logit_maps"}


class Stop:
    """A logger that sends this process SIGTERM after the second step."""

    def log(self, step: int, values: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    def close(self) -> None:
        pass


@pytest.fixture
def squares(tmp_path):
    """16 pictures with a bright square each, in train and val, and their masks: 0 ground, 1 square, 2 void."""
    for i in range(16):
        ids = np.zeros((40, 56), np.uint8)
        top, left = (7 * i) % 20, (5 * i) % 36
        ids[top : top + 16, left : left + 16] = 1
        noise = np.random.default_rng(i).integers(0, 60, (40, 56, 3))
        ids[0] = 2
        for folder, pixels in (("images", noise + 150 * (ids == 1)[..., None]), ("masks", ids)):
            path = tmp_path / folder / ("val" if i % 4 == 0 else "train") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks"), "void": 2}


def test_resume_equals_uninterrupted(squares, tmp_path):
    data = Data({"train": open_source(squares | {"split": "train"})})
    settings = Settings(steps=4, batch=4, optim={"main": Optim("sgd", lr=0.05)}, log_every=1, checkpoint_seconds=0)

    def train(**how) -> dict:
        method = Supervised(segment((40, 56), classes=2, assistant="layer3", dice=0.5), crop=(0.3, 1.0), flip=True)
        Engine(settings, device="cpu", **how).train(method, data)
        return method.state_dict()

    straight, file = train(), tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        train(checkpoint=file, logger=Stop())
    resumed = train(checkpoint=file, resume=True)
    assert all(torch.equal(v, resumed[k]) for k, v in straight.items())


def test_a_recipe_trains_saves_exports_and_measures(squares, tmp_path):
    head = {"task": "segment", "backbone": {**SMALL, "img_size": [40, 40]}, "classes": 2, "width": 16,
            "picture": [40, 56], "assistant": "layer3"}  # fmt: skip
    train, val = ([{**squares, "split": split, "mask_classes": ["ground", "square"]}] for split in ("train", "val"))
    stages = [
        {"teach": "supervised", "name": "net", "task": head, "data": {"train": train, "val": val, "batch": 6},
         "args": {"size": [40, 40], "crop": [0.5, 1.0]}, "optim": {"adamw": {"lr": 5e-3}}, "steps": 25},
        {"ship": "onnx", "name": "file", "model": {"stage": "net"}, "data": {"parity": val}},
    ]  # fmt: skip
    net, file = marrow.run({"seed": 0, "stages": stages}, tmp_path / "run", device="cpu", quiet=True)
    kept = {row["metric"]: row["value"] for row in net.meta["metrics"]}
    assert kept["miou"] > 0.6, "ground alone would be 0.45"
    assert {"iou_ground", "iou_square"} < set(kept)
    assert net.meta["labels"] == ["ground", "square"] == file.meta["labels"]
    with pytest.raises(MarrowError, match="--data: the data's classes are not the model's: class 0 is 'ground' there"):
        marrow.evaluate(net.path, {**val[0], "mask_classes": ["dog", "cat"]}, device="cpu")
    for artifact in (net, file):
        rows = {row["metric"]: row["value"] for row in marrow.evaluate(artifact.path, val[0], device="cpu")}
        assert rows == pytest.approx(kept, abs=1e-3)
    assert file.meta["runtime"]["outputs"] == ["logit_maps"]
    assert file.meta["runtime"]["parity"]["max_abs"] < 1e-3 and file.meta["runtime"]["parity"]["agreement"] > 0.999
    again = net.load().eval()
    assert again.picture == (40, 56) and tuple(again.input.size) == (40, 56)


def test_a_recipe_whose_masks_do_not_fit_ends_before_training(squares, tmp_path):
    head = {"task": "segment", "backbone": {**SMALL, "img_size": [40, 56]}, "classes": 2}
    train = [{k: v for k, v in squares.items() if k != "void"} | {"split": "train"}]
    stage = {"teach": "supervised", "name": "net", "task": head, "data": {"train": train, "batch": 4}, "steps": 1000}
    with pytest.raises(MarrowError, match=r"stages\[0\].data.train: the mask of .* has the class id 2, .* 0 to 1"):
        marrow.run({"seed": 0, "stages": [stage]}, tmp_path / "run", device="cpu", quiet=True)
    stage["data"] = {"train": [{**squares, "split": "train", "mask_classes": ["square"]}], "batch": 4}
    with pytest.raises(MarrowError, match="1 classes of the masks have names, the task knows 2"):
        marrow.run({"seed": 0, "stages": [stage]}, tmp_path / "named", device="cpu", quiet=True)
    unmasked = [{"images": squares["images"], "split": "val", "labels": False}]
    stage["data"] = {"train": [{**squares, "split": "train"}], "val": unmasked, "batch": 4}
    with pytest.raises(MarrowError, match=r"stages\[0\].data.val: the images have no masks"):
        marrow.run({"seed": 0, "stages": [stage]}, tmp_path / "other", device="cpu", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["fpn", "deeplab"])
def test_a_segmenter_is_pruned_and_quantized_as_a_classifier_is(squares, tmp_path, decoder):
    backbone = {**SMALL, "img_size": [40, 56]}
    head = {"task": "segment", "backbone": backbone, "classes": 2, "width": 16, "decoder": decoder}
    train, val = ([{**squares, "split": split}] for split in ("train", "val"))
    learning = {"data": {"train": train, "val": val, "batch": 6}, "optim": {"adamw": {"lr": 5e-3}}, "steps": 25}
    stages = [
        {"teach": "supervised", "name": "net", "task": head, **learning},
        {"shrink": "prune", "name": "narrow", "model": {"stage": "net"}, "args": {"ratio": 0.4, "round_to": 4}},
        {"teach": "supervised", "name": "again", "task": {"stage": "narrow"}, **learning},
        {"ship": "int8", "name": "file", "model": {"stage": "again"}, "data": {"calibration": train, "parity": val}},
    ]  # fmt: skip
    net, narrow, again, file = marrow.run({"seed": 0, "stages": stages}, tmp_path / "run", device="cpu", quiet=True)
    assert cost(narrow.load()).macs < 0.75 * cost(net.load()).macs
    parity, kept = file.meta["runtime"]["parity"], again.meta["metrics"][0]["value"]
    assert parity["sqnr_db"] > 25 and parity["agreement"] > 0.97
    assert marrow.evaluate(file.path, val[0], device="cpu")[0]["value"] == pytest.approx(kept, abs=0.02)
