"""Why this label: remove one part of an item after another and see what its score loses.

Occlusion (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.1; for words:
Li, Monroe and Jurafsky, "Understanding Neural Networks through Representation Erasure", 2016). It needs no gradients,
so every engine can do it. What the parts of an item are its task knows (`doorstep.pieces`); nothing here does.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from doorstep.errors import UsageError
from doorstep.session import Session
from doorstep.tensors import Feeds, Fetches

MAX_PARTS = 512
_ROWS = 128  # of one run of the engine


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


class Known(NamedTuple):
    """A field of a dict, whose value was given.

    Attributes:
        weight: what the label's probability loses where the field is missing; as in `Part`.
    """

    name: str
    value: Any
    weight: float


class Explanation(NamedTuple):
    """What speaks for a label.

    Attributes:
        score: the label's probability for the whole item; of a ranking its score.
        parts: of a text, or of the ranked text whose id is the label, from left to right; empty elsewhere.
        regions: of a picture, row by row; empty elsewhere.
        steps: of a history, oldest first; empty elsewhere.
        segments: of a recording, in their order; empty elsewhere.
        fields: of a dict, in its order; empty elsewhere.
    """

    label: str
    score: float
    parts: tuple[Part, ...] = ()
    regions: tuple[Region, ...] = ()
    steps: tuple[Step, ...] = ()
    segments: tuple[Segment, ...] = ()
    fields: tuple[Known, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        kinds = ("parts", "regions", "steps", "segments", "fields")
        told = {kind: [part._asdict() for part in getattr(self, kind)] for kind in kinds}
        return {"label": self.label, "score": self.score, **told}


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


class Weighed(NamedTuple):
    """An item's pieces and what the label loses without each."""

    pieces: Pieces
    label: str
    score: float
    weights: list[float]


def explain(session: Session, task: Any, item: Any, label: str | None, max_parts: int) -> Explanation:
    """Explain `label`, or the best one where it is None. Called by `Predictor.explain`, which tells the errors."""
    weighed = weigh(session, task, item, label, max_parts)
    return Explanation(weighed.label, weighed.score, **weighed.pieces.told(weighed.weights))


def weigh(session: Session, task: Any, item: Any, label: str | None, max_parts: int) -> Weighed:
    """Leave out one piece after another.

    Raises:
        InputError, UsageError, EngineError: as `Predictor.explain`.
    """
    if not 1 <= max_parts <= MAX_PARTS:
        raise UsageError(f"max_parts: expected 1 to {MAX_PARTS}, got {max_parts}")
    if not isinstance(task, Explainable):
        raise UsageError("explain: this bundle's task has no labels to explain")
    pieces = task.pieces(item, label, max_parts, session.run)
    if label is None:
        whole = [pieces.without(())]
        label = task.best(session.run(task.collate(whole)), whole)
    score, *others = _scores(session, task, [(), *((place,) for place in range(len(pieces)))], pieces, label)
    return Weighed(pieces, label, score, [score - other for other in others])


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
        pieces, label, score, weights = weigh(session, task, item, None, max_parts)
        if len(pieces) < 2:
            continue  # to delete all of it shows nothing
        ranked = sorted(range(len(pieces)), key=lambda place: -weights[place])
        shuffled = random.Random(number).sample(ranked, len(ranked))  # noqa: S311 -- no secret
        for name, order in (("ranked", ranked), ("shuffled", shuffled)):
            gone = [order[:count] for count in range(1, len(order))]
            losses[name] += [score - left for left in _scores(session, task, gone, pieces, label)]
    if not losses["ranked"]:
        raise UsageError("faithfulness: expected an item of two parts or more, got none")
    return Faithfulness(*(sum(found) / len(found) for found in losses.values()))


def _scores(
    session: Session, task: Explainable, gone: Sequence[Sequence[int]], pieces: Pieces, label: str
) -> list[float]:
    """Return the label's score without each group of pieces; a bounded number of rows share a run."""
    found: list[float] = []
    for start in range(0, len(gone), _ROWS):
        rows = [pieces.without(places) for places in gone[start : start + _ROWS]]
        found += task.scores(session.run(task.collate(rows)), rows, label)
    return found
