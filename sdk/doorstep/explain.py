"""Why this label: remove one part of an item after another and see what its score loses; exact for linear models.

Occlusion (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.1; for words:
Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation Erasure", 2016). It needs no gradients,
so every engine can do it. What the parts of an item are its task knows (`doorstep.pieces`); nothing here does.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from doorstep.errors import UsageError
from doorstep.explanation import Explanation, Known, Part, Region, Segment, Step
from doorstep.session import Session
from doorstep.tensors import Feeds, Fetches

__all__ = [
    "MAX_PARTS",
    "ROWS",
    "Asked",
    "Compared",
    "Explainable",
    "Explanation",
    "Faithfulness",
    "Known",
    "Linear",
    "Named",
    "Part",
    "Pieces",
    "Region",
    "Run",
    "Segment",
    "Shares",
    "Step",
    "Weighed",
    "about",
    "explain",
    "faithfulness",
    "weigh",
]

MAX_PARTS = 512
ROWS = 128
"""Rows of one run of the engine, at most."""

_VALUES = 1 << 24  # of the feeds of one run, 64 MiB as float32


class Faithfulness(NamedTuple):
    """What the label's score loses, on average over the deletions of 1, 2, … parts of all items.

    Attributes:
        ranked: when parts go by falling weight.
        shuffled: when parts go in random order.
    """

    ranked: float
    shuffled: float


class Pieces(Protocol):
    """An item taken to pieces."""

    def __len__(self) -> int:
        """Return how many there are."""

    def without(self, places: Sequence[int]) -> Any:
        """Return the task's row of the item without the pieces at `places`; without none, the whole item's."""

    def told(self, weights: Sequence[float]) -> dict[str, tuple[Any, ...]]:
        """Return the pieces with their weights, under the name of their attribute of `Explanation`."""


@runtime_checkable
class Named(Protocol):
    """Pieces that know in full what is asked about, where a label may name it in short."""

    @property
    def label(self) -> str:
        """The label in full."""


Run = Callable[[Feeds], Fetches]


@runtime_checkable
class Explainable(Protocol):
    """A task that can be explained."""

    def collate(self, rows: Sequence[Any]) -> Feeds:
        """As of a `Task`."""

    def pieces(self, item: Any, label: str | None, max_parts: int, run: Run) -> Pieces:
        """Take an item to at most `max_parts` pieces. `label` and `run`, for where the pieces depend on an answer."""

    def best(self, fetches: Fetches, rows: Sequence[Any]) -> str:
        """Return the label that the first row gets."""

    def scores(self, fetches: Fetches, rows: Sequence[Any], label: str) -> list[float]:
        """Return the score that a label has for each row.

        Raises:
            InputError: there is no such label.
        """


@runtime_checkable
class Asked(Protocol):
    """A task whose question is only known when the whole item was answered: the words heard, the vector made."""

    def about(self, item: Any, label: str | None, run: Run) -> Explainable:
        """Return this task with scores that are about one item's answer."""


@runtime_checkable
class Compared(Protocol):
    """A task whose answers can be compared with a reference's."""

    def against(self, reference: Any, run: Run) -> Explainable:
        """Return this task with scores that are cosines to a reference: an item, or its vector."""


class Shares(NamedTuple):
    """What the parts of an item bring to a label's logit, in a model that adds them up; fields as of `Explanation`."""

    label: str
    score: float
    weights: list[float]
    logit: float
    bias: float


@runtime_checkable
class Linear(Protocol):
    """A task whose model may add up what the parts of an item bring."""

    def shares(self, pieces: Any, label: str | None, run: Run) -> Shares | None:
        """Return the shares of an item's pieces, None where this model does not add them up."""


class Weighed(NamedTuple):
    """An item's pieces and what the label loses without each, or gets of each where there is a `logit`."""

    pieces: Pieces
    label: str
    score: float
    weights: list[float]
    logit: float | None = None
    bias: float = 0.0


def explain(
    session: Session, task: Any, item: Any, label: str | None, max_parts: int, reference: Any = None
) -> Explanation:
    """Explain `label`, or the best one where it is None. Called by `Predictor.explain`, which tells the errors."""
    if reference is not None:
        if not isinstance(task, Compared):
            raise UsageError("reference: this bundle's task makes no vectors to compare; name a label instead")
        task = task.against(reference, session.run)
    weighed = weigh(session, about(session, task, item, label), item, label, max_parts)
    told = weighed.pieces.told(weighed.weights)
    is_exact = weighed.logit is not None
    return Explanation(weighed.label, weighed.score, **told, is_exact=is_exact, logit=weighed.logit, bias=weighed.bias)


def about(session: Session, task: Any, item: Any, label: str | None) -> Any:
    """Return the task as it judges this item."""
    return task.about(item, label, session.run) if isinstance(task, Asked) else task


def weigh(session: Session, task: Any, item: Any, label: str | None, max_parts: int) -> Weighed:
    """Add up what the parts bring where the model does; otherwise leave out one after another.

    Raises:
        InputError, UsageError, EngineError: as `Predictor.explain`.
    """
    if not 1 <= max_parts <= MAX_PARTS:
        raise UsageError(f"max_parts: expected 1 to {MAX_PARTS}, got {max_parts}")
    if not isinstance(task, Explainable):
        raise UsageError("explain: this bundle's task has no labels to explain")
    pieces = task.pieces(item, label, max_parts, session.run)
    label = pieces.label if isinstance(pieces, Named) else label
    if isinstance(task, Linear) and (shares := task.shares(pieces, label, session.run)) is not None:
        return Weighed(pieces, *shares)
    scored = _scores(session, task, [(), *((place,) for place in range(len(pieces)))], pieces, label)
    score, *others = scored.scores
    return Weighed(pieces, scored.label, score, [score - other for other in others])


def faithfulness(
    session: Session,
    task: Any,
    items: Sequence[Any],
    max_parts: int = 64,
    weigh: Callable[[Session, Any, Any, str | None, int], Weighed] = weigh,
) -> Faithfulness:
    """Delete ranked and random pieces, and compare what the score loses.

    The deletion game of Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 4.2. Called by `Predictor.faithfulness`.

    Args:
        weigh: what gives an item's pieces their weights.
    """
    losses: dict[str, list[float]] = {"ranked": [], "shuffled": []}
    for number, item in enumerate(items):
        asked = about(session, task, item, None)
        pieces, label, score, weights, *_ = weigh(session, asked, item, None, max_parts)
        if len(pieces) < 2:
            continue  # to delete all of it shows nothing
        ranked = sorted(range(len(pieces)), key=lambda place: -weights[place])
        shuffled = random.Random(number).sample(ranked, len(ranked))  # noqa: S311 -- no secret
        for name, order in (("ranked", ranked), ("shuffled", shuffled)):
            gone = [order[:count] for count in range(1, len(order))]
            losses[name] += [score - left for left in _scores(session, asked, gone, pieces, label).scores]
    if not losses["ranked"]:
        raise UsageError("faithfulness: expected an item of two parts or more, got none")
    return Faithfulness(*(sum(found) / len(found) for found in losses.values()))


class _Scored(NamedTuple):
    label: str
    scores: list[float]


def _scores(
    session: Session, task: Explainable, gone: Sequence[Sequence[int]], pieces: Pieces, label: str | None
) -> _Scored:
    """Return the score without each group of pieces, of the first row's best label where none is named."""
    found: list[float] = []
    for start in range(0, len(gone), ROWS):
        for rows, feeds in _batches(task, [pieces.without(places) for places in gone[start : start + ROWS]]):
            fetches = session.run(feeds)
            label = task.best(fetches, rows) if label is None else label
            found += task.scores(fetches, rows, label)
    return _Scored(label or "", found)


def _batches(task: Explainable, rows: Sequence[Any]) -> Iterator[tuple[Sequence[Any], Feeds]]:
    """Yield rows with their feeds; halves where one run would get too much, as a row may be many of the engine's."""
    feeds = task.collate(rows)
    arrays = feeds.values()
    if len(rows) > 1 and (max(map(len, arrays)) > ROWS or sum(array.size for array in arrays) > _VALUES):
        middle = len(rows) // 2
        yield from _batches(task, rows[:middle])
        yield from _batches(task, rows[middle:])
    else:
        yield rows, feeds
