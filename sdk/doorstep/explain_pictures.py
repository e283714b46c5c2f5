"""Why this label for a picture: grey out one tile after another, all tiles in one batch.

`faithfulness` plays the deletion game of Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 4.2, with tiles.
"""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

from doorstep.errors import UsageError
from doorstep.explain import Explanation, Faithfulness, Region, Scorer, chosen
from doorstep.tasks.pictures import Seen
from doorstep.tensors import Array


class _Box(NamedTuple):
    top: int
    bottom: int
    left: int
    right: int


def explain_picture(scores_of: Scorer, seen: Seen, label: str | None, max_parts: int) -> Explanation:
    """Explain `label`, or the best one where it is None; regions are shares of the upright picture, row by row."""
    boxes = _boxes(seen.pixels, max_parts)
    whole, *others = scores_of([seen.pixels, *(_without(seen.pixels, [box]) for box in boxes)])
    label, score = chosen(whole, label)
    height, width = seen.pixels.shape[:2]
    left, top, wide, high = seen.window
    regions = [
        Region(
            left + wide * box.left / width,
            top + high * box.top / height,
            wide * (box.right - box.left) / width,
            high * (box.bottom - box.top) / height,
            score - dict(other.scores)[label],
        )
        for box, other in zip(boxes, others, strict=True)
    ]
    return Explanation(label, score, regions=tuple(regions))


def faithfulness(
    scores_of: Scorer, see: Callable[[Any], Seen], items: Sequence[Any], max_parts: int = 16
) -> Faithfulness:
    """Delete ranked and random tiles of pictures, and compare what the best label's probability loses.

    Args:
        scores_of: for example `predictor.answer` of a predictor that lists every label.
        see: for example `predictor.task.seen`.

    Raises:
        UsageError: no items.
    """
    if not items:
        raise UsageError("faithfulness: expected a picture or more, got none")
    losses: dict[str, list[float]] = {"ranked": [], "shuffled": []}
    for number, item in enumerate(items):
        seen = see(item)
        told = explain_picture(scores_of, seen, None, max_parts)
        boxes = _boxes(seen.pixels, max_parts)
        ranked = sorted(range(len(boxes)), key=lambda place: -told.regions[place].weight)
        shuffled = random.Random(number).sample(ranked, len(ranked))  # noqa: S311 -- no secret
        for name, order in (("ranked", ranked), ("shuffled", shuffled)):
            deleted = [
                _without(seen.pixels, [boxes[place] for place in order[:count]]) for count in range(1, len(order))
            ]
            losses[name] += [told.score - dict(left.scores)[told.label] for left in scores_of(deleted)]
    return Faithfulness(*(sum(found) / max(1, len(found)) for found in losses.values()))


def _boxes(pixels: Array, max_parts: int) -> list[_Box]:
    height, width = pixels.shape[:2]
    side = max(1, int(max_parts**0.5))
    rows, columns = (
        pairwise([length * edge // min(side, length) for edge in range(min(side, length) + 1)])
        for length in (height, width)
    )
    return [_Box(*row, *column) for row, column in product(rows, columns)]


def _without(pixels: Array, boxes: Sequence[_Box]) -> Array:
    """Return pixels [height, width, 3] with `boxes` in the picture's mean colour."""
    mean = pixels.mean(axis=(0, 1)).round().astype(pixels.dtype)  # [3]
    changed = pixels.copy()
    for box in boxes:
        changed[box.top : box.bottom, box.left : box.right] = mean
    return changed
