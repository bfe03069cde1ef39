import numpy as np
import pytest
import torch
from torch.nn import functional as F

from marrow.core.errors import MarrowError
from marrow.nn.nested_search import funnel, mega_macs, search
from marrow.nn.ranking import average_precision_at, recall_at


def points(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_a_funnel_finds_what_the_published_procedure_finds(golden):
    case = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(golden / "mrl" / "funnel_retrieval.npz").items()}
    shortlist, found = funnel(case["query"], case["db"], case["dims"].tolist(), case["shortlist_sizes"].tolist())
    assert torch.equal(shortlist, case["shortlist"]) and torch.equal(found, case["funnel"])
    hits = case["db_label"][found] == case["query_label"][:, None]
    assert float(recall_at(hits, 1).mean()) == pytest.approx(float(case["top1"]))
    assert float(average_precision_at(hits, int(case["k"])).mean()) == pytest.approx(float(case["map_at_k"]))


def test_a_shortlist_of_everything_is_a_search_by_the_last_size():
    queries, keys = points(5), points(40, seed=1)
    _, found = funnel(queries, keys, (2, 16), (40,))
    wanted = (F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T).argsort(1, descending=True)
    assert torch.equal(found, wanted)
    assert torch.equal(found[:, :7], search(queries, keys, 7))


def test_what_is_cut_is_normalised_anew():
    # By two numbers the second key points the same way; by its share of the whole length it would come last.
    keys = torch.tensor([[0.9, 0.4, 0.0], [0.1, 0.0, 9.0]])
    assert funnel(torch.tensor([[1.0, 0.0, 0.0]]), keys, (2,), ())[1].tolist() == [[1, 0]]


def test_the_shortlists_of_the_paper_cost_128_times_less():
    assert mega_macs(1_281_167, (2048,), ()) == pytest.approx(2623.83, abs=0.01)
    assert mega_macs(1_281_167, (16, 2048), (200,)) == pytest.approx(16 * 1.281167 + 0.4096)


def test_faiss_finds_the_same():
    pytest.importorskip("faiss", reason="the extra retrieval is not installed")
    queries, keys = points(8), points(300, seed=1)
    exact = search(queries, keys, 5)
    assert torch.equal(search(queries, keys, 5, "flat"), exact)
    shared = (search(queries, keys, 5, "hnsw")[:, :, None] == exact[:, None]).any(-1).float().mean()
    assert shared > 0.9
    assert torch.equal(funnel(queries, keys, (4, 16), (30,), "flat")[1], funnel(queries, keys, (4, 16), (30,))[1])


def test_what_makes_no_sense_is_refused():
    queries, keys = points(2), points(10, seed=1)
    with pytest.raises(MarrowError, match="size 32 > embedding width 16"):
        funnel(queries, keys, (4, 32), (5,))
    with pytest.raises(MarrowError, match="3 sizes are followed by 2 sortings, each of a shortlist; 1 are given"):
        funnel(queries, keys, (4, 8, 16), (5,))
    with pytest.raises(MarrowError, match="5, 6 grow"):
        funnel(queries, keys, (4, 8, 16), (5, 6))
    with pytest.raises(MarrowError, match="20 neighbours cannot be found among 10"):
        funnel(queries, keys, (4, 16), (20,))
    with pytest.raises(MarrowError, match="unknown index 'tree'; known: exact, flat, hnsw"):
        search(queries, keys, 2, "tree")
