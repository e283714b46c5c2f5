"""What is searched: students by name, with or without augmented data."""

from dataclasses import dataclass

from doorstep.errors import UsageError
from doorstep_converters.students.spec import LADDER, StudentSpec

_FIELDS = {"l": "layers", "h": "heads", "w": "width", "v": "vocabulary", "s": "zeros"}


@dataclass(frozen=True, slots=True)
class PruneSpec:
    """The teacher, pruned.

    Attributes:
        layers: that stay; 0 for all.
        heads, width: percent of the heads and of the feed-forward neurons that stay.
        vocabulary: tokens at most; 0 for all that the data uses.
        zeros: percent of the single weights that become zero (sparsity): nothing is faster, the download is smaller.
    """

    layers: int = 0
    heads: int = 100
    width: int = 100
    vocabulary: int = 0
    zeros: int = 0

    @property
    def name(self) -> str:
        """Sizes, such as `pruned-3l-50h-50w` or `pruned-80s`; what stays whole is left out."""
        sizes = {
            "l": self.layers,
            "h": self.heads % 100,
            "w": self.width % 100,
            "v": self.vocabulary,
            "s": self.zeros,
        }
        return "-".join(["pruned", *(f"{size}{letter}" for letter, size in sizes.items() if size)])

    @classmethod
    def from_name(cls, name: str) -> "PruneSpec":
        """Read a name back.

        Raises:
            UsageError: it is none.
        """
        sizes = {}
        for part in name.split("-")[1:]:
            if part[-1:] not in _FIELDS or not part[:-1].isdecimal():
                raise UsageError(f"student: expected a name such as pruned-3l-50h-50w, got {name!r:.60}")
            sizes[_FIELDS[part[-1]]] = int(part[:-1])
        spec = cls(**sizes)
        if not (0 < spec.heads <= 100 and 0 < spec.width <= 100):
            raise UsageError(f"student: {name}: expected 1 to 100 percent of heads and width")
        if not 0 < sizes.get("zeros", 1) < 100:
            raise UsageError(f"student: {name}: expected 1 to 99 percent of zeros, such as pruned-80s")
        return spec

    @property
    def is_trained(self) -> bool:
        """Tell whether something was lost that must be learnt again."""
        return bool(self.layers or self.heads < 100 or self.width < 100 or self.vocabulary or self.zeros)


@dataclass(frozen=True, slots=True)
class Choice:
    """One point of the search.

    Attributes:
        student: name of a specification.
        is_augmented: it learns from augmented texts as well.
        rate: its learning rate, as a multiple of the ordinary one.
    """

    student: str
    is_augmented: bool = False
    rate: float = 1.0

    @property
    def name(self) -> str:
        parts = [self.student, *(["augmented"] if self.is_augmented else [])]
        return "+".join([*parts, *([f"rate{self.rate:g}"] if self.rate != 1.0 else [])])

    @property
    def is_pruned(self) -> bool:
        """Tell whether the student is the teacher, pruned."""
        return self.student.partition("-")[0] == "pruned"

    @property
    def has_attention(self) -> bool:
        """Tell whether the student is a transformer, the teacher pruned or a smaller one."""
        return self.student.partition("-")[0] in ("pruned", "transformer")

    @property
    def is_trained(self) -> bool:
        """Tell whether there is something to learn: not where nothing of the teacher was lost."""
        return not self.is_pruned or PruneSpec.from_name(self.student).is_trained


RATES = (0.5, 1.0, 2.0)
_PRUNED = (PruneSpec(), PruneSpec(layers=3), PruneSpec(layers=2, heads=50, width=50))


def default_students() -> tuple[str, ...]:
    """Return students worth trying, from tiny to large: the small ones are quick and say much."""
    return (*(spec.name for spec in reversed(LADDER)), *(spec.name for spec in _PRUNED))


def check_student(name: str) -> None:
    """Refuse a name that no student has.

    Raises:
        UsageError: it does not decode.
    """
    if name.partition("-")[0] == "pruned":
        PruneSpec.from_name(name)
    else:
        StudentSpec.from_name(name)
