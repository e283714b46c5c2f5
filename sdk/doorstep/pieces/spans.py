"""The words of a text in which one span is asked about: where its words stand when others are gone."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from doorstep.errors import InputError
from doorstep.pieces.texts import TextPieces, without
from doorstep.results import Span, Spans

NOTHING = "no span"
"""What an explanation is about where no span was found."""

Marks = tuple[int | None, ...]
"""A character of each word that is asked about, None where the word is gone."""


class Chance(Protocol):
    """A word, characters from `start` to `end`, and how likely it is of the kind that was asked for (0 to 1)."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def score(self) -> float: ...


class SpanPieces(TextPieces):
    """A text's words and Chinese characters.

    Args:
        label: the span that is asked about.
        marks: where its words stand.
        row_of: a text, and where the marks stand in it, to the task's row.
    """

    def __init__(
        self, text: str, max_parts: int, label: str, marks: Marks, row_of: Callable[[str, Marks], Any]
    ) -> None:
        super().__init__(text, max_parts, lambda whole: row_of(whole, marks))
        self.label = label
        self._marks = marks
        self._marked_row_of = row_of

    def without(self, places: Sequence[int]) -> Any:
        gone = [self._spans[place] for place in places]
        return self._marked_row_of(without(self._text, gone), tuple(_moved(mark, gone) for mark in self._marks))


def choose(found: Spans, label: str | None) -> Span | None:
    """Return the span a label names, the surest one where there is none; None where no span was found, nor asked for.

    Raises:
        InputError: no such span was found.
    """
    fitting = [span for span in found.spans if label in (None, span.name, span.label)]
    if not fitting and (found.spans or label not in (None, NOTHING)):
        known = ", ".join(span.name for span in found.spans) or NOTHING
        raise InputError(f"label: expected a span that was found ({known:.200}), got {label!r:.60}")
    return max(fitting, key=lambda span: span.score, default=None)


def marks_of(text: str, words: Sequence[Chance], span: Span | None) -> Marks:
    """Return the first character of each word of a span, of all words where there is none."""
    marks = []
    for word in words:
        piece = text[word.start : word.end]
        if piece.strip() and (span is None or (word.start < span.end and word.end > span.start)):
            marks.append(word.start + len(piece) - len(piece.lstrip()))
    return tuple(marks)


def kind_of(asked: str) -> str:
    """Return the label in the name of a span; "" where no span is asked about."""
    return "" if asked == NOTHING else asked.partition(" ")[2]


def mean_score(words: Sequence[Chance], marks: Marks, asked: str) -> float:
    """Return the mean score of the words that are asked about; of a span a word that is gone counts 0."""
    left = [mark for mark in marks if mark is not None]
    found = [next((word.score for word in words if word.start <= mark < word.end), 0.0) for mark in left]
    count = len(left) if asked == NOTHING else len(marks)
    return sum(found) / count if count else 1.0


def _moved(mark: int | None, gone: Sequence[tuple[int, int]]) -> int | None:
    if mark is None or any(start <= mark < end for start, end in gone):
        return None
    return mark - sum(end - start for start, end in gone if end <= mark)
