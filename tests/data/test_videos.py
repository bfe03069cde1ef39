"""Videos as sources: generated ones, folders of frames, files."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from marrow.core.clip_input import ClipInput
from marrow.core.contracts import Input
from marrow.core.errors import MarrowError
from marrow.core.footage import Footage, clip_numbers, footage
from marrow.core.preprocess import plain
from marrow.core.source import Unreadable
from marrow.data.moving_digits import LENGTH, MOTIONS, MovingDigits
from marrow.data.open import open_source
from marrow.data.views import Augment


@pytest.fixture(scope="module")
def moving() -> MovingDigits:
    return MovingDigits()


def frame(value: int) -> Image.Image:
    return Image.fromarray(np.full((6, 8, 3), value, np.uint8))


def write(folder, values) -> None:
    folder.mkdir(parents=True)
    for i, value in enumerate(values):
        frame(value).save(folder / f"f{i}.png")


def ink(video: torch.Tensor) -> torch.Tensor:
    """Where the digit is, (L, H, W): the distance from the colour of the corners, which is that of the canvas."""
    return (video.float() - video[..., :1, :1].float()).norm(dim=1)


def centre(video: torch.Tensor) -> torch.Tensor:
    """(L, 2): the mean row and column of the ink."""
    seen = ink(video)
    rows, columns = torch.arange(32.0).view(1, -1, 1), torch.arange(32.0).view(1, 1, -1)
    return torch.stack([(seen * rows).sum((1, 2)), (seen * columns).sum((1, 2))], 1) / seen.sum((1, 2))[:, None]


@pytest.mark.parametrize("index", range(32))
def test_a_digit_moves_as_its_label_says(moving, index):
    video = moving[index]["image"]
    motion = MOTIONS[moving.label(index)]
    assert video.shape == (LENGTH, 3, 32, 32) and video.dtype == torch.uint8
    down, right = (centre(video)[-1] - centre(video)[0]).tolist()
    grown = ((ink(video)[-1] > 40).sum() / (ink(video)[0] > 40).sum()).item()
    match motion:
        case "left" | "right" | "up" | "down":
            along = {"left": -right, "right": right, "up": -down, "down": down}[motion]
            assert along > 5 and min(abs(down), abs(right)) < 1.5
        case "zoom in":
            assert grown > 1.2
        case "zoom out":
            assert grown < 0.85
        case _:
            assert max(abs(down), abs(right)) < 2.5 and not torch.equal(video[0], video[-1])


def test_a_changing_video_ends_as_another_digit():
    """Apart from the motion: in one that only moves left, the colours of the canvas stay."""
    changing, still = MovingDigits(changing=True), MovingDigits()
    assert torch.equal(still[0]["image"][0, :, 0, 0], still[0]["image"][-1, :, 0, 0])
    assert not torch.equal(changing[0]["image"][0, :, 0, 0], changing[0]["image"][-1, :, 0, 0])


def test_frames_are_the_same_whole_one_by_one_and_in_another_process(moving):
    again = pickle.loads(pickle.dumps(moving))
    some = again.undecoded(5)["image"].frames([7, 3, 3])
    assert torch.equal(some, moving[5]["image"][[7, 3, 3]])
    assert again.fraction(5) == moving.fraction(5) != moving.fraction(13)


def test_it_opens_by_name_in_splits_without_an_example_in_two():
    parts = [open_source({"images": "moving_digits", "split": split}) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 4000 and min(map(len, parts)) > 500
    few = open_source({"images": "moving_digits", "split": "train", "per_class": 2})
    assert sorted(few.label(i) for i in range(len(few))) == sorted(2 * list(range(8)))


def test_folders_of_frames(tmp_path):
    write(tmp_path / "run" / "b", range(0, 110, 10))  # f10 comes after f9
    write(tmp_path / "walk" / "a", [5, 6])
    source = open_source({"images": str(tmp_path), "videos": "frames"})
    assert source.classes == ["run", "walk"] and [source.name(i) for i in range(2)] == ["run/b", "walk/a"]
    assert source[0]["image"][:, 0, 0, 0].tolist() == list(range(0, 110, 10)) and source[1]["label"] == 1
    assert source.undecoded(0)["image"].frames([10, 1])[:, 0, 0, 0].tolist() == [100, 10]
    assert len({source.fraction(0), source.fraction(1)}) == 2
    (tmp_path / "walk" / "a" / "f1.png").write_bytes(b"no picture")
    with pytest.raises(Unreadable, match="f1.png"):
        source[1]


def test_splits_of_folders_of_frames_count_the_same_classes(tmp_path):
    write(tmp_path / "train" / "run" / "a", [1])
    write(tmp_path / "train" / "walk" / "a", [2])
    write(tmp_path / "val" / "walk" / "b", [3])
    source = open_source({"images": str(tmp_path), "videos": "frames", "split": "val"})
    assert len(source) == 1 and source.label(0) == 1


def test_frames_of_unequal_size_are_no_video(tmp_path):
    write(tmp_path / "a", [1, 2])
    frame(3).resize((4, 4)).save(tmp_path / "a" / "f2.png")
    with pytest.raises(Unreadable, match="a frame of \\(4, 4\\) pixels in a video of \\(6, 8\\)"):
        open_source({"images": str(tmp_path), "videos": "frames"})[0]


def test_frames_at_the_top_are_refused(tmp_path):
    frame(1).save(tmp_path / "f.png")
    with pytest.raises(MarrowError, match="frames at its top; each video is a folder of its own"):
        open_source({"images": str(tmp_path), "videos": "frames"})


def test_video_files(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    (tmp_path / "run").mkdir()
    with av.open(str(tmp_path / "run" / "a.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for value in range(0, 240, 20):
            shown = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), format="rgb24")
            file.mux(stream.encode(shown))
        file.mux(stream.encode())
    source = open_source({"images": str(tmp_path), "videos": "files"})
    assert source.classes == ["run"] and source[0]["image"].shape == (12, 3, 32, 32)
    grey = source.undecoded(0)["image"].frames([9, 2])[:, 0].float().mean((1, 2))
    torch.testing.assert_close(grey, torch.tensor([180.0, 40.0]), atol=6, rtol=0)
    (tmp_path / "run" / "b.mp4").write_bytes(b"no video")
    with pytest.raises(Unreadable, match="run/b.mp4"):
        open_source({"images": str(tmp_path), "videos": "files"})[1]


def test_the_plain_clip_lies_in_the_middle():
    video = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 3, 8, 8)
    view = plain(ClipInput.of(Input(size=(8, 8)), frames=4, stride=2))
    assert view({"image": video})["image"][:, 0, 0, 0].tolist() == [6, 8, 10, 12]
    assert view({"image": video[:3]})["image"][:, 0, 0, 0].tolist() == [0, 2, 1, 0]
    assert clip_numbers(18, 3, 2, 20) == [18, 0, 2]


def test_a_view_of_pictures_is_told_of_a_video(moving):
    with pytest.raises(MarrowError, match="the source holds videos .* and pictures are needed"):
        Augment((32, 32))(moving.undecoded(0))
    with pytest.raises(MarrowError, match="videos are needed, and the source holds pictures"):
        footage(torch.zeros(3, 8, 8), "cvrl")


def test_a_frame_is_read_once():
    asked = []
    read = Footage(5, lambda numbers: asked.append(list(numbers)) or torch.tensor(numbers))
    assert read.frames([4, 1, 4]).tolist() == [4, 1, 4] and asked == [[1, 4]]
