"""Plots as SVG text: bars and lines, drawn with no library and no asset from outside."""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b7791f", "#b83280", "#0987a0", "#4a5568", "#9b2c2c", "#553c9a")
_WIDTH = 560
_ROW = 26
_LABEL = 15.0
_CHARACTER = 7.0  # px of a Latin letter at 12 px; wide characters take two
_INK, _GRID = "#1a202c", "#e2e8f0"


class Bar(NamedTuple):
    """One row: its parts are laid end to end; a thin line goes on to `reach`, where that is more."""

    name: str
    parts: tuple[float, ...]
    reach: float | None = None


class Line(NamedTuple):
    """One curve; `points` are (x, y) in rising order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


def bars(title: str, rows: Sequence[Bar], legend: Sequence[str] = ()) -> str:
    """Draw horizontal bars from 0; with a legend, its names are those of the parts."""
    left = max(_text_width(row.name) for row in rows) + 14
    top = 34 + (22 if legend else 0)
    most = max(max(sum(row.parts), row.reach or 0.0) for row in rows) or 1.0
    unit = (_WIDTH - left - 62) / most
    shapes = _legend(legend, 30)
    for place, row in enumerate(rows):
        y = top + place * _ROW
        shapes.append(_text(left - 8, y + 15, row.name, "end"))
        x = left
        for number, part in enumerate(row.parts):
            colour = COLOURS[(number if legend else place) % len(COLOURS)]
            shapes.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{part * unit:.1f}" height="{_ROW - 9}" fill="{colour}"/>'
            )
            x += part * unit
        end = max(x, left + (row.reach or 0.0) * unit)
        if end > x:
            shapes.append(f'<path d="M{x:.1f} {y + 11.5}H{end:.1f}M{end:.1f} {y + 7}v9" stroke="{_INK}" fill="none"/>')
        shapes.append(_text(end + 5, y + 15, _number(sum(row.parts))))
    return _svg(title, top + len(rows) * _ROW + 6, shapes)


def lines(title: str, curves: Sequence[Line], x_name: str) -> str:
    """Draw curves over an x axis whose steps are doublings; y begins at 0."""
    names = max(_text_width(curve.name) for curve in curves) + 16
    left, right, top, bottom = 52.0, _WIDTH - names, 40.0, 270.0
    places = sorted({x for curve in curves for x, _ in curve.points})
    most = _ceiling(max(y for curve in curves for _, y in curve.points))
    first, last = math.log2(places[0]), math.log2(places[-1])

    def at_x(x: float) -> float:
        return left + 12 + (right - left - 24) * ((math.log2(x) - first) / (last - first) if last > first else 0.5)

    def at_y(y: float) -> float:
        return bottom - (bottom - top) * y / most

    shapes = []
    for step in range(5):
        y = most * step / 4
        shapes.append(f'<path d="M{left} {at_y(y):.1f}H{right:.1f}" stroke="{_GRID}"/>')
        shapes.append(_text(left - 6, at_y(y) + 4, _number(y), "end"))
    shapes += [_text(at_x(x), bottom + 17, _number(x), "middle") for x in places]
    shapes.append(_text((left + right) / 2, bottom + 36, x_name, "middle"))
    labels = _apart([at_y(curve.points[-1][1]) for curve in curves], bottom)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in curve.points)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{colour}"/>' for x, y in curve.points]
        end = f"{at_x(curve.points[-1][0]) + 5:.1f} {at_y(curve.points[-1][1]):.1f}"
        shapes.append(f'<path d="M{end}L{right + 3:.1f} {labels[number]:.1f}" stroke="{colour}" opacity=".4"/>')
        shapes.append(_text(right + 6, labels[number] + 4, curve.name, colour=colour))
    return _svg(title, bottom + 46, shapes)


def _apart(places: list[float], lowest: float) -> list[float]:
    """Move label heights until none lies on another nor below `lowest`, keeping their order."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = list(places)
    for above, number in pairwise(order):
        moved[number] = max(moved[number], moved[above] + _LABEL)
    moved[order[-1]] = min(moved[order[-1]], lowest)
    for below, number in pairwise(reversed(order)):
        moved[number] = min(moved[number], moved[below] - _LABEL)
    return moved


def _legend(names: Sequence[str], y: float) -> list[str]:
    shapes, x = [], 0.0
    for number, name in enumerate(names):
        shapes.append(f'<rect x="{x:.1f}" y="{y}" width="11" height="11" fill="{COLOURS[number % len(COLOURS)]}"/>')
        shapes.append(_text(x + 16, y + 10, name))
        x += _text_width(name) + 30
    return shapes


def _svg(title: str, height: float, shapes: list[str]) -> str:
    head = f'<text x="0" y="15" font-size="14" font-weight="600" fill="{_INK}">{escape(title)}</text>'
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}" font-size="12">'
        f"{head}{''.join(shapes)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = _INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _text_width(text: str) -> float:
    return sum(_CHARACTER if ord(character) < 0x1100 else 2 * _CHARACTER for character in text)


def _ceiling(value: float) -> float:
    """Return the next number above `value` whose quarters are round."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8) if step * power >= value), 10 * power)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
