import math

import numpy as np
import pytest
import torch

from marrow.core.artifact import Artifact, save
from marrow.core.contracts import Clock
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.fit_check import check_fit
from marrow.core.loader import Data
from marrow.core.models import resolve
from marrow.core.recipe import Recipe
from marrow.core.settings import Optim, Settings
from marrow.data.open import open_source
from marrow.examine.linear_probe import LinearProbe
from marrow.teach.cvrl import CVRL, clip_contrast, share_found

FIRST = Clock(step=0, epoch=0, progress=0.0)
PICTURE = {"backbone": "resnet10t", "img_size": 32, "channels": [8, 8, 8, 16], "stem_width": 8}
NET = {"edit": "inflate", "values": {"frames": 4, "stride": 2}, "of": [PICTURE]}


def method(of: dict = NET, **args) -> CVRL:
    torch.manual_seed(0)
    return CVRL(resolve(of, {}, "net"), **{"hidden": 16, "layers": 1, "out": 8, **args})


def batch(count: int = 4) -> dict:
    draw = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (2, count, 4, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return {"clip_1": clips[0], "clip_2": clips[1], "looped": torch.zeros(count)}


def test_the_loss_and_its_gradient_are_the_published_ones(golden):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "cvrl" / "infonce.npz").items()}
    z = case["z"].requires_grad_()
    a, b = z.chunk(2)
    loss = clip_contrast(a, b, case["temperature"].item())
    loss.backward()
    torch.testing.assert_close(loss, case["loss"], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(z.grad, case["grad_z"], rtol=1e-6, atol=1e-8)
    assert share_found(a, b).item() == pytest.approx(case["contrast_acc"].item())


def test_closed_forms():
    n, eye = 5, torch.eye(10, dtype=torch.double)
    apart = clip_contrast(eye[:n], eye[n:], 0.1).item()
    assert apart == pytest.approx(2 * math.log(2 * n - 1))
    aligned = clip_contrast(eye[:n], eye[:n], 0.1).item()
    assert aligned == pytest.approx(2 * math.log(1 + (2 * n - 2) * math.exp(-10)))


def test_swapping_the_clips_changes_nothing():
    trained, given = method().eval(), batch()
    swapped = {**given, "clip_1": given["clip_2"], "clip_2": given["clip_1"]}
    torch.testing.assert_close(trained(given, FIRST).losses, trained(swapped, FIRST).losses)


def test_the_head_is_the_papers():
    """Three hidden layers of 2,048 with BatchNorm, then 128."""
    found = method(
        {"edit": "over_frames", "values": {"frames": 2, "stride": 1}, "of": [PICTURE]}, hidden=2048, layers=3, out=128
    )
    hidden = 16 * 2048 + 2 * 2048**2 + 3 * 2 * 2048
    assert sum(p.numel() for p in found.head.parameters()) == hidden + 2048 * 128 + 128


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_any_net_of_pictures_learns_over_frames(name):
    tiny = {"vit_tiny_patch16_224": {"depth": 1, "embed_dim": 24, "num_heads": 3},
            "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}}.get(name, {})  # fmt: skip
    net = {
        "edit": "over_frames",
        "values": {"frames": 4, "stride": 2},
        "of": [{"backbone": name, "img_size": 32, **tiny}],
    }
    trained = method(net)
    step = trained(batch(), FIRST)
    sum(step.losses.values()).backward()
    assert not [n for n, p in trained.named_parameters() if p.grad is None]


def test_it_trains_on_videos_and_a_linear_probe_reads_what_it_learnt(tmp_path):
    videos = {"images": "moving_digits", "split": "train", "per_class": 3}
    optim = {"main": Optim("sgd", lr=0.05)}
    engine = Engine(Settings(steps=2, batch=8, optim=optim, log_every=1, checkpoint_seconds=0), device="cpu")
    trained = method(flip=False)
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    engine.train(trained, Data({"videos": open_source({**videos, "labels": False})}, None))
    assert any(not torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    kept = Artifact.open(save(tmp_path / "net", trained.product()).path).load()
    assert kept.input == trained.backbone.input
    streams = {"train": open_source(videos), "test": open_source({**videos, "split": "val"})}
    rows = LinearProbe().run({"model": kept}, Data(streams, None), engine).rows
    assert rows[0]["n"] == 24 and 0 <= rows[0]["value"] <= 1


def test_a_net_of_pictures_is_refused_before_any_data_is_read(tmp_path):
    stage = {
        "teach": "cvrl",
        "backbone": PICTURE,
        "data": {"videos": [{"images": "moving_digits"}], "batch": 4},
        "steps": 1,
    }
    problems, _ = check_fit(Recipe.from_dict({"seed": 0, "stages": [stage]}), tmp_path)
    assert len(problems) == 1 and "cvrl needs 'clips' from backbone; resnet10t gives" in problems[0]
    assert "over_frames" in problems[0]


@pytest.mark.parametrize("net", [{}, {"in_chans": 1}])
def test_it_trains_in_channels_last_and_on_grey(net):
    torch.manual_seed(0)
    made = resolve({"edit": "inflate", "values": {"frames": 4, "stride": 2}, "of": [{**PICTURE, **net}]}, {}, "net")
    trained = CVRL(made, hidden=8, layers=1, out=4)
    engine = Engine(Settings(steps=1, batch=4, channels_last=True, optim={"main": Optim("sgd", lr=0.1)}), device="cpu")
    engine.train(trained, Data({"videos": open_source({"images": "moving_digits", "labels": False, "fraction": 0.01})}))
    assert all(p.isfinite().all() for p in trained.parameters())
    assert made.net.conv1[0].weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_short_videos_are_remarked_on():
    videos = Data({"videos": open_source({"images": "moving_digits", "labels": False})})  # of 24 frames
    assert method().remarks(videos) == []
    long = method({**NET, "values": {"frames": 13, "stride": 2}}).remarks(videos)
    assert long == ["50 of 50 videos looked at have fewer than the 25 frames of a clip and are run through again"]


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="a batch of one video"):
        method()(batch(1), FIRST)
    with pytest.raises(MarrowError, match="no 'clip_1' and 'clip_2'"):
        method()({"image": batch()["clip_1"]}, FIRST)
    with pytest.raises(MarrowError, match="^cvrl.temperature: 0.0 is not above 0"):
        method(temperature=0.0)
    with pytest.raises(MarrowError, match="^cvrl.power: 0.0 is no power"):
        method(power=0.0)
