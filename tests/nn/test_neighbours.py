import math

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.nn.neighbours import nearest, shared, vote


def vectors(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_nearest_by_hand():
    keys = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0], [-1.0, 0.0]])
    cosine, index = nearest(torch.tensor([[5.0, 0.0], [0.1, 0.2]]), keys, 3)
    assert index.tolist() == [[0, 2, 1], [2, 1, 0]]
    torch.testing.assert_close(cosine[0], torch.tensor([1.0, math.sqrt(0.5), 0.0]))


@pytest.mark.parametrize("chunk", [1, 3, 7, 50, 1000])
def test_chunks_find_what_a_full_sort_finds(chunk):
    queries, keys = vectors(23, 0), vectors(50, 1)
    full = torch.nn.functional.cosine_similarity(queries[:, None], keys[None], dim=-1)
    wanted, order = full.sort(dim=1, descending=True)
    cosine, index = nearest(queries, keys, 9, chunk=chunk)
    assert torch.equal(index, order[:, :9])
    torch.testing.assert_close(cosine, wanted[:, :9])


def test_length_and_number_format_do_not_matter():
    queries, keys = vectors(8, 0), vectors(30, 1)
    lengths = torch.linspace(0.1, 9.0, 30)[:, None]
    assert torch.equal(nearest(queries, keys, 5)[1], nearest(queries.double() * 7, keys * lengths, 5)[1])
    assert nearest(queries.half(), keys.half(), 5)[0].dtype == torch.float32


def test_as_many_as_there_are_and_no_more():
    assert nearest(vectors(2, 0), vectors(4, 1), 4)[1].sort().values.tolist() == [[0, 1, 2, 3]] * 2
    for k in (0, 5):
        with pytest.raises(MarrowError, match=f"{k} neighbours cannot be found among 4 examples"):
            nearest(vectors(2, 0), vectors(4, 1), k)


def test_vote_by_hand():
    # One neighbour at 0.9 against two at 0.8: exp(0.1 / T) = 2 at T = 0.1 / ln 2, where the two sides are equal.
    cosine, label = torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[2, 0, 0]])
    even = 0.1 / math.log(2)
    assert vote(cosine, label, 4, even * 1.1).argmax().item() == 0
    assert vote(cosine, label, 4, even * 0.9).argmax().item() == 2
    score = vote(cosine, label, 4, even)
    torch.testing.assert_close(score[0, 0], score[0, 2])
    assert score[0, 1] == score[0, 3] == 0


def test_a_very_low_temperature_asks_the_nearest_alone():
    cosine, label = torch.tensor([[1.0, 0.99, 0.99]]), torch.tensor([[1, 0, 0]])
    score = vote(cosine, label, 2, 1e-4)
    assert torch.isfinite(score).all() and score.argmax().item() == 1


def test_shared_by_hand():
    a = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    b = torch.tensor([[4, 3, 2, 1], [4, 9, 8, 7], [5, 6, 7, 8]])
    assert shared(a, b).tolist() == [1.0, 0.25, 0.0]
    assert torch.equal(shared(a, b), shared(b, a))
