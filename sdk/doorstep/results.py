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
