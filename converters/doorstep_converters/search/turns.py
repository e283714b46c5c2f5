"""Whose turn it is: students that learnt their first steps wait, and the best learns the rest while there is time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Trial

from doorstep_converters.search.space import Choice
from doorstep_converters.stages import Output

_GRACE_S = 45.0  # a student may learn so long beyond the deadline
_SURE = 3  # of the best that wait, which shall have time to learn to the end


@dataclass(frozen=True, slots=True)
class Begun:
    """A student that may learn to the end.

    Attributes:
        student: before it learnt; trained: behind the last rung but one.
        rungs: training steps to accuracy on dev.
        score: what students are compared by, less is better; size: bytes at 4 bits.
        seconds: that it took so far.
    """

    trial: Trial
    choice: Choice
    student: Output
    trained: Output
    rungs: dict[str, float]
    score: float
    size: int
    seconds: float


def pick(waiting: Sequence[Begun], steps: int, left: float, is_tight: bool) -> Begun | None:
    """Return the best of those that `steps` more would not make late, of all where they would; None of none.

    Args:
        left: seconds until the deadline.
        is_tight: what was measured so far costs more than the budget allows, so the smallest goes first.
    """
    in_time = [one for one in waiting if not lateness(one.trained.result, steps, left)]
    return min(in_time or waiting, key=lambda one: one.size if is_tight else one.score, default=None)


def reserved(waiting: Sequence[Begun], steps: int, most: float) -> float:
    """Return the seconds that the best few of those that wait need for `steps`: `most`, or all that the best needs."""
    best = sorted(waiting, key=lambda one: one.score)[:_SURE]
    seconds = [needed(one.trained.result, steps) for one in best]
    return max(seconds[0], min(most, sum(seconds))) if seconds else 0.0


def needed(trained: Mapping[str, Any], steps: int) -> float:
    """Return how many seconds the next rung takes at the pace of the one before.

    Args:
        trained: what came of that: its `seconds`, `steps`, and `all_steps` until the corpus is learnt.
        steps: of the next rung; 0 for all.
    """
    pace: float = trained["seconds"] / max(1, trained["steps"])
    return pace * (steps or trained["all_steps"])


def lateness(trained: Mapping[str, Any], steps: int, left: float) -> str:
    """Return why a student that would learn far beyond the deadline stops; "" for one that does not.

    Args:
        trained, steps: as of `needed`.
        left: seconds until the deadline; negative behind it.
    """
    seconds = needed(trained, steps)
    if seconds <= left + _GRACE_S:
        return ""
    minutes = max(0.0, left) / 60
    return f"{steps or 'all'} steps would take {seconds / 60:.1f} min, and it has {minutes:.1f}"
