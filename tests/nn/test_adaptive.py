import torch

from marrow.nn.adaptive import adaptive, fit_thresholds

# Three sizes, four images of two classes; how sure a size is of class 0.
SURE = torch.tensor([[0.9, 0.6, 0.8, 0.55], [0.95, 0.3, 0.9, 0.6], [0.99, 0.1, 0.2, 0.7]], dtype=torch.float64)
PROBABILITY = torch.stack([SURE, 1 - SURE], -1)


def test_a_threshold_of_0_always_takes_the_smallest_and_one_of_1_the_largest():
    label, used = adaptive(PROBABILITY, torch.zeros(2))
    assert used.tolist() == [0, 0, 0, 0] and label.tolist() == [0, 0, 0, 0]
    label, used = adaptive(PROBABILITY, torch.ones(2))
    assert used.tolist() == [2, 2, 2, 2] and label.tolist() == [0, 1, 1, 0]


def test_the_first_that_is_sure_enough_answers():
    label, used = adaptive(PROBABILITY, torch.tensor([0.85, 0.75]))
    assert used.tolist() == [0, 2, 1, 2] and label.tolist() == [0, 1, 0, 0]


def test_thresholds_are_the_smallest_of_the_best_against_a_written_out_search():
    torch.manual_seed(0)
    probability, label = torch.randn(4, 200, 5).mul(2).softmax(-1), torch.randint(0, 5, (200,))
    found = fit_thresholds(probability, label)
    for i in range(3):
        scores = {}
        for t in torch.linspace(0.1, 1.0, 100, dtype=torch.float64).tolist():
            said = [probability[i if probability[i, n].max().item() > t else i + 1, n].argmax() for n in range(200)]
            scores[t] = sum(int(s == y) for s, y in zip(said, label))
        best = max(scores.values())
        assert float(found[i]) == min(t for t, score in scores.items() if score == best)


def test_a_smaller_size_that_is_always_right_is_always_taken():
    label = SURE[0].lt(0.5).long()
    assert float(fit_thresholds(PROBABILITY, label)[0]) == torch.linspace(0.1, 1.0, 100, dtype=torch.float64)[0]


def test_one_size_alone_has_no_threshold():
    assert fit_thresholds(PROBABILITY[:1], torch.zeros(4, dtype=torch.long)).shape == (0,)
    assert adaptive(PROBABILITY[:1], torch.empty(0))[1].tolist() == [0, 0, 0, 0]
