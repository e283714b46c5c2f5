"""A model asked for many texts: where memory does not suffice for a batch, it is halved, and the user is told."""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from doorstep.errors import ConversionError

Row = TypeVar("Row")
Answer = TypeVar("Answer")

_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_not_supported",
)


@dataclass(slots=True)
class Batches:
    """Batches of texts.

    Attributes:
        size: texts at a time; a batch that was too large once is not tried again.
        subject: who is asked, as the user knows it.
        remedy: what the user can do where not even one text fits.
        say: called with what the user should know.
    """

    size: int
    subject: str
    remedy: str
    say: Callable[[str], None]

    def ask(self, rows: Sequence[Row], answer: Callable[[Sequence[Row]], Iterable[Answer]]) -> Iterator[Answer]:
        """Yield what `answer` makes of each row, in their order; it gets at most `size` rows at once.

        Raises:
            ConversionError: one row alone does not fit into memory.
        """
        done = 0
        while done < len(rows):
            part = rows[done : done + self.size]
            answers = self._tried(part, answer)
            if answers is not None:
                yield from answers
                done += len(part)

    def _tried(
        self, part: Sequence[Row], answer: Callable[[Sequence[Row]], Iterable[Answer]]
    ) -> Iterable[Answer] | None:
        """Return the answers; None where memory did not suffice, and the next try is half as large."""
        try:
            return answer(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise ConversionError(
                    f"{self.subject}: out of memory even with one text at a time ({reason_of(error)}); {self.remedy}"
                ) from error
        self.size = len(part) // 2  # outside of the clause above, whose error holds what the batch had taken
        self.say(f"{self.subject}: out of memory: went on in batches of {self.size}")
        free()
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation failed, on a GPU or not."""
    is_known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return is_known or any(words in str(error).lower() for words in _NO_MEMORY)


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, shortened."""
    return str(error).partition("\n")[0][:200] or type(error).__name__


def to_log(text: str) -> None:
    """Write what the user should know to stderr, which in a stage is its log."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def free() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
