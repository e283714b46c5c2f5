"""Why this label: remove one part of an item after another and see what its score loses.

Occlusion (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.1; for words:
Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation Erasure", 2016). It needs no gradients,
so every engine can do it: all changed items are one batch.
"""

import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

from doorstep.errors import InputError, UsageError
from doorstep.results import Classification
from doorstep.session import Session
from doorstep.tensors import Feeds, Fetches

MAX_PARTS = 512
_VARIATIONS = 100  # of a text that is ranked, in one call of the engine
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
        left, top, width, height: shares of the upright picture's width and height (0 to 1).
        weight: as in `Part`.
    """

    left: float
    top: float
    width: float
    height: float
    weight: float


class Step(NamedTuple):
    """An item of a history.

    Attributes:
        place: counted from 0, the oldest; items that nobody knows are not counted.
        weight: what the score of the label, an item's id, loses without it.
    """

    id: str
    place: int
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
        score: the label's probability for the whole item; of a ranking its score.
        parts: of a text, or of the ranked text whose id is the label, from left to right; empty elsewhere.
        regions: of a picture, row by row; empty elsewhere.
        steps: of a history, oldest first; empty elsewhere.
        segments: of a recording, in their order; empty elsewhere.
    """

    label: str
    score: float
    parts: tuple[Part, ...] = ()
    regions: tuple[Region, ...] = ()
    steps: tuple[Step, ...] = ()
    segments: tuple[Segment, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {
            "label": self.label,
            "score": self.score,
            "parts": [part._asdict() for part in self.parts],
            "regions": [region._asdict() for region in self.regions],
            "steps": [step._asdict() for step in self.steps],
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


@runtime_checkable
class History(Protocol):
    """A task whose items are histories: rows have `ids`, newest first, and `without(place)`."""

    def prepare(self, items: Sequence[Any]) -> Sequence[Any]:
        """As of a `Task`."""

    def collate(self, rows: Sequence[Any]) -> Feeds:
        """As of a `Task`."""

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Any]:
        """As of a `Task`; the results are rankings."""

    def scores(self, fetches: Fetches, rows: Sequence[Any], id_: str) -> list[float]:
        """Return the score that one thing has for each row."""


def explain(session: Session, task: Any, item: Any, label: str | None, max_parts: int) -> Explanation:
    """Explain `label`, or the best one where it is None. Called by `Predictor.explain`, which tells the errors."""
    if not 1 <= max_parts <= MAX_PARTS:
        raise UsageError(f"max_parts: expected 1 to {MAX_PARTS}, got {max_parts}")
    if isinstance(task, History):
        return _explain_history(session, task, item, label, max_parts)
    if hasattr(task, "variations"):
        return _explain_ranked(session, task, item, label, max_parts)
    if not hasattr(task, "of_every_label"):
        raise UsageError("explain: this bundle's task has no labels to explain")
    task = task.of_every_label()
    if hasattr(task, "seen"):
        from doorstep.explain_pictures import explain_picture

        return explain_picture(_scorer_of_rows(session, task), task.seen(item), label, max_parts)
    if hasattr(task, "waveform"):
        return _explain_sound(_scorer(session, task), task.waveform(item), task.rate, label, max_parts)
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
    game = _Game()
    for number, item in enumerate(items):
        told = explain_(item)
        parts: Sequence[Part | Segment] = told.parts or told.segments
        spans = [(part.start, part.end) for part in sorted(parts, key=lambda part: -part.weight)]

        def scored(gone: list[list[Any]], item: Any = item, label: str = told.label) -> list[float]:
            return score([remove(item, spans) for spans in gone], label)

        game.play(number, spans, told.score, scored)
    return game.outcome("item of two parts")


def history_faithfulness(session: Session, task: "History", items: Sequence[Any], max_parts: int = 64) -> Faithfulness:
    """The same for histories: their items are deleted.

    Raises:
        UsageError: no history has two items.
    """
    game = _Game()
    for number, item in enumerate(items):
        told, whole = _explain_history(session, task, item, None, max_parts), task.prepare([item])[0]
        last = len(whole.ids) - 1
        places = [last - step.place for step in sorted(told.steps, key=lambda step: -step.weight)]

        def scored(gone: Sequence[Sequence[int]], whole: Any = whole, label: str = told.label) -> list[float]:
            rows = [_all_without(whole, part) for part in gone]
            return task.scores(session.run(task.collate(rows)), rows, label)

        game.play(number, places, told.score, scored)
    return game.outcome("history of two items")


def _all_without(row: Any, places: Sequence[int]) -> Any:
    for place in sorted(places, reverse=True):
        row = row.without(place)
    return row


class _Game:
    """Deletes parts in two orders and keeps what the score lost."""

    def __init__(self) -> None:
        self._losses: dict[str, list[float]] = {"ranked": [], "shuffled": []}

    def play(
        self, number: int, ranked: list[Any], score: float, score_without: Callable[[list[list[Any]]], list[float]]
    ) -> None:
        """Delete 1, 2, … parts, but never all; `number` seeds the random order. Fewer than two parts show nothing."""
        if len(ranked) < 2:
            return
        shuffled = list(ranked)
        random.Random(number).shuffle(shuffled)  # noqa: S311 -- no secret
        for name, order in (("ranked", ranked), ("shuffled", shuffled)):
            gone = [order[:count] for count in range(1, len(order))]
            self._losses[name] += [score - left for left in score_without(gone)]

    def outcome(self, what: str) -> Faithfulness:
        if not self._losses["ranked"]:
            raise UsageError(f"faithfulness: expected a {what} or more, got none")
        return Faithfulness(*(sum(found) / len(found) for found in self._losses.values()))


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


def _explain_ranked(session: Session, task: Any, item: Any, label: str | None, max_parts: int) -> Explanation:
    """Leave out one part of a ranked text after another; `label` is its id. The query stays whole."""
    row = task.prepare([item])[0]
    hits = {hit.id: hit for hit in task.results(session.run(task.collate([row])), [row])[0].hits}
    best = next(iter(hits))
    label = best if label is None else label
    if label not in hits:
        raise InputError(f"label: expected the id of a ranked text ({', '.join(hits):.200}), got {label!r:.60}")
    text = hits[label].fields["text"]
    spans, scores = split(text, max_parts), {}
    for start in range(0, len(spans), _VARIATIONS):
        part = spans[start : start + _VARIATIONS]
        others = task.variations(row, [without(text, [span]) for span in part])
        for hit in task.results(session.run(task.collate([others])), [others])[0].hits:
            scores[part[int(hit.id)]] = hit.score
    score = hits[label].score
    parts = [Part(text[start:end], start, end, score - scores[start, end]) for start, end in spans]
    return Explanation(label, score, parts=tuple(parts))


def _explain_history(session: Session, task: History, item: Any, label: str | None, max_parts: int) -> Explanation:
    """Leave out one item after another, the newest `max_parts` of them."""
    whole = task.prepare([item])[0]
    places = range(min(len(whole.ids), max_parts))
    rows = [whole, *(whole.without(place) for place in places)]
    fetches = session.run(task.collate(rows))
    if label is None:
        first = {name: array[:1] for name, array in fetches.items()}
        hits = task.results(first, rows[:1])[0].hits
        if not hits:
            raise InputError("item: nothing is left to rank; drop a filter, or name a label")
        label = hits[0].id
    score, *others = task.scores(fetches, rows, label)
    last = len(whole.ids) - 1
    steps = [Step(whole.ids[place], last - place, score - other) for place, other in zip(places, others, strict=True)]
    return Explanation(label, score, steps=tuple(reversed(steps)))


def _explain_sound(scores_of: Scorer, samples: Any, rate: int, label: str | None, max_parts: int) -> Explanation:
    """Silence one segment after another; `samples` [samples] float32."""
    count = max(1, min(max_parts, int(len(samples) / rate / _SEGMENT)))
    spans = list(pairwise(len(samples) * number // count for number in range(count + 1)))
    whole, *others = scores_of([samples, *(silenced(samples, [span]) for span in spans)])
    label, score = chosen(whole, label)
    segments = [
        Segment(start / rate, end / rate, score - dict(other.scores)[label])
        for (start, end), other in zip(spans, others, strict=True)
    ]
    return Explanation(label, score, segments=tuple(segments))


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
