import numpy as np
import torch

from marrow.nn.top_k import TopKPerClass, select_topk_per_class


def posteriors(rows: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_golden(golden):
    case = np.load(golden / "ssld" / "topk_per_class.npz")
    selected = select_topk_per_class(torch.tensor(case["probs"]), int(case["k"]))
    np.testing.assert_array_equal(selected.numpy(), np.sort(case["selected"]))


def test_at_most_k_a_class_none_twice_and_never_a_surer_one_left_out():
    probs = posteriors(300, 6)
    chosen = select_topk_per_class(probs, 20)
    confidence, label = probs.max(-1)
    assert len(chosen.unique()) == len(chosen)
    left = torch.ones(300, dtype=torch.bool).index_fill(0, chosen, False)
    for c in range(6):
        kept = chosen[label[chosen] == c]
        assert len(kept) == min(20, int((label == c).sum()))
        others = confidence[left & (label == c)]
        assert not len(others) or confidence[kept].min() >= others.max()


def test_batches_in_any_order_choose_the_same():
    probs = posteriors(100, 4)
    top = TopKPerClass(7)
    for rows in reversed(torch.arange(100).split(13)):
        top.update(probs[rows], rows)
    index, label, confidence = top.result()
    torch.testing.assert_close(index, select_topk_per_class(probs, 7))
    torch.testing.assert_close(label, probs[index].argmax(-1))
    torch.testing.assert_close(confidence, probs[index].amax(-1))


def test_of_equals_the_first_is_kept():
    assert select_topk_per_class(torch.tensor([[0.8, 0.2]]).repeat(5, 1), 2).tolist() == [0, 1]


def test_short_classes_give_what_they_have_and_nothing_gives_nothing():
    assert select_topk_per_class(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), 5).tolist() == [0, 1, 2]
    assert select_topk_per_class(torch.empty(0, 3), 5).tolist() == []
