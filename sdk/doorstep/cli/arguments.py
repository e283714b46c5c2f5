"""Kinds of arguments that more than one verb takes."""

import argparse
import math
import os
from collections.abc import Callable

from doorstep.device import granted_cores

_MOST = 1024


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return read


count = whole(1, _MOST)


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them, in rising order: `1,8,32`."""
    return tuple(sorted({count(part.strip()) for part in text.split(",")}))


def between(low: float, high: float) -> Callable[[str], float]:
    """Return a reader of numbers from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text!r}")
        return value

    return read


def cpus(text: str) -> tuple[int, ...]:
    """Read numbers of CPUs that this process may use."""
    allowed = os.sched_getaffinity(0)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) in allowed for part in parts):
        raise argparse.ArgumentTypeError(f"expected some of {','.join(map(str, sorted(allowed)))}, got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def default_threads() -> str:
    """Return what `Predictor.load` would take: DOORSTEP_THREADS, else the cores granted."""
    return os.environ.get("DOORSTEP_THREADS") or str(granted_cores())
