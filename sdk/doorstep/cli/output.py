"""Printing for people and for machines."""

import json
import sys
from collections.abc import Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Print one JSON document a line, Chinese kept as it is."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned table; numbers to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(_width(line[column]) for line in [list(head), *cells]) for column in range(len(head))]
    lines = [list(head), ["─" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(_pad(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def mib(count: float) -> str:
    """Return a byte count as MiB, a small one as KiB."""
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / (1 << 10):.1f} KiB"


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _width(text: str) -> int:
    """Return the columns a terminal gives `text`: wide East Asian characters take two."""
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _pad(text: str, width: int) -> str:
    space = " " * (width - _width(text))
    return space + text if text[:1].isdigit() else text + space
