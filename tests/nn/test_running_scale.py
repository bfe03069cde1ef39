"""Statistics seen in parts are those of the whole; missing numbers become the median and are flagged."""

import torch

from marrow.nn.running_scale import RunningScale

NAN = float("nan")


def seen(rows: torch.Tensor, *parts: int) -> RunningScale:
    scale = RunningScale(rows.shape[1])
    for part in rows.split(parts or (len(rows),)):
        scale(part)
    return scale.eval()


def test_parts_of_any_size_give_the_moments_of_all_rows():
    rows = torch.randn(90, 3) * torch.tensor([1.0, 50.0, 1e-3]) + torch.tensor([0.0, 1000.0, 5.0])
    scale = seen(rows, 7, 1, 40, 42)
    torch.testing.assert_close(scale.mean, rows.mean(0))
    torch.testing.assert_close(scale.squares / 90, rows.var(0, unbiased=False), rtol=1e-3, atol=1e-9)
    z = scale(rows)[:, :2]
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, unbiased=False), torch.ones(2), atol=1e-4, rtol=0)


def test_what_is_missing_is_the_median_and_says_so():
    rows = torch.tensor([[1.0, 5.0], [2.0, NAN], [9.0, 7.0], [NAN, NAN]])
    scale = seen(rows)
    assert scale.median.tolist() == [2.0, 5.0] and scale.mean.tolist() == [4.0, 6.0]
    out = scale(torch.tensor([[NAN, 7.0]]))
    deviation = ((9.0 + 4.0 + 25.0) / 3) ** 0.5
    torch.testing.assert_close(out, torch.tensor([[(2.0 - 4.0) / deviation, 1.0, 1.0, 0.0]]))


def test_a_column_that_never_changes_or_never_comes_stays_finite():
    scale = seen(torch.tensor([[3.0, NAN], [3.0, NAN]]), 1, 1)
    assert scale(torch.tensor([[3.0, NAN], [4.0, 2.0]])).tolist() == [[0.0, 0.0, 0.0, 1.0], [1.0, 2.0, 0.0, 0.0]]


def test_only_training_moves_the_statistics():
    scale = seen(torch.randn(8, 2))
    before = {k: v.clone() for k, v in scale.state_dict().items()}
    scale(torch.randn(8, 2))
    assert set(before) == {"seen", "mean", "squares", "median"}
    assert all(torch.equal(v, before[k]) for k, v in scale.state_dict().items())
