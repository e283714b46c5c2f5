"""What `predict` returns: frozen values made of plain data."""

from typing import Any, NamedTuple


class Label(NamedTuple):
    """One class and its probability (0 to 1)."""

    label: str
    score: float


class Classification(NamedTuple):
    """The classes of one item, best first.

    Attributes:
        label: the best class, or None where the bundle's bounds tell the model to abstain.
        score: probability of the best class, also when it abstained (0 to 1).
        scores: the best `top_k` classes, by falling probability.
        labels: every class at or above its threshold; for single-label tasks at most one.
    """

    label: str | None
    score: float
    scores: tuple[Label, ...]
    labels: tuple[str, ...] = ()

    @property
    def is_abstained(self) -> bool:
        """Tell whether no class was sure enough."""
        return self.label is None

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {**self._asdict(), "scores": [score._asdict() for score in self.scores], "labels": list(self.labels)}


class Tensors(NamedTuple):
    """Raw outputs of a model whose task doorstep does not interpret, as nested lists."""

    outputs: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return dict(self.outputs)


class Span(NamedTuple):
    """A labelled stretch of a text.

    Attributes:
        start, end: characters, as Python counts them: `item[start:end] == text`.
        score: mean probability of its words (0 to 1).
    """

    label: str
    start: int
    end: int
    text: str
    score: float

    @property
    def name(self) -> str:
        """What tells it from all others of the text, such as `12-18 price`."""
        return f"{self.start}-{self.end} {self.label}"


class Spans(NamedTuple):
    """The labelled stretches of one text, from left to right, none overlapping."""

    spans: tuple[Span, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {"spans": [span._asdict() for span in self.spans]}

    def flat(self) -> dict[str, float]:
        """Return one name for all spans together, and the score of each."""
        found = {span.name: span.score for span in self.spans}
        return {" | ".join(found) or "no span": 1.0, **found}


class Vector(NamedTuple):
    """A text, a picture or a product as numbers.

    Attributes:
        values: numbers; int8 ones stand for `value * scale`, binary ones are bytes of eight bits.
        precision: `float32`, `int8` or `binary`.
    """

    values: tuple[float, ...]
    precision: str = "float32"
    scale: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {**self._asdict(), "values": list(self.values)}

    def flat(self) -> dict[str, float]:
        """Return each number by its place."""
        return {f"vector[{place}]": value * self.scale for place, value in enumerate(self.values)}


class Hit(NamedTuple):
    """One thing of a ranking: its id, its score, and what is known of it."""

    id: str
    score: float
    fields: dict[str, Any]


class Ranking(NamedTuple):
    """Things in order, best first.

    Attributes:
        notes: what was wrong with the item and did not keep it from being answered.
    """

    hits: tuple[Hit, ...]
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> list[str]:
        """The ids, best first."""
        return [hit.id for hit in self.hits]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        hits: dict[str, Any] = {"hits": [hit._asdict() for hit in self.hits]}
        return {**hits, "notes": list(self.notes)} if self.notes else hits

    def flat(self) -> dict[str, float]:
        """Return id to score."""
        return {hit.id: hit.score for hit in self.hits} or {"nothing": 1.0}


class Word(NamedTuple):
    """A word that was heard: when, in seconds from the recording's beginning, and how surely (0 to 1)."""

    text: str
    start: float
    end: float
    score: float


class Transcript(NamedTuple):
    """What was said in a recording; "" where nothing was.

    Attributes:
        score: mean score of its words; of silence, the least probability of a frame that nothing is said (0 to 1).
    """

    text: str
    score: float
    words: tuple[Word, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {**self._asdict(), "words": [word._asdict() for word in self.words]}

    def flat(self) -> dict[str, float]:
        """Return the text and its score."""
        return {self.text or "silence": self.score}


class Heard(NamedTuple):
    """An utterance of a stream: when, in seconds from the stream's beginning, and what a model answers for it."""

    start: float
    end: float
    result: Any

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {"start": self.start, "end": self.end, "result": self.result.to_dict()}
