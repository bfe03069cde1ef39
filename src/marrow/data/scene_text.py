"""What is said about the digits of a scene: names, a caption, and queries that name one of them, several or none."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Literal, Sequence

from .scene_objects import COLOURS, MOTIONS, STILL, TURNING, Thing

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLEARLY = 1.25  # how many times larger a digit is at least than another one before it is called the larger


@dataclasses.dataclass(frozen=True)
class Query:
    """Which digits are meant: those that have all that is given. size: the larger or smaller of exactly two such."""

    colour: int | None = None
    digit: int | None = None
    motion: int | None = None
    size: Literal["larger", "smaller"] | None = None

    def meant(self, things: Sequence[Thing]) -> list[bool]:
        """For each digit whether it is meant; nobody is by a comparison of other than two, or of two about as large."""
        fits = [
            self.colour in (None, thing.colour)
            and self.digit in (None, thing.digit)
            and self.motion in (None, thing.motion)
            for thing in things
        ]
        if self.size is None:
            return fits
        sides = sorted(thing.side for thing, fit in zip(things, fits) if fit)
        if len(sides) != 2 or sides[1] < CLEARLY * sides[0]:
            return [False] * len(things)
        wanted = sides[self.size == "larger"]
        return [fit and thing.side == wanted for thing, fit in zip(things, fits)]

    def phrase(self, several: bool) -> str:
        noun = "digit" if self.digit is None else WORDS[self.digit]
        if several:
            noun += "es" if noun == "six" else "s"
        colour = None if self.colour is None else list(COLOURS)[self.colour]
        motion = None if self.motion is None else doing(self.motion)
        return " ".join(word for word in ("the", self.size, colour, noun, motion) if word)


def doing(motion: int) -> str:
    return {STILL: "standing still", TURNING: "turning back"}.get(motion) or f"moving {MOTIONS[motion]}"


def name(thing: Thing) -> str:
    return f"{list(COLOURS)[thing.colour]} {WORDS[thing.digit]}"


def still_caption(things: Sequence[Thing], heights: Sequence[float]) -> str:
    """The digits from top to bottom, by the heights of their centres; of two at one height the first is beside the next."""
    order = sorted(range(len(things)), key=lambda i: heights[i])
    said = f"a {name(things[order[0]])}"
    for above, below in itertools.pairwise(order):
        said += f" {'above' if heights[above] < heights[below] else 'beside'} a {name(things[below])}"
    return said


def moving_caption(things: Sequence[Thing]) -> str:
    told = [f"a {name(thing)} {doing(thing.motion)}" for thing in things]
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)


def naming_one(things: Sequence[Thing], moving: bool) -> list[Query]:
    """Every query that names exactly one of the digits."""
    pool = _about(things, moving)
    return [query for query in [*pool, *_comparing(pool, things)] if sum(query.meant(things)) == 1]


def queries(rng: random.Random, things: Sequence[Thing], moving: bool, unique: bool, count: int) -> list[Query]:
    """Up to `count` different ones. unique: each names exactly one digit; else one, several and none are as likely."""
    ones = naming_one(things, moving)
    if unique:
        return rng.sample(ones, min(count, len(ones)))
    several = [query for query in _about(things, moving) if sum(query.meant(things)) > 1]
    chosen: list[Query] = []
    pools = [ones, several, _missing(things, moving)]
    while len(chosen) < count and (left := [pool for pool in pools if pool]):
        pool = rng.choice(left)
        chosen.append(pool.pop(rng.randrange(len(pool))))
    return chosen


def _about(things: Sequence[Thing], moving: bool) -> list[Query]:
    """What can be said of some digit by colour, digit and motion."""
    keys = ("colour", "digit", "motion") if moving else ("colour", "digit")
    parts = [part for size in range(1, len(keys) + 1) for part in itertools.combinations(keys, size)]
    return list(dict.fromkeys(Query(**{key: getattr(t, key) for key in part}) for t in things for part in parts))


def _comparing(pool: Sequence[Query], things: Sequence[Thing]) -> list[Query]:
    pairs = [query for query in pool if query.digit is not None and sum(query.meant(things)) == 2]
    return [dataclasses.replace(query, size=size) for query in pairs for size in ("larger", "smaller")]


def _missing(things: Sequence[Thing], moving: bool) -> list[Query]:
    """Near misses: a digit of the scene with one thing said wrongly, so that it and no other is meant."""
    whole = [Query(t.colour, t.digit, t.motion if moving else None) for t in things]
    found = []
    for query in whole:
        found += [dataclasses.replace(query, colour=colour) for colour in range(len(COLOURS))]
        found += [dataclasses.replace(query, digit=digit) for digit in range(len(WORDS))]
        found += [dataclasses.replace(query, motion=motion) for motion in range(len(MOTIONS)) if moving]
    return [query for query in dict.fromkeys(found) if not any(query.meant(things))]
