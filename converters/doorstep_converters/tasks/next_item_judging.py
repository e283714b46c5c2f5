"""How good a model ranks on held-out histories, and the blend with counts that ranks best."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from doorstep.recommend.items import Blend
from doorstep.recommend.transitions import Followers, Transitions
from doorstep.tensors import Array

COUNTED = (0.0, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.5)
SHARPNESS = (10.0, 30.0, 100.0, 300.0)
DECAYS = (0.2, 0.4, 0.6)


class Figures(NamedTuple):
    """Share of targets among the ten best, and their mean gain by place (nDCG@10)."""

    hr: float
    ndcg: float


class Case(NamedTuple):
    """One held-out history, read by a model.

    Attributes:
        ordered: cosines of all items that the history does not hold, rising.
        cosines: [items] float32.
        seen: numbers of the history's items, newest first.
    """

    ordered: Array
    cosines: Array
    seen: Array
    target: int


def cases_of(interests: Array, table: Array, held_out: Sequence[tuple[Sequence[int], int]]) -> list[Case]:
    """Compare interests [histories, dimensions] with the table [items, dimensions], both of unit vectors."""
    found = []
    for interest, (history, target) in zip(interests, held_out, strict=True):
        cosines = table @ interest  # [items]
        seen = np.array(history[::-1], np.int64)
        free = np.ones(len(table), bool)
        free[seen] = False
        found.append(Case(np.sort(cosines[free]), cosines, seen, target))
    return found


def figures(cases: Sequence[Case], followers: Sequence[Followers], blend: Blend) -> Figures:
    """Return how well the sum of cosines and counts ranks."""
    places = np.array([_place(case, after, blend) for case, after in zip(cases, followers, strict=True)])
    is_hit = places < 10
    gains = np.where(is_hit, 1 / np.log2(places + 2), 0.0)
    return Figures(float(is_hit.mean()), float(gains.mean())) if len(places) else Figures(0.0, 0.0)


def followers_of(cases: Sequence[Case], transitions: Transitions, decay: float, length: int) -> list[Followers]:
    """Look up what was counted after each history, without what it holds."""
    found = []
    for case in cases:
        after = transitions.after(case.seen[:length].tolist(), decay)
        is_new = ~np.isin(after.numbers, case.seen)
        found.append(Followers(after.numbers[is_new], after.shares[is_new]))
    return found


def best_blend(cases: Sequence[Case], transitions: Transitions, length: int) -> Blend:
    """Return the blend of the grid with the highest nDCG@10."""
    best, top = Blend(0.0), -1.0
    for decay in DECAYS:
        followers = followers_of(cases, transitions, decay, length)
        for counted, sharpness in product(COUNTED, SHARPNESS):
            blend = Blend(counted, sharpness, decay)
            found = figures(cases, followers, blend).ndcg
            if found > top:
                best, top = blend, found
    return best


def _place(case: Case, after: Followers, blend: Blend) -> float:
    """Return how many items stand before the target; one with the same score is half before it."""
    if case.target in case.seen:
        return float("inf")  # what was seen is not ranked
    plain = case.cosines[after.numbers]
    summed = (plain + blend.counted * np.log1p(blend.sharpness * after.shares)).astype(np.float32)
    at = np.flatnonzero(after.numbers == case.target)
    score = float(summed[at[0]]) if len(at) else float(case.cosines[case.target])
    first, last = (int(np.searchsorted(case.ordered, np.float32(score), side)) for side in ("left", "right"))
    others = len(case.ordered) - (first + last) / 2
    return others + _above(summed, score) - _above(plain, score) - 0.5  # the target is as good as itself


def _above(scores: Array, score: float) -> float:
    """Return how many of `scores` are above one; equal ones count half."""
    single = np.float32(score)
    return float((scores > single).sum() + 0.5 * (scores == single).sum())
