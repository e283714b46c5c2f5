"""Energy, where the board counts it: Linux's powercap, Intel's RAPL counters of whole packages.

See Documentation/power/powercap/powercap.rst in the kernel's sources. What else runs on the machine is counted too.
"""

from collections.abc import Mapping
from pathlib import Path

NOT_TOLD = "not told by this board"


def read_energy(root: Path = Path("/")) -> dict[str, int]:
    """Return each package's counter in microjoules; empty where none can be read."""
    found = {}
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if folder.name.count(":") == 1:  # deeper ones are parts of a package, counted already
            try:
                found[folder.name] = int((folder / "energy_uj").read_text())
            except (OSError, ValueError):  # for root alone, on most kernels
                continue
    return found


def spent_mj(before: Mapping[str, int], after: Mapping[str, int], root: Path = Path("/")) -> float | None:
    """Return the millijoules between two readings; None where the board told nothing."""
    shared = before.keys() & after.keys()
    if not shared:
        return None
    return sum(_difference(before[name], after[name], root / "sys/class/powercap" / name) for name in shared) / 1e3


def _difference(before: int, after: int, folder: Path) -> int:
    if after >= before:
        return after - before
    return after - before + int((folder / "max_energy_range_uj").read_text())  # the counter began again
