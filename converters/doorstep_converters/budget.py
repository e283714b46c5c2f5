"""A budget: what a compressed model may cost and must still be able to do, as `size<=2MB, p95<=2ms, drop<=0.5`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from doorstep.errors import UsageError

Figures = Mapping[str, float | None]
"""Name of a bound to the figure of one candidate, in the bound's unit; None where it was not measured."""

_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1048576.0, "GiB": 1073741824.0}
_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_MIB = {"MiB": 1.0, "MB": 1e6 / 1048576, "GiB": 1024.0, "GB": 1e9 / 1048576}
_POINTS = {"": 1.0, "pt": 1.0, "pts": 1.0, "points": 1.0}
_SHARE = {"": 1.0, "%": 0.01}
_TERM = re.compile(r"([A-Za-z_0-9]+)\s*(<=|>=|≤|≥|<|>|=)\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-zµ%]*)")


@dataclass(frozen=True, slots=True)
class Kind:
    """What can be bounded.

    Attributes:
        units: unit to its worth in the unit that figures have.
        is_most: the bound is the most that is allowed; otherwise the least.
        scale: a miss by so much counts as much as a miss by all of the bound; 0 takes the bound itself.
    """

    units: Mapping[str, float]
    is_most: bool
    scale: float
    meaning: str


KINDS: dict[str, Kind] = {
    "size": Kind(_BYTES, True, 0.0, "bytes a device holds for one variant, tokenizer included"),
    "download": Kind(_BYTES, True, 0.0, "the same, deflated as in the single-file form"),
    "p50": Kind(_MS, True, 0.0, "median latency of one text on one thread"),
    "p95": Kind(_MS, True, 0.0, "95th percentile of the same"),
    "cold": Kind(_MS, True, 0.0, "process start to first answer"),
    "rss": Kind(_MIB, True, 0.0, "peak resident memory of a process that answers"),
    "drop": Kind(_POINTS, True, 1.0, "points of accuracy lost against the teacher"),
    "accuracy": Kind(_SHARE, False, 0.01, "share of right labels"),
    "macro_f1": Kind(_SHARE, False, 0.01, "mean of the classes' F1"),
    "worst_class": Kind(_SHARE, False, 0.01, "recall of the class that is found least"),
    "agreement": Kind(_SHARE, False, 0.01, "share of texts with the teacher's label"),
    "slice_gap": Kind(_POINTS, True, 1.0, "points of accuracy between the best and the worst slice"),
    "noise_drop": Kind(_POINTS, True, 1.0, "points of accuracy lost under the worst kind of noise"),
    "ece": Kind(_SHARE, True, 0.01, "expected calibration error, after temperature scaling"),
}
"""Name of a bound to what it bounds."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound; `value` is in the unit that figures have."""

    name: str
    value: float

    def excess(self, figure: float | None) -> float:
        """Return how far a figure misses the bound, as a share; 0 where it is met, infinite where it is unknown."""
        if figure is None:
            return float("inf")
        kind = KINDS[self.name]
        missed = figure - self.value if kind.is_most else self.value - figure
        return max(0.0, missed) / (kind.scale or self.value)

    def describe(self, figure: float | None) -> str:
        """Return `p95 3.1 ms, bound 2 ms`."""
        got = "not measured" if figure is None else show(self.name, figure)
        return f"{self.name} {got}, bound {show(self.name, self.value)}"


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds, each name once."""

    limits: tuple[Limit, ...]

    def misses(self, figures: Figures) -> list[str]:
        """Return a description of every bound that is missed."""
        return [
            limit.describe(figures.get(limit.name)) for limit in self.limits if limit.excess(figures.get(limit.name))
        ]

    def excess(self, figures: Figures) -> float:
        """Return the sum of all misses, as shares of the bounds."""
        return sum(limit.excess(figures.get(limit.name)) for limit in self.limits)

    def bound(self, name: str) -> float | None:
        """Return a bound's value; None where there is none of that name."""
        return next((limit.value for limit in self.limits if limit.name == name), None)

    def __str__(self) -> str:
        return ", ".join(
            f"{limit.name}{'<=' if KINDS[limit.name].is_most else '>='}{show(limit.name, limit.value)}".replace(" ", "")
            for limit in self.limits
        )


def parse_budget(text: str) -> Budget:
    """Read bounds with commas between them.

    >>> str(parse_budget("size<=2MB, p95 <= 2 ms, drop<=0.5"))
    'size<=2MB, p95<=2ms, drop<=0.5'

    Raises:
        UsageError: no bound, a misspelt or repeated one, a wrong direction or unit.
    """
    terms = [term.strip() for term in re.split(r"[,;]", text) if term.strip()]
    if not terms:
        raise UsageError("budget: expected bounds such as 'size<=2MB, p95<=2ms, drop<=0.5', got none")
    limits = [_limit(term) for term in terms]
    names = [limit.name for limit in limits]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"budget: expected each bound once, got {repeated[0]} twice")
    return Budget(tuple(limits))


def show(name: str, value: float) -> str:
    """Return a figure with the unit people read."""
    units = KINDS[name].units
    if units is _BYTES:
        unit, worth = next(((u, w) for u, w in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if value >= w), ("B", 1.0))
        return f"{value / worth:.3g} {unit}"
    suffix = {id(_MS): " ms", id(_MIB): " MiB"}.get(id(units), "")
    return f"{value:.4g}{suffix}"


def _limit(term: str) -> Limit:
    found = _TERM.fullmatch(term)
    if found is None:
        raise UsageError(f"budget: expected a bound such as p95<=2ms, got {term!r:.60}")
    name, sign, number, unit = found.groups()
    kind = KINDS.get(name)
    if kind is None:
        near = get_close_matches(name.lower(), KINDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(KINDS)}"
        raise UsageError(f"budget: unknown bound {name!r:.40}; {hint}")
    if (sign in ("<=", "≤", "<")) != kind.is_most or sign == "=":
        raise UsageError(f"budget: expected {name}{'<=' if kind.is_most else '>='}…, got {term!r:.60}")
    if unit not in kind.units:
        units = ", ".join(unit for unit in kind.units if unit) or "no unit"
        raise UsageError(f"budget: {name}: expected one of the units {units}, got {unit or 'none'!r} in {term!r:.60}")
    value = float(number) * kind.units[unit]
    if not kind.scale and not value > 0:
        raise UsageError(f"budget: {name}: expected more than 0, got {term!r:.60}")
    if kind.units is _SHARE and value > 1:
        raise UsageError(f"budget: {name}: expected a share of 0 to 1, or %, got {term!r:.60}")
    return Limit(name, value)
