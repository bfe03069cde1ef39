import random

from marrow.shrink.evolution import crossed, evolve, mutated

CHOICES = [(3, 2, 1, 0)] * 12 + [(1, 0)] * 4
GOAL = (2, 0, 1, 3, 2, 2, 0, 1, 3, 0, 1, 2, 1, 0, 1, 1)


def score(many):
    return [float(sum(g == goal for g, goal in zip(genes, GOAL))) for genes in many]


def draw(rng):
    while True:
        genes = tuple(rng.choice(values) for values in CHOICES)
        if fits(genes):
            return genes


def fits(genes):
    return sum(genes) <= 22


def search(generations=8, initial=20, seed=0, score=score):
    return evolve(CHOICES, draw, tuple, fits, score, initial=initial, population=10, generations=generations, seed=seed)


def test_it_beats_as_many_random_ones():
    for seed in range(3):
        found = search(seed=seed)
        alone = search(generations=0, initial=len(found), seed=seed)
        assert len(alone) == len(found) and found[0].score >= alone[0].score + 2


def test_the_seed_decides():
    assert search() == search() and search() != search(seed=1)


def test_all_fit_are_new_and_stand_in_order():
    found = search()
    assert all(fits(c.genes) for c in found)
    assert len({c.genes for c in found}) == len(found) == 20 + 8 * 20
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    assert {c.generation for c in found} == set(range(9))


def test_of_equals_the_earlier_one_is_first():
    found = search(generations=2, score=lambda many: [0.0] * len(many))
    assert [c.generation for c in found] == sorted(c.generation for c in found)


def test_one_form_of_genes_is_scored_once():
    asked = []

    def remember(many):
        asked.extend(many)
        return score(many)

    def tidy(genes):
        return (0, *genes[1:])

    evolve(CHOICES, draw, tidy, fits, remember, initial=30, population=5, generations=2, seed=0)
    assert len(set(asked)) == len(asked) and {genes[0] for genes in asked} == {0}


def test_a_small_space_ends_the_search():
    found = evolve([(1, 0)] * 2, lambda rng: (rng.choice((0, 1)), rng.choice((0, 1))), tuple, lambda genes: True,
                   lambda many: [float(sum(g)) for g in many], initial=10, population=3, generations=2, seed=0)  # fmt: skip
    assert len(found) == 4 and found[0].genes == (1, 1)


def test_children_have_the_genes_of_their_parents():
    rng = random.Random(0)
    one, other = (3,) * 12 + (1,) * 4, (0,) * 16
    children = [crossed(one, other, rng) for _ in range(200)]
    assert 0.4 < sum(child[0] == 3 for child in children) / 200 < 0.6
    mutants = [mutated(one, CHOICES, rng) for _ in range(400)]
    assert 0.15 < sum(m[0] != 3 for m in mutants) / 400 < 0.3  # 0.3, less a quarter that draws the same again
    assert 0.22 < sum(m[-1] == 0 for m in mutants) / 400 < 0.38  # of two values it takes the other
