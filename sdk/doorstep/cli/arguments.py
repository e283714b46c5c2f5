"""Kinds of arguments that more than one verb takes."""

import argparse
import os

from doorstep.device import granted_cores

_MOST = 1024


def count(text: str) -> int:
    """Read a whole number from 1 to 1024."""
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {_MOST}, got {text!r}")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them, in rising order: `1,8,32`."""
    return tuple(sorted({count(part.strip()) for part in text.split(",")}))


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
