"""The few-shot probe: certain of what is plain, at chance where there is nothing to tell, and the same in every run."""

import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import Source
from marrow.examine.few_shot import FewShot


class Corners(Backbone):
    """The mean of each quarter of the red channel."""

    spec, dim, gives, input = {"source": "test:corners"}, 4, frozenset({"pooled"}), Input(size=(4, 4))

    def features(self, x, *, maps=()):
        return Features(x[:, 0].float().reshape(-1, 2, 2, 2, 2).mean((2, 4)).flatten(1))


class Marked(Source):
    """Noise; the quarter that is the label is brighter by `by`."""

    classes = ["a", "b", "c", "d"]

    def __init__(self, each: int = 12, by: int = 90, labelled: bool = True):
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 100, (4 * each, 3, 4, 4), generator=draw, dtype=torch.uint8)
        for i, image in enumerate(self.images):
            row, column = divmod(i % 4, 2)
            image[0, 2 * row :, 2 * column :][:2, :2] += by
        self.labelled = labelled

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], **({"label": index % 4} if self.labelled else {})}

    def fraction(self, index):
        return index / len(self)

    def name(self, index):
        return f"picture {index}"


def probe(source, **arguments):
    arguments = {"ways": 3, "queries": 5, "episodes": 80, **arguments}
    return FewShot(**arguments).run({"model": Corners()}, Data({"test": source}), Engine(device="cpu"))


def test_plain_classes_are_told_apart_and_noise_is_not():
    plain, noise = (probe(Marked(by=by)) for by in (140, 0))
    [row] = plain.rows
    assert row["value"] > 0.95 and row["n"] == 80 * 3 * 5 and (row["metric"], row["shots"]) == ("few_shot_top1", 1)
    assert abs(noise.rows[0]["value"] - 1 / 3) < 0.07 and noise.rows[0]["ci95"] < 0.05


def test_more_shots_tell_more():
    one, five = (probe(Marked(by=40), shots=shots).rows[0] for shots in (1, 5))
    assert five["value"] > one["value"] + one["ci95"]


def test_it_is_the_mean_over_the_same_episodes_in_every_run():
    first, again = (probe(Marked(by=40)) for _ in range(2))
    assert first.rows == again.rows and len(first.tensors["top1"]) == 80
    assert first.rows[0]["value"] == pytest.approx(first.tensors["top1"].mean().item())
    assert first.rows[0]["ci95"] == pytest.approx(1.96 * first.tensors["top1"].std().item() / 80**0.5)
    assert len(first.tensors["top1"].unique()) > 2


def test_one_episode_by_hand():
    probe, embedding = FewShot(ways=2, shots=2, queries=1, episodes=1), torch.eye(4)[[0, 1, 0, 2, 3, 2]].double()
    assert probe._right(embedding, torch.tensor([[0, 1, 2], [3, 4, 5]])).tolist() == [1.0]
    assert probe._right(embedding, torch.tensor([[0, 1, 5], [3, 4, 5]])).tolist() == [0.5]


@pytest.mark.parametrize("arguments, words", [
    ({"ways": 5}, "few_shot: 4 classes have 1 [+] 5 images or more; 5 are needed"),
    ({"queries": 12}, "few_shot: 0 classes have 1 [+] 12 images"),
    ({"ways": 1}, "few_shot.ways: 1 classes cannot be told apart"),
    ({"shots": 0}, "few_shot.shots: 0 is not above 0"),
])  # fmt: skip
def test_bad_input_is_refused(arguments, words):
    with pytest.raises(MarrowError, match=words):
        probe(Marked(), **arguments)


def test_images_without_labels_are_refused():
    with pytest.raises(MarrowError, match="the stream 'test' has images without labels"):
        probe(Marked(labelled=False))
