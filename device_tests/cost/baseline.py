"""The committed counts, and how new ones compare with them."""

import json
import platform
import sysconfig
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from doorstep.decoding import build, parse_json
from doorstep.device import parse_version

BASELINE = Path(__file__).with_name("baseline.json")
MARGIN = 0.10


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions, and what they hold for.

    Attributes:
        counts: name to number of instructions.
        python, numpy: versions; counts are compared where major and minor are equal.
        interpreter: processor family, compiler and kind of build; compared where equal.
        margin: share by which a count may grow (0 to 1).
    """

    counts: dict[str, int]
    python: str
    numpy: str
    interpreter: str
    margin: float = MARGIN

    @classmethod
    def of_here(cls, counts: dict[str, int]) -> "Counts":
        """Return `counts` made by this Python."""
        is_optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
        kind = "optimized" if is_optimized else "plain"
        interpreter = f"{platform.machine()}, {platform.python_compiler()}, {kind}"
        return cls(counts, platform.python_version(), version("numpy"), interpreter)

    @classmethod
    def read(cls, path: Path) -> "Counts | None":
        """Read a baseline; None where there is none yet.

        Raises:
            FormatError: it is damaged.
        """
        return build(parse_json(path.read_bytes(), path.name), cls, path.name) if path.exists() else None

    def write(self, path: Path) -> None:
        """Write a baseline."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Comparison:
    """New counts beside a baseline.

    Attributes:
        rows: name, count now, count in the baseline, ratio; None for what is not known.
        over: one sentence for each count that fails.
        difference: why the two cannot be compared; empty where they can.
    """

    rows: list[tuple[str, int, int | None, float | None]]
    over: list[str]
    difference: str


def compare(now: Counts, baseline: Counts | None) -> Comparison:
    """Compare `now` with `baseline`; its margin counts."""
    before = baseline.counts if baseline else {}
    rows = [(name, count, before.get(name), _ratio(count, before.get(name))) for name, count in now.counts.items()]
    if baseline is None:
        return Comparison(rows, ["there is no baseline"], "")
    difference = _difference(now, baseline)
    over = []
    for name, count, old, ratio in rows:
        if ratio is None:
            over.append(f"{name}: not in the baseline")
        elif ratio > 1 + baseline.margin:
            allowed = f"{1 + baseline.margin:.2f} × {old:,} instructions"
            over.append(f"{name}: expected at most {allowed}, got {ratio:.3f} × ({count:,}); make it cheaper")
    return Comparison(rows, over, difference)


def _ratio(count: int, before: int | None) -> float | None:
    return count / before if before else None


def _difference(now: Counts, baseline: Counts) -> str:
    for name, ours, theirs in (("Python", now.python, baseline.python), ("NumPy", now.numpy, baseline.numpy)):
        if parse_version(ours)[:2] != parse_version(theirs)[:2]:
            return f"the baseline is of {name} {theirs}, this is {ours}"
    if now.interpreter != baseline.interpreter:
        return f"the baseline is of a Python for {baseline.interpreter}; this one is {now.interpreter}"
    return ""
