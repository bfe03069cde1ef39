import math

import numpy as np
import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.data.clip_interval import cumulated, sample_interval, two_starts
from marrow.data.clip_views import ClipViews, coloured
from marrow.data.colours import Colours

PLAIN = Colours(jitter=0.0, grey=0.0)


def test_the_distance_is_the_published_one(golden):
    case = np.load(golden / "cvrl" / "interval_linear_T50.npz")
    room, power = int(case["max_offset"]), float(case["power"])
    assert sample_interval(room, power, torch.from_numpy(case["u"])).tolist() == case["delta"].tolist()
    np.testing.assert_allclose(cumulated(torch.from_numpy(case["k"]), room, power).numpy(), case["cdf"], rtol=1e-6)


def by_loop(room: int, power: float, u: float) -> int:
    """The published bisection, one number at a time."""
    low, high, middle = 0, room, room // 2
    while high - low > 1:
        if float(cumulated(torch.tensor(middle), room, power)) > u:
            high, middle = middle, (middle + low) // 2
        else:
            low, middle = middle, (high + middle) // 2
    return middle


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("room", [1, 7, 219])
def test_all_at_once_is_one_at_a_time(room, power):
    u = torch.rand(25, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    assert sample_interval(room, power, u).tolist() == [by_loop(room, power, x) for x in u.tolist()]


@pytest.mark.parametrize(("power", "share"), [(1.0, 1 / 3), (2.0, 3 / 8), (math.inf, 1 / 2), (-1.0, 2 / 3)])
def test_the_mean_distance(power, share):
    u = (torch.arange(10_000, dtype=torch.double) + 0.5) / 10_000
    found = sample_interval(1000, power, u).double()
    assert found.mean().item() + 0.5 == pytest.approx(1000 * share, abs=0.1)  # half of one is cut off
    assert 0 <= found.min() and found.max() < 1000
    if 0 < power < math.inf:
        assert cumulated(torch.tensor([0, 1000]), 1000, power).tolist() == [0.0, 1.0]


def test_both_clips_fit_and_neither_is_always_the_first():
    torch.manual_seed(0)
    drawn = [two_starts(24, 8, 2, 1.0) for _ in range(300)]
    assert all(0 <= a <= 9 and 0 <= b <= 9 and not looped for a, b, looped in drawn)
    earlier = sum(a < b for a, b, _ in drawn) / sum(a != b for a, b, _ in drawn)
    assert 0.4 < earlier < 0.6 and max(b for _, b, _ in drawn) == 9


def test_a_short_video_begins_anywhere_and_says_so():
    torch.manual_seed(0)
    drawn = [two_starts(10, 8, 2, 1.0) for _ in range(200)]
    assert {a for a, _, _ in drawn} == set(range(10)) and all(looped for _, _, looped in drawn)
    view = ClipViews((8, 8), frames=8, stride=2)
    made = view({"image": torch.zeros(10, 3, 8, 8, dtype=torch.uint8)})
    assert made["looped"] == 1.0 and made["clip_2"].shape == (8, 3, 8, 8)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_a_video_that_stands_still_stands_still_afterwards(seed):
    still = {"image": noise(1, 3, 32, 32).expand(24, -1, -1, -1)}
    torch.manual_seed(seed)
    made = ClipViews((24, 24), frames=8, stride=2)(still)
    assert all((made[clip] == made[clip][:1]).all() for clip in ("clip_1", "clip_2"))
    assert not torch.equal(made["clip_1"], made["clip_2"])
    torch.manual_seed(seed)
    apart = ClipViews((24, 24), frames=8, stride=2, consistent=False)(still)
    assert not (apart["clip_1"] == apart["clip_1"][:1]).all()


def test_without_change_a_clip_is_the_frames_themselves():
    video = torch.arange(24, dtype=torch.uint8).view(24, 1, 1, 1).expand(24, 3, 8, 8)
    torch.manual_seed(0)
    made = ClipViews((8, 8), 4, 3, crop=(1.0, 1.0), flip=False, first=PLAIN, second=PLAIN)({"image": video, "label": 3})
    for clip in (made["clip_1"], made["clip_2"]):
        steps = clip[:, 0, 0, 0].diff().tolist()
        assert steps == [3, 3, 3]
    assert made["label"] == 3 and "image" not in made


def test_contrast_is_about_the_mean_of_the_clip():
    """A black and a white frame get closer to the grey between them, not each to itself."""
    clip = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 200.0)]).to(torch.uint8)
    contrast = Colours((0.0, 0.8, 0.0, 0.0), jitter=1.0, grey=0.0)
    for seed in range(20):
        torch.manual_seed(seed)
        dark, light = coloured(clip, contrast).float().mean((1, 2, 3)).tolist()
        if 0 < dark < 100:
            assert dark == pytest.approx(200 - light, abs=3) and light < 200
            return
    raise AssertionError("no draw lowered the contrast")


def test_a_blur_stays_within_its_frame():
    clip = torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), 255.0)]).to(torch.uint8)
    made = coloured(clip, Colours(jitter=0.0, grey=0.0, blur=1.0))
    assert torch.equal(made, clip)


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="videos are needed, and the source holds pictures of shape"):
        ClipViews((8, 8), 4, 2)({"image": noise(3, 8, 8)})
    with pytest.raises(MarrowError, match="is not a range of shares"):
        ClipViews((8, 8), 4, 2, crop=(0.0, 1.0))
    with pytest.raises(MarrowError, match="0.0 is no power"):
        sample_interval(10, 0.0, torch.rand(3))
