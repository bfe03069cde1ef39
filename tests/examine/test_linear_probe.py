"""The linear probe: what it says of features that are known, of few labels, and what it refuses."""

import pytest
import torch

from marrow.core.clip_input import ClipInput
from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import Source
from marrow.examine.linear_probe import PENALTIES, LinearProbe, chosen_penalty, shots_of


class Mean(Backbone):
    """The mean of the three channels of each image, the first many times as large."""

    spec, dim, gives, input = {"source": "test:mean"}, 3, frozenset({"pooled"}), Input(size=(4, 4))

    def features(self, x, *, maps=()):
        return Features(x.float().mean((2, 3)) * torch.tensor([1e4, 1.0, 1.0]))


class Coloured(Source):
    """The label is the channel, of the last two, that is brighter; the first is noise."""

    classes = ["green", "blue"]

    def __init__(self, count: int = 60, seed: int = 0, labelled: bool = True):
        draw = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 100, (count, 3, 4, 4), generator=draw, dtype=torch.uint8)
        for i in range(count):
            self.images[i, 1 + i % 2] += 60
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], **({"label": index % 2} if self.labelled else {})}

    def fraction(self, index: int) -> float:
        return index / len(self)

    def name(self, index: int) -> str:
        return f"picture {index}"


def probe(train: Source, test: Source, **arguments):
    return LinearProbe(**arguments).run({"model": Mean()}, Data({"train": train, "test": test}), Engine(device="cpu"))


def test_separable_classes_are_told_apart():
    report = probe(Coloured(), Coloured(40, seed=1))
    assert report.rows[0]["metric"] == "top1" and report.rows[0]["value"] == 1.0
    assert report.rows[0]["n"] == 40 and report.rows[0]["train"] == 60
    assert report.rows[1]["value"] == 1.0 and report.rows[0]["penalty"] in PENALTIES


def test_a_large_useless_feature_does_no_harm_where_features_are_standardised():
    assert probe(Coloured(20), Coloured(40, seed=1), normalized=True).rows[0]["value"] == 1.0
    assert probe(Coloured(20), Coloured(40, seed=1), normalized=False).rows[0]["value"] < 1.0


def test_few_labels_are_drawn_anew_and_alike_in_every_run():
    first, second = (probe(Coloured(), Coloured(40, seed=1), shots=3, draws=4) for _ in range(2))
    assert first.rows == second.rows and first.rows[0]["train"] == 6
    assert first.tensors["top1"].shape == (4,)
    assert first.rows[0]["value"] == pytest.approx(first.tensors["top1"].mean().item())


def test_shots_are_so_many_of_each_class():
    label = torch.tensor([0, 0, 0, 2, 2, 2, 2])
    index = shots_of(label, 3, torch.Generator().manual_seed(0))
    assert label[index].bincount().tolist() == [3, 0, 3] and len(set(index.tolist())) == 6
    with pytest.raises(MarrowError, match="class 0 has 3 training images, 4 are drawn"):
        shots_of(label, 4, torch.Generator())


def test_noise_gets_a_large_penalty_and_signal_a_small_one():
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 2
    noise = torch.randn(60, 30, generator=draw)
    signal = torch.randn(60, 2, generator=draw) * 0.1 + y[:, None]
    large = chosen_penalty(noise, y, 2, torch.Generator().manual_seed(0))
    assert large == max(PENALTIES) and chosen_penalty(signal, y, 2, torch.Generator().manual_seed(0)) < large


class Brightness(Backbone):
    """The brightness of each clip."""

    spec, dim, modality, gives = {"source": "test:brightness"}, 1, "video", frozenset({"pooled", "clips"})
    input = ClipInput(size=(4, 4), frames=2, stride=1)

    def features(self, x, *, maps=()):
        return Features(x.float().mean((1, 2, 3, 4))[:, None])


class Flashes(Source):
    """Dark or light videos of nine frames; the clip in the middle of each test video is as that of the other class."""

    classes = ["dark", "light"]

    def __init__(self, misleading: bool):
        self.misleading = misleading

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict:
        bright = torch.full((9,), 40 + 160 * (index % 2) + index // 2)
        if self.misleading:
            bright[3:6] = 250 - bright[3:6]
        return {"image": bright.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).to(torch.uint8), "label": index % 2}

    def fraction(self, index: int) -> float:
        return index / len(self)

    def name(self, index: int) -> str:
        return f"video {index}"


def test_several_clips_of_a_video_are_heard_together():
    def value(**arguments):
        data = Data({"train": Flashes(False), "test": Flashes(True)})
        return LinearProbe(**arguments).run({"model": Brightness()}, data, Engine(device="cpu")).rows[0]["value"]

    assert value() == 0.0 and value(clips=3) == 1.0 and value(clips=3, crops=2) == 1.0


def test_clips_of_pictures_are_refused():
    with pytest.raises(MarrowError, match="linear_probe.clips: clips and crops are of videos"):
        probe(Coloured(), Coloured(), clips=2)
    with pytest.raises(MarrowError, match="linear_probe.clips: 0 clips"):
        LinearProbe(clips=0)


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="the stream 'test' has images without labels"):
        probe(Coloured(), Coloured(labelled=False))
    with pytest.raises(MarrowError, match="linear_probe.draws: 3 draws of all images are one and the same"):
        LinearProbe(draws=3)
    with pytest.raises(MarrowError, match="linear_probe.shots: 1 images a class"):
        LinearProbe(shots=1)
    with pytest.raises(MarrowError, match="single training image"):
        probe(Coloured(2), Coloured(4))
