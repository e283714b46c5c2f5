"""Candidates as points, the Pareto front among them, and which one is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from doorstep_converters.budget import Budget

AXES = ("drop", "p95", "size")
"""What a front weighs; less is better of each."""


@dataclass(frozen=True, slots=True)
class Point:
    """One student as one variant, measured.

    Attributes:
        choice: name of the choice; variant: of the runtime and recipe.
        figures: bound to figure, as in `budget.KINDS`.
        checkpoint: folder of the student.
        latency: how latencies were found: `measured`, `measured on HOST` or `modelled`.
        digest: of the stage's output that the folder is part of, as `stages.Output` has it.
    """

    choice: str
    variant: str
    figures: dict[str, float | None]
    checkpoint: str
    latency: str = "measured"
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.choice} as {self.variant}"


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one choice.

    Attributes:
        state: `measured`, `stopped` (others learnt faster), `refused` (cannot keep to the budget) or `failed`.
        reason: in words; "" where it was measured.
        rungs: training steps to accuracy on dev.
        lost: variant that could not be made of it, to the reason.
    """

    choice: str
    state: str
    reason: str = ""
    points: tuple[Point, ...] = ()
    rungs: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    lost: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Tried":
        """Read what `dataclasses.asdict` wrote."""
        return cls(**{**plain, "points": tuple(Point(**point) for point in plain["points"])})


@dataclass(frozen=True, slots=True)
class Judged:
    """The variants of one student: those that were measured, and why others could not be made."""

    points: tuple[Point, ...] = ()
    lost: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Judged":
        """Read what `dataclasses.asdict` wrote."""
        return cls(tuple(Point(**point) for point in plain["points"]), plain["lost"])


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats in everything, the most accurate first."""
    kept = [point for point in points if not any(_beats(other, point) for other in points)]
    return sorted(kept, key=lambda point: _axes(point))


def within(points: Sequence[Point], budget: Budget) -> list[Point]:
    """Return the points that keep to every bound."""
    return [point for point in points if not budget.misses(point.figures)]


def nearest(points: Sequence[Point], budget: Budget, count: int = 3) -> list[Point]:
    """Return the points that miss the budget least."""
    return sorted(points, key=lambda point: (budget.excess(point.figures), *_axes(point)))[:count]


def choose(points: Sequence[Point], budget: Budget, prefer: str) -> Point | None:
    """Return the best point within the budget; None where there is none.

    What the budget does not bound decides: with no bound on size and time the fastest, else the most accurate, and
    where all is bounded the most accurate.
    """
    fitting = within(points, budget)
    if not fitting:
        return None
    order = {"accuracy": ("drop", "p95", "size"), "speed": ("p95", "size", "drop"), "size": ("size", "p95", "drop")}
    names = order[prefer or preference(budget)]
    return min(fitting, key=lambda point: tuple(_figure(point, name) for name in names))


def preference(budget: Budget) -> str:
    """Return what decides where the user did not say."""
    is_fast = any(budget.bound(name) is not None for name in ("p50", "p95"))
    is_small = any(budget.bound(name) is not None for name in ("size", "download", "rss"))
    is_right = any(budget.bound(name) is not None for name in ("drop", "accuracy", "macro_f1", "agreement"))
    if not is_right:
        return "accuracy"
    if not is_fast:
        return "speed"
    return "accuracy" if is_small else "size"


def _beats(one: Point, other: Point) -> bool:
    left, right = _axes(one), _axes(other)
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))


def _axes(point: Point) -> tuple[float, ...]:
    return tuple(_figure(point, name) for name in AXES)


def _figure(point: Point, name: str) -> float:
    value = point.figures.get(name)
    return float("inf") if value is None else value
