"""Logistic regression against scikit-learn's, and standardised features."""

import pytest
import torch
from torch.nn import functional as F

from marrow.nn.logistic import logistic, standardised


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_it_finds_the_minimum_that_scikit_learn_finds(penalty):
    from sklearn.linear_model import LogisticRegression

    torch.manual_seed(0)
    x, y = torch.randn(200, 6, dtype=torch.float64), torch.randint(0, 3, (200,))
    x[range(200), y] += 1.0
    weight, bias = logistic(x, y, 3, penalty)
    theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=1000).fit(x.numpy(), y.numpy())
    said = torch.from_numpy(theirs.predict_proba(x.numpy()))
    torch.testing.assert_close(F.linear(x, weight, bias).softmax(1), said, rtol=1e-3, atol=1e-4)


def test_standardised_features_have_mean_0_and_deviation_1_and_constants_vanish():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    x[:, 1] = 7.0
    mine, other = standardised(x, x[:4] + 1)
    torch.testing.assert_close(mine.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(mine.std(0, correction=0), torch.tensor([1.0, 0.0, 1.0]))
    assert not other[:, 1].any() and not torch.equal(other[:, 0], mine[:4, 0])
