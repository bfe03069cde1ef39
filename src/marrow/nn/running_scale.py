"""Measured numbers of any unit on one scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningScale(nn.Module):
    """(B, F), NaN where a number is missing -> (B, 2F): z-scores, and 1.0 where a number was missing.

    A missing number is replaced by the median. The statistics are those of all rows that were seen in training, in
    buffers; in training, too, a row is scaled by them rather than by its batch. The median is the mean of the
    batches' medians, each weighed by its rows. Before the first row numbers pass as they are, missing ones as 0.
    """

    def __init__(self, width: int):
        super().__init__()
        for name in ("seen", "mean", "squares", "median"):  # squares: the sum of squared distances from the mean
            self.register_buffer(name, torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        missing = x.isnan()
        if self.training:
            self._see(x.detach(), missing)
        variance = self.squares / self.seen.clamp(min=1.0)
        # A column that never changed says nothing; dividing by what rounding left of it would make it loud.
        deviation = torch.where(variance > 1e-12, variance, torch.ones_like(variance)).sqrt()
        z = (torch.where(missing, self.median, x) - self.mean) / deviation
        return torch.cat([z, missing.float()], 1)

    @torch.no_grad()
    def _see(self, x: Tensor, missing: Tensor) -> None:
        """Joins the moments of two parts (Chan et al., 1979), column by column."""
        count = (~missing).sum(0).float()
        some = count.clamp(min=1.0)
        mean = x.nan_to_num(0.0).sum(0) / some
        squares = torch.where(missing, 0.0, x - mean).square().sum(0)
        total = (self.seen + count).clamp(min=1.0)
        share, apart = count / total, mean - self.mean
        self.squares += squares + apart.square() * self.seen * share
        self.mean += apart * share
        self.median += (x.nanmedian(0).values.nan_to_num(0.0) - self.median) * share
        self.seen += count
