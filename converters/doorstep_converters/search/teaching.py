"""What a search's students are taught by, and the grid their weights are trained for."""

from dataclasses import dataclass
from typing import Any

from doorstep.errors import UsageError

_BITS = (0, 4, 8)


@dataclass(frozen=True, slots=True)
class Teaching:
    """Options of distillation that all students of a search share.

    Attributes:
        temperature: that both sides' logits are divided by (greater than 0).
        alpha: share of the teacher's logits against the label where a text has one (0 to 1).
        vector: weight of the distance to the teacher's vector of the text.
        relations: weight of the distance to the teacher's attention relations; for students that have attention.
        tables: bits that token tables are trained for, in students without attention (4 or 8; 0: as they are).
        dense: the same of dense layers.
        dropped: share of tokens left out of a training text (0 to less than 1).
        counts: a second teacher, which counts words, answers as well; how much it counts is chosen on dev.
    """

    temperature: float = 2.0
    alpha: float = 0.8
    vector: float = 1.0
    relations: float = 0.0
    tables: int = 4
    dense: int = 8
    dropped: float = 0.1
    counts: bool = True

    def extras(self, has_attention: bool) -> list[str]:
        """Return what the teacher is asked for beside its logits, as `taught.EXTRAS` names it."""
        wanted = {"vector": self.vector, "relations": self.relations if has_attention else 0.0}
        return [name for name, weight in wanted.items() if weight]

    def options(self, has_attention: bool) -> dict[str, Any]:
        """Return these as `distill.Options` reads them."""
        relations = self.relations if has_attention else 0.0
        bits = {} if has_attention else {"tables": self.tables, "dense": self.dense}
        weights = {"temperature": self.temperature, "alpha": self.alpha, "vector": self.vector, "relations": relations}
        return {"weights": weights, "bits": bits, "dropped": self.dropped}


def check_teaching(teaching: Teaching) -> None:
    """Refuse what no student can be taught with.

    Raises:
        UsageError: a number outside its range.
    """
    for name, low, high in (("alpha", 0.0, 1.0), ("dropped", 0.0, 0.9), ("vector", 0.0, 1e3), ("relations", 0.0, 1e3)):
        if not low <= (value := getattr(teaching, name)) <= high:
            raise UsageError(f"distillation: expected {name} from {low:g} to {high:g}, got {value:g}")
    if not 0.0 < teaching.temperature <= 100.0:
        raise UsageError(f"distillation: expected a temperature above 0 and at most 100, got {teaching.temperature:g}")
    for name in ("tables", "dense"):
        if getattr(teaching, name) not in _BITS:
            raise UsageError(f"distillation: expected {name} to be 4 or 8 bits, or 0, got {getattr(teaching, name)}")
