import pytest
import torch

from marrow.nn.windows import joined, places, windows

SHAPES = [((60, 80), (60, 80), 0.25), ((60, 81), (32, 32), 0.25), ((33, 32), (32, 32), 0.0), ((100, 64), (32, 64), 0.5)]


@pytest.mark.parametrize(("picture", "window", "overlap"), SHAPES)
def test_windows_lie_inside_and_overlap_as_asked(picture, window, overlap):
    corners = places(picture, window, overlap)
    for axis in (0, 1):
        starts = sorted({corner[axis] for corner in corners})
        assert starts[0] == 0 and starts[-1] + window[axis] == picture[axis]
        # evenly spread corners are rounded to pixels
        assert all(a + window[axis] - b >= overlap * window[axis] - 1 for a, b in zip(starts, starts[1:]))
        assert all(b <= a + window[axis] for a, b in zip(starts, starts[1:]))


def test_no_more_windows_than_needed():
    assert places((60, 80), (60, 80), 0.25) == [(0, 0)]
    assert places((32, 64), (32, 32), 0.0) == [(0, 0), (0, 32)]
    assert len(places((32, 65), (32, 32), 0.0)) == 3


@pytest.mark.parametrize(("picture", "window", "overlap"), SHAPES)
def test_what_is_cut_and_joined_is_the_picture(picture, window, overlap):
    x = torch.rand(2, 3, *picture)
    corners = places(picture, window, overlap)
    cut = windows(x, window, corners)
    assert cut.shape == (2 * len(corners), 3, *window)
    torch.testing.assert_close(joined(cut, picture, corners), x)


def test_where_windows_overlap_the_mean_is_taken():
    x = torch.cat([torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 2, 4)])
    out = joined(x, (2, 6), [(0, 0), (0, 2)])
    assert out[0, 0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]
