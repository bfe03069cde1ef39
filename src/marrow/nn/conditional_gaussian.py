"""vCLUB: how much one code tells about another, bounded from above by a learned Gaussian of the one given the other."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call


class ConditionalGaussian(nn.Module):
    """q(s | c), a Gaussian whose mean and variances a small net makes of c (Cheng et al., ICML 2020)."""

    def __init__(self, given: int, told: int, hidden: int = 64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(given, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 2 * told))

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, D_s)."""
        mean, spread = self.net(c).chunk(2, 1)
        return mean, spread.tanh()  # bounded, so that no code is told with certainty

    def surprise(self, c: Tensor, s: Tensor) -> Tensor:
        """The mean of -log q(s_i | c_i), up to a constant: what the net itself learns by; codes get no gradient."""
        mean, spread = self(c.detach())
        return ((s.detach() - mean).square() / spread.exp() + spread).sum(1).mean() / 2

    def bound(self, c: Tensor, s: Tensor) -> Tensor:
        """The mean of log q(s_i | c_i) - log q(s_j | c_i) over i and j; the net gets no gradient (vCLUB)."""
        fixed = {name: p.detach() for name, p in self.named_parameters()}
        mean, spread = functional_call(self, fixed, (c,))
        own = (s - mean).square()
        # The mean over j of (s_j - mean_i)^2 from the moments of s, without a table of all pairs.
        other = s.square().mean(0) - 2 * mean * s.mean(0) + mean.square()
        return ((other - own) / spread.exp()).sum(1).mean() / 2
