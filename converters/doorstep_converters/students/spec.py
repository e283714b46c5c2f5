"""Specifications of students: plain values whose names decode, and the ladder from large to tiny."""

from dataclasses import dataclass

from doorstep.errors import UsageError

KINDS = ("transformer", "bilstm", "cnn", "hashed", "static")


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """What a student is built as.

    Attributes:
        kind: one of `KINDS`; `transformer` is the teacher's own architecture.
        width: numbers a token has; 0 keeps a transformer's.
        vocabulary: tokens at most (rows of the table for `hashed`); 0 keeps the teacher's tokenizer.
        layers: of a transformer, of n-gram filters, of recurrent cells.
        filters: of each n-gram layer, or states of a recurrent cell and direction; 0 where there are none.
        head: numbers in the hidden layer in front of the classes; 0 for none.
    """

    kind: str
    width: int
    vocabulary: int
    layers: int = 1
    filters: int = 0
    head: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"student: expected a kind of {', '.join(KINDS)}, got {self.kind!r}")
        sizes = (self.width, self.vocabulary, self.filters, self.head)
        if min(sizes) < 0 or self.layers < 1 or (self.width == 0 and self.kind != "transformer"):
            raise UsageError(f"student {self.name}: sizes must be positive, and only a transformer keeps its width")

    @property
    def name(self) -> str:
        """Kind and sizes, such as `cnn-2l-64w-96f-128h-8192v`; what is 0 is left out."""
        parts = {"l": self.layers, "w": self.width, "f": self.filters, "h": self.head, "v": self.vocabulary}
        return "-".join([self.kind, *(f"{size}{letter}" for letter, size in parts.items() if size)])

    @classmethod
    def from_name(cls, name: str) -> "StudentSpec":
        """Read a name back.

        Raises:
            UsageError: it is none.
        """
        kind, *parts = name.split("-")
        fields = {"l": "layers", "w": "width", "f": "filters", "h": "head", "v": "vocabulary"}
        sizes = {"width": 0, "vocabulary": 0}
        for part in parts:
            if part[-1:] not in fields or not (part[:-1].isascii() and part[:-1].isdecimal()):
                raise UsageError(f"student: expected a name such as cnn-2l-64w-96f-8192v, got {name!r}")
            sizes[fields[part[-1]]] = int(part[:-1])
        return cls(kind, **sizes)


LADDER: tuple[StudentSpec, ...] = (
    StudentSpec("transformer", 0, 16384, layers=3),
    StudentSpec("transformer", 128, 16384, layers=2),
    StudentSpec("bilstm", 64, 8192, filters=64),
    StudentSpec("cnn", 96, 16384, layers=2, filters=128, head=128),
    StudentSpec("cnn", 64, 8192, layers=2, filters=96, head=96),
    StudentSpec("cnn", 48, 4096, filters=64),
    StudentSpec("hashed", 48, 8192, filters=64),
    StudentSpec("static", 96, 8192, head=128),
    StudentSpec("static", 48, 4096, head=64),
)
"""Students worth trying, from large to tiny."""
