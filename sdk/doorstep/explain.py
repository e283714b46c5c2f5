"""Why this label: remove one part of an item after another and see what its score loses.

Occlusion (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.1; for words:
Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation Erasure", 2016). It needs no gradients,
so every engine can do it: all changed items are one batch.
"""

import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from doorstep.errors import InputError, UsageError
from doorstep.results import Classification
from doorstep.session import Session

MAX_PARTS = 512
_SEGMENT = 0.05  # seconds, the shortest segment of a recording
# Han, kana and Bopomofo are written without spaces: every character is a part. Then words, then runs of signs.
_UNSPACED = (
    "\u3005-\u3007\u3041-\u30ff\u3105-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_PART = re.compile(rf"[{_UNSPACED}]|(?:[^\W{_UNSPACED}]|(?<=\w)['’-](?=\w))+|[^\w\s]+")


class Part(NamedTuple):
    """A stretch of a text.

    Attributes:
        start, end: characters, as Python counts them.
        weight: what the label's probability loses without it; negative where the part speaks against the label.
    """

    text: str
    start: int
    end: int
    weight: float


class Region(NamedTuple):
    """A tile of a picture.

    Attributes:
        left, top, width, height: shares of the picture's width and height (0 to 1).
        weight: as in `Part`.
    """

    left: float
    top: float
    width: float
    height: float
    weight: float


class Segment(NamedTuple):
    """A stretch of a recording.

    Attributes:
        start, end: seconds.
        weight: as in `Part`.
    """

    start: float
    end: float
    weight: float


class Explanation(NamedTuple):
    """What speaks for a label.

    Attributes:
        score: the label's probability for the whole item.
        parts: of a text, from left to right; empty for anything else.
        regions: of a picture, row by row; empty for anything else.
        segments: of a recording, in their order; empty for anything else.
    """

    label: str
    score: float
    parts: tuple[Part, ...] = ()
    regions: tuple[Region, ...] = ()
    segments: tuple[Segment, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {
            "label": self.label,
            "score": self.score,
            "parts": [part._asdict() for part in self.parts],
            "regions": [region._asdict() for region in self.regions],
            "segments": [segment._asdict() for segment in self.segments],
        }


class Faithfulness(NamedTuple):
    """What the label's probability loses, on average over the deletions of 1, 2, … parts of all items.

    Attributes:
        ranked: when parts go by falling weight.
        shuffled: when parts go in random order.
    """

    ranked: float
    shuffled: float


class Explainable(Protocol):
    """A task whose results can list every label."""

    def of_every_label(self) -> Any:
        """Return the task with results that list every class."""


def explain(session: Session, task: Any, item: Any, label: str | None, max_parts: int) -> Explanation:
    """Explain `label`, or the best one where it is None. Called by `Predictor.explain`, which tells the errors."""
    if not hasattr(task, "of_every_label"):
        raise UsageError("explain: this bundle's task has no labels to explain")
    if not 1 <= max_parts <= MAX_PARTS:
        raise UsageError(f"max_parts: expected 1 to {MAX_PARTS}, got {max_parts}")
    scores_of = _scorer(session, task.of_every_label())
    if hasattr(task, "pixels"):
        return _explain_picture(scores_of, task.pixels(item), label, max_parts)
    if hasattr(task, "waveform"):
        return _explain_sound(scores_of, task.waveform(item), task.rate, label, max_parts)
    return _explain_text(scores_of, item, label, max_parts)


def split(text: str, max_parts: int) -> list[tuple[int, int]]:
    """Return (start, end) of the parts of a text: words, single Chinese characters, runs of signs.

    Where there are more than `max_parts`, neighbours are taken together.
    """
    spans = [match.span() for match in _PART.finditer(text)]
    count = min(len(spans), max_parts)
    edges = [len(spans) * number // count for number in range(count + 1)] if count else []
    return [(spans[first][0], spans[last - 1][1]) for first, last in pairwise(edges)]


def without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return `text` without the characters of `spans`."""
    kept, end_before = [], 0
    for start, end in sorted(spans):
        kept.append(text[end_before:start])
        end_before = end
    return "".join([*kept, text[end_before:]])


def silenced(samples: Any, spans: Sequence[tuple[int, int]]) -> Any:
    """Return a copy of `samples` [samples] with silence in `spans`."""
    changed = samples.copy()
    for start, end in spans:
        changed[start:end] = 0
    return changed


def faithfulness(
    explain_: Callable[[Any], Explanation],
    score: Callable[[Sequence[Any], str], list[float]],
    items: Sequence[Any],
    remove: Callable[[Any, Sequence[tuple[Any, Any]]], Any] = without,
) -> Faithfulness:
    """Delete ranked and random parts, and compare what the score loses (the deletion game of Petsiuk et al., 2018).

    Args:
        explain_: for example `predictor.explain`.
        score: items and a label to the label's probability for each.
        items: texts, or recordings, with two parts or more each; others show nothing and are left out.
        remove: an item and (start, end) of parts to the item without them.

    Raises:
        UsageError: no item has two parts.
    """
    losses: dict[str, list[float]] = {"ranked": [], "shuffled": []}
    for number, item in enumerate(items):
        told = explain_(item)
        parts: Sequence[Part | Segment] = told.parts or told.segments
        if len(parts) < 2:
            continue
        ranked = [(part.start, part.end) for part in sorted(parts, key=lambda part: -part.weight)]
        shuffled = list(ranked)
        random.Random(number).shuffle(shuffled)  # noqa: S311 -- no secret
        for name, order in (("ranked", ranked), ("shuffled", shuffled)):
            deleted = [remove(item, order[:count]) for count in range(1, len(order))]
            losses[name] += [told.score - left for left in score(deleted, told.label)]
    if not losses["ranked"]:
        raise UsageError("faithfulness: expected an item of two parts or more, got none")
    return Faithfulness(*(sum(found) / len(found) for found in losses.values()))


_Scorer = Callable[[Sequence[Any]], list[Classification]]


def _scorer(session: Session, task: Any) -> _Scorer:
    def score(items: Sequence[Any]) -> list[Classification]:
        rows = task.prepare(items)
        results: list[Classification] = task.results(session.run(task.collate(rows)), rows)
        return results

    return score


def _explain_text(scores_of: _Scorer, text: Any, label: str | None, max_parts: int) -> Explanation:
    if not isinstance(text, str):
        raise InputError(f"item: expected a text (str), got {type(text).__name__}")
    spans = split(text, max_parts)
    whole, *others = scores_of([text, *(without(text, [span]) for span in spans)])
    label, score = _chosen(whole, label)
    weights = [score - dict(other.scores)[label] for other in others]
    parts = [Part(text[start:end], start, end, weight) for (start, end), weight in zip(spans, weights, strict=True)]
    return Explanation(label, score, parts=tuple(parts))


def _explain_picture(scores_of: _Scorer, pixels: Any, label: str | None, max_parts: int) -> Explanation:
    """Grey out one tile after another with the picture's mean colour; `pixels` [height, width, 3] uint8."""
    height, width = pixels.shape[:2]
    side = max(1, int(max_parts**0.5))
    rows, columns = min(side, height), min(side, width)
    boxes = [
        (height * row // rows, height * (row + 1) // rows, width * column // columns, width * (column + 1) // columns)
        for row in range(rows)
        for column in range(columns)
    ]
    mean = pixels.mean(axis=(0, 1)).round().astype(pixels.dtype)  # [3]
    changed = []
    for top, bottom, left, right in boxes:
        tile = pixels.copy()
        tile[top:bottom, left:right] = mean
        changed.append(tile)
    whole, *others = scores_of([pixels, *changed])
    label, score = _chosen(whole, label)
    regions = [
        Region(
            left / width,
            top / height,
            (right - left) / width,
            (bottom - top) / height,
            score - dict(other.scores)[label],
        )
        for (top, bottom, left, right), other in zip(boxes, others, strict=True)
    ]
    return Explanation(label, score, regions=tuple(regions))


def _explain_sound(scores_of: _Scorer, samples: Any, rate: int, label: str | None, max_parts: int) -> Explanation:
    """Silence one segment after another; `samples` [samples] float32."""
    count = max(1, min(max_parts, int(len(samples) / rate / _SEGMENT)))
    spans = list(pairwise(len(samples) * number // count for number in range(count + 1)))
    whole, *others = scores_of([samples, *(silenced(samples, [span]) for span in spans)])
    label, score = _chosen(whole, label)
    segments = [
        Segment(start / rate, end / rate, score - dict(other.scores)[label])
        for (start, end), other in zip(spans, others, strict=True)
    ]
    return Explanation(label, score, segments=tuple(segments))


def _chosen(whole: Classification, label: str | None) -> tuple[str, float]:
    scores = dict(whole.scores)
    if label is None:
        return whole.scores[0]
    if label not in scores:
        raise InputError(f"label: expected one of {', '.join(scores):.200}, got {label!r:.60}")
    return label, scores[label]
