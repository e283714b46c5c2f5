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
        left, top, width, height: shares of the upright picture's width and height (0 to 1).
        weight: as in `Part`.
    """

    left: float
    top: float
    width: float
    height: float
    weight: float


class Explanation(NamedTuple):
    """What speaks for a label.

    Attributes:
        score: the label's probability for the whole item.
        parts: of a text, from left to right; empty for a picture.
        regions: of a picture, row by row; empty for a text.
    """

    label: str
    score: float
    parts: tuple[Part, ...] = ()
    regions: tuple[Region, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {
            "label": self.label,
            "score": self.score,
            "parts": [part._asdict() for part in self.parts],
            "regions": [region._asdict() for region in self.regions],
        }


class Faithfulness(NamedTuple):
    """What the label's probability loses, on average over the deletions of 1, 2, … parts of all texts.

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
    task = task.of_every_label()
    if hasattr(task, "seen"):
        from doorstep.explain_pictures import explain_picture

        return explain_picture(_scorer_of_rows(session, task), task.seen(item), label, max_parts)
    return _explain_text(_scorer(session, task), item, label, max_parts)


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


def faithfulness(
    explain_: Callable[[str], Explanation], score: Callable[[Sequence[str], str], list[float]], texts: Sequence[str]
) -> Faithfulness:
    """Delete ranked and random parts, and compare what the score loses (the deletion game of Petsiuk et al., 2018).

    Args:
        explain_: for example `predictor.explain`.
        score: texts and a label to the label's probability for each.
        texts: with two parts or more each; others show nothing and are left out.

    Raises:
        UsageError: no text has two parts.
    """
    losses: dict[str, list[float]] = {"ranked": [], "shuffled": []}
    for number, text in enumerate(texts):
        told = explain_(text)
        if len(told.parts) < 2:
            continue
        ranked = [part[1:3] for part in sorted(told.parts, key=lambda part: -part.weight)]
        shuffled = list(ranked)
        random.Random(number).shuffle(shuffled)  # noqa: S311 -- no secret
        for name, order in (("ranked", ranked), ("shuffled", shuffled)):
            deleted = [without(text, order[:count]) for count in range(1, len(order))]
            losses[name] += [told.score - left for left in score(deleted, told.label)]
    if not losses["ranked"]:
        raise UsageError("faithfulness: expected a text of two parts or more, got none")
    return Faithfulness(*(sum(found) / len(found) for found in losses.values()))


Scorer = Callable[[Sequence[Any]], list[Classification]]


def _scorer(session: Session, task: Any) -> Scorer:
    of_rows = _scorer_of_rows(session, task)
    return lambda items: of_rows(task.prepare(items))


def _scorer_of_rows(session: Session, task: Any) -> Scorer:
    def score(rows: Sequence[Any]) -> list[Classification]:
        results: list[Classification] = task.results(session.run(task.collate(rows)), rows)
        return results

    return score


def _explain_text(scores_of: Scorer, text: Any, label: str | None, max_parts: int) -> Explanation:
    if not isinstance(text, str):
        raise InputError(f"item: expected a text (str), got {type(text).__name__}")
    spans = split(text, max_parts)
    whole, *others = scores_of([text, *(without(text, [span]) for span in spans)])
    label, score = chosen(whole, label)
    weights = [score - dict(other.scores)[label] for other in others]
    parts = [Part(text[start:end], start, end, weight) for (start, end), weight in zip(spans, weights, strict=True)]
    return Explanation(label, score, parts=tuple(parts))


def chosen(whole: Classification, label: str | None) -> tuple[str, float]:
    """Return the label to explain and its score.

    Raises:
        InputError: the model has no such label.
    """
    scores = dict(whole.scores)
    if label is None:
        return whole.scores[0]
    if label not in scores:
        raise InputError(f"label: expected one of {', '.join(scores):.200}, got {label!r:.60}")
    return label, scores[label]
