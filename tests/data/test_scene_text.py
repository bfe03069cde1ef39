"""What is said about a scene is true of exactly the digits that it names, by its annotations and pixels alone."""

import re

import pytest
import torch

from marrow.data.scene_objects import COLOURS, MOTIONS, STILL, Thing
from marrow.data.scene_text import WORDS, Query
from marrow.data.scenes import DigitScenes

PHRASE = re.compile(
    r"the (?:(?P<size>larger|smaller) )?(?:(?P<colour>red|green|blue|yellow|purple|cyan) )?"
    r"(?P<noun>zero|one|two|three|four|five|six|seven|eight|nine|digit)(?P<many>e?s)?"
    r"(?: (?P<motion>moving left|moving right|moving up|moving down|standing still|turning back))?"
)
NOUNS = {**{word: i for i, word in enumerate(WORDS)}, "digit": None}


def direction(scene: dict, digit: int) -> str:
    """What a digit does, by where its pixels move."""
    steps = []
    for t, flow in enumerate(scene["flow"]):
        if (mask := scene["masks"][digit, t]).any():
            steps.append(flow[:, mask].mean(1))
    right, down = torch.stack(steps).T
    if not (right.any() or down.any()):
        return "standing still"
    if (right.abs() >= 2 * down.abs()).all() and len(set(right.sign().tolist())) == 1:
        return "moving right" if right[0] > 0 else "moving left"
    if (down.abs() >= 2 * right.abs()).all() and len(set(down.sign().tolist())) == 1:
        return "moving down" if down[0] > 0 else "moving up"
    return "turning back"


def colour(scene: dict, digit: int) -> str:
    """The colour of the palette whose hue is nearest to what is painted."""
    pixels = scene["image"].movedim(-3, 0)[:, scene["masks"][digit]].float().mean(1)
    palette = torch.tensor(list(COLOURS.values())).float()
    return list(COLOURS)[torch.cosine_similarity(pixels[None], palette).argmax()]


def true_of(text: str, scene: dict) -> list[bool]:
    """For each digit whether the text names it."""
    said = PHRASE.fullmatch(text)
    assert said, text
    meant = []
    for i, label in enumerate(scene["labels"].tolist()):
        fits = said["colour"] in (None, colour(scene, i))
        fits &= NOUNS[said["noun"]] in (None, label)
        meant.append(fits and (said["motion"] is None or said["motion"] == direction(scene, i)))
    if said["size"]:
        sides = [side for side, fit in zip(scene["sides"].tolist(), meant) if fit]
        assert len(sides) == 2 and max(sides) >= 1.25 * min(sides)
        wanted = max(sides) if said["size"] == "larger" else min(sides)
        meant = [fit and side == wanted for fit, side in zip(meant, scene["sides"].tolist())]
    assert bool(said["many"]) == (sum(meant) > 1), text
    return meant


@pytest.fixture(scope="module")
def told() -> dict[str, list[dict]]:
    """Scenes of few different digits, so that texts often name several and comparisons occur."""
    few = {"count": 100, "digits": (1, 6, 7), "objects": (3, 6), "hidden": 0.3}
    small = {**few, "count": 40, "frames": 5, "side": (12, 24), "objects": (3, 5)}
    sources = {"still": DigitScenes(**few), "clips": DigitScenes(**small), "unique": DigitScenes(**small, unique=True)}
    return {kind: [source[i] for i in range(len(source))] for kind, source in sources.items()}


@pytest.mark.parametrize("kind", ["still", "clips", "unique"])
def test_a_text_is_true_of_exactly_the_digits_that_it_names(told, kind):
    for scene in told[kind]:
        assert len(set(scene["texts"])) == len(scene["texts"]) >= 1
        assert [true_of(text, scene) for text in scene["texts"]] == scene["targets"].tolist()


def test_texts_name_one_several_and_none(told):
    named = torch.cat([scene["targets"].sum(1) for kind in ("still", "clips") for scene in told[kind]])
    shares = [(named == 0).float().mean(), (named == 1).float().mean(), (named > 1).float().mean()]
    assert min(shares) > 0.2
    assert all((scene["targets"].sum(1) == 1).all() for scene in told["unique"])


def test_every_kind_of_text_occurs(told):
    said = [PHRASE.fullmatch(text) for scenes in told.values() for scene in scenes for text in scene["texts"]]
    assert {m["size"] for m in said} == {None, "larger", "smaller"}
    assert {m["motion"] for m in said} == {
        None,
        "standing still",
        "turning back",
        *(f"moving {m}" for m in MOTIONS[:4]),
    }
    assert {m["colour"] for m in said} == {None, *COLOURS} and {"digit", "six"} < {m["noun"] for m in said}
    assert {m[0] for m in said} >= {"the sixes", "the sevens", "the ones"}


def test_names_and_motions_are_those_of_the_pixels(told):
    for scene in told["clips"]:
        for i, (name, label, motion) in enumerate(zip(scene["names"], scene["labels"], scene["motions"])):
            assert name == f"{colour(scene, i)} {WORDS[label]}" and list(COLOURS)[scene["colours"][i]] in name
            assert MOTIONS[motion] in direction(scene, i)


def test_captions(told):
    for scene in told["still"]:
        heights = (scene["boxes"][:, 1] + scene["boxes"][:, 3]).tolist()
        order = sorted(range(len(heights)), key=lambda i: heights[i])
        assert re.split(r" above | beside ", scene["caption"]) == [f"a {scene['names'][i]}" for i in order]
        between = re.findall(r"above|beside", scene["caption"])
        assert between == ["above" if heights[a] < heights[b] else "beside" for a, b in zip(order, order[1:])]
    for scene in told["clips"]:
        said = re.split(r", | and ", scene["caption"])
        assert said == [f"a {name} {direction(scene, i)}" for i, name in enumerate(scene["names"])]


def thing(digit: int, side: int) -> Thing:
    return Thing(0, digit, 0, side, 0.0, ((0.0, 0.0),))


@pytest.mark.parametrize(
    ("sides", "larger"),
    [((12, 15), [False, True]), ((12, 14), [False, False]), ((20, 12), [True, False]), ((20, 12, 12), [False] * 3)],
)
def test_the_larger_is_said_of_two_that_differ_by_a_quarter(sides, larger):
    query = Query(digit=7, size="larger")
    things = [thing(7, side) for side in sides]
    assert query.meant(things) == larger and query.phrase(several=False) == "the larger seven"
    assert query.meant([*things[:2], thing(6, 28)])[:2] == Query(digit=7, size="larger").meant(things[:2])


def test_phrases():
    assert Query(colour=0, digit=6, motion=STILL).phrase(several=True) == "the red sixes standing still"
    assert Query(colour=2).phrase(several=False) == "the blue digit"
    assert Query(motion=0).phrase(several=True) == "the digits moving left"
