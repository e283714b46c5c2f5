"""Count what doorstep itself costs and compare it with the baseline: `python -m device_tests.cost --check`."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from device_tests.cost.baseline import BASELINE, Comparison, Counts, compare
from device_tests.cost.callgrind import CostError, ValgrindMissing, count
from device_tests.cost.stage import build
from doorstep.cli.output import table
from doorstep.errors import FormatError

ACCEPT = "accept it with: python -m device_tests.cost --update"


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 where the counts are within the margin or were written, else 1."""
    arguments = _parse(argv)
    try:
        counts = _count(arguments.keep)
        baseline = Counts.read(arguments.baseline)
    except (CostError, FormatError) as error:
        is_skipped = isinstance(error, ValgrindMissing) and arguments.check and not arguments.strict
        sys.stderr.write(f"{'skipped: ' if is_skipped else ''}{error}\n")
        return 0 if is_skipped else 1
    comparison = compare(counts, baseline)
    print("instructions of doorstep's own; NumPy, engine and tokenizer library taken off")
    print(table(("name", "now", "baseline", "ratio"), [_cells(row) for row in comparison.rows]))
    if arguments.update:
        counts.write(arguments.baseline)
        return 0
    return verdict(comparison, arguments.strict)


def verdict(comparison: Comparison, is_strict: bool) -> int:
    """Say on stderr what is wrong; return the exit code."""
    if comparison.difference:
        sys.stderr.write(f"not comparable: {comparison.difference}\n")
        return 1 if is_strict else 0
    for sentence in comparison.over:
        sys.stderr.write(f"{sentence}, or {ACCEPT}\n")
    return 1 if comparison.over else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m device_tests.cost", description=__doc__)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="for CI: a machine without valgrind is let pass")
    action.add_argument("--update", action="store_true", help="write the counts to the baseline")
    parser.add_argument("--strict", action="store_true", help="fail where valgrind or a like baseline is missing")
    parser.add_argument("--baseline", type=Path, default=BASELINE, metavar="FILE")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep callgrind's files, for callgrind_annotate")
    return parser.parse_args(argv)


def _count(keep: Path | None) -> Counts:
    with tempfile.TemporaryDirectory(prefix="cost-") as folder:
        dumps = (keep or Path(folder) / "dumps").absolute()
        return Counts.of_here(count(build(Path(folder)), dumps))


def _cells(row: tuple[str, int, int | None, float | None]) -> list[object]:
    name, now, before, ratio = row
    return [name, f"{now:,}", before and f"{before:,}", ratio and f"{ratio:.3f}"]


if __name__ == "__main__":
    raise SystemExit(main())
