"""What `explain` returns: the parts of an item and what each is worth, frozen values made of plain data."""

from typing import Any, NamedTuple


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
        score: the label's probability for the whole item; of a ranking its score, of a vector its cosine.
        parts: of a text, of the ranked text whose id is the label, or of a search's query, from left to right; empty
            elsewhere.
        regions: of a picture, row by row; empty elsewhere.
        steps: of a history, oldest first; empty elsewhere.
        segments: of a recording, in their order; empty elsewhere.
        fields: of a dict, in its order; empty elsewhere.
        is_exact: the weights are what each part brings to the label's `logit`, in a model that adds its parts up: with
            `bias` their sum is the logit, within 0.001 of its size or of 1. Otherwise they are what the score loses.
        logit: what the model itself gives the label, before temperature and softmax, where `is_exact`; else None.
        bias: what the logit has without any part, where `is_exact`.
    """

    label: str
    score: float
    parts: tuple[Part, ...] = ()
    regions: tuple[Region, ...] = ()
    steps: tuple[Step, ...] = ()
    segments: tuple[Segment, ...] = ()
    fields: tuple[Known, ...] = ()
    is_exact: bool = False
    logit: float | None = None
    bias: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        kinds = ("parts", "regions", "steps", "segments", "fields")
        told = {kind: [part._asdict() for part in getattr(self, kind)] for kind in kinds}
        exact = {"is_exact": self.is_exact, "logit": self.logit, "bias": self.bias}
        return {"label": self.label, "score": self.score, **told, **exact}
