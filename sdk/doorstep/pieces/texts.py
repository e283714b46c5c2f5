"""The words of a text."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from doorstep.explanation import Part

# Han, kana and Bopomofo are written without spaces: every character is a part. Then words, then runs of signs.
_UNSPACED = (
    "\u3005-\u3007\u3041-\u30ff\u3105-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_PART = re.compile(rf"[{_UNSPACED}]|(?:[^\W{_UNSPACED}]|(?<=\w)['’-](?=\w))+|[^\w\s]+")


class TextPieces:
    """A text's words and Chinese characters.

    Args:
        row_of: a text to the task's row.
    """

    def __init__(self, text: str, max_parts: int, row_of: Callable[[str], Any]) -> None:
        self._text = text
        self._spans = split(text, max_parts)
        self._row_of = row_of

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First character and the one behind the last, of each piece."""
        return self._spans

    def without(self, places: Sequence[int]) -> Any:
        return self._row_of(without(self._text, [self._spans[place] for place in places]))

    def told(self, weights: Sequence[float]) -> dict[str, tuple[Part, ...]]:
        parts = zip(self._spans, weights, strict=True)
        return {"parts": tuple(Part(self._text[start:end], start, end, weight) for (start, end), weight in parts)}


def split(text: str, max_parts: int) -> list[tuple[int, int]]:
    """Return (start, end) of the parts of a text: words, single Chinese characters, runs of signs.

    Where there are more than `max_parts`, neighbours are taken together.
    """
    spans = [match.span() for match in _PART.finditer(text)]
    count = min(len(spans), max_parts)
    edges = [len(spans) * number // count for number in range(count + 1)] if count else []
    return [(spans[first][0], spans[last - 1][1]) for first, last in pairwise(edges)]


def without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return `text` without the characters of `spans`."""
    kept, end_before = [], 0
    for start, end in sorted(spans):
        kept.append(text[end_before:start])
        end_before = end
    return "".join([*kept, text[end_before:]])
