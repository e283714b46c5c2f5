"""Which labels of a classification the caller wants to see."""

from dataclasses import dataclass
from typing import Any

from doorstep.manifest import Manifest
from doorstep.results import Classification
from doorstep.serve.refusals import RefusalError


@dataclass(frozen=True, slots=True)
class Narrowing:
    """A caller's wishes.

    Attributes:
        top_k: how many scores at most; None for the bundle's own number.
        labels: only these; empty for all.
    """

    top_k: int | None = None
    labels: tuple[str, ...] = ()

    def check(self, manifest: Manifest) -> None:
        """Refuse what this bundle cannot do.

        Raises:
            RefusalError: 400, an unknown label, or a number below 1.
        """
        if self.top_k is not None and self.top_k < 1:
            raise RefusalError(400, f"top_k: expected at least 1, got {self.top_k}")
        if not self.labels and self.top_k is None:
            return
        known = manifest.options.get("labels")
        if not isinstance(known, (list, tuple)):
            raise RefusalError(400, f"labels, top_k: a model of {manifest.task} has no labels; leave them out")
        if unknown := sorted(set(self.labels) - set(known)):
            raise RefusalError(400, f"labels: expected some of {', '.join(known):.300}, got {unknown[0]!r:.60}")

    def apply(self, result: Any, top_k: int) -> Any:
        """Return a result with the wanted scores only; `top_k` of them where the caller named no number."""
        if not isinstance(result, Classification):
            return result
        scores = result.scores
        if self.labels:
            scores = tuple([score for score in scores if score.label in self.labels])
        return result._replace(scores=scores[: self.top_k or top_k])
