"""Energy, where the board counts it: counters of Linux's powercap, or a hwmon power sensor sampled meanwhile.

Counters: Intel's and AMD's RAPL, whole packages (kernel, Documentation/power/powercap/powercap.rst). Sensors: Texas
Instruments' INA family on ARM boards (Documentation/hwmon/ina2xx.rst, ina3221.rst). What else runs is counted too.
"""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

NOT_TOLD = "not told by this board"
_SECONDS_BETWEEN_LOOKS = 0.02
_WHOLE = ("VDD_IN", "POM_5V_IN")  # rails that feed all the others
_CHANNELS = range(1, 9)


class EnergyMeter:
    """Measures the millijoules between entering and leaving; `spent_mj` is None where the board tells nothing."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.spent_mj: float | None = None
        self._root = root
        self._ended = threading.Event()
        self._joules = 0.0
        self._thread: threading.Thread | None = None
        self._before: dict[str, int] = {}

    def __enter__(self) -> "EnergyMeter":
        self._before = read_energy(self._root)
        read_power = None if self._before else find_power_sensor(self._root)
        if read_power is not None:
            self._thread = threading.Thread(target=self._sample, args=(read_power,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            self.spent_mj = spent_mj(self._before, read_energy(self._root), self._root)
            return
        self._ended.set()
        self._thread.join()
        self.spent_mj = 1e3 * self._joules

    def _sample(self, read_power: Callable[[], float]) -> None:
        """Add up watts over time, by the trapezoidal rule."""
        power, since = read_power(), time.monotonic()
        is_ended = False
        while not is_ended:
            is_ended = self._ended.wait(_SECONDS_BETWEEN_LOOKS)
            before, earlier = power, since
            power, since = read_power(), time.monotonic()
            self._joules += (power + before) / 2 * (since - earlier)


def read_energy(root: Path = Path("/")) -> dict[str, int]:
    """Return each package's counter in microjoules; empty where none can be read."""
    found = {}
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if folder.name.count(":") == 1:  # deeper ones are parts of a package, counted already
            value = _number(folder / "energy_uj")  # for root alone, on most kernels
            if value is not None:
                found[folder.name] = value
    return found


def spent_mj(before: Mapping[str, int], after: Mapping[str, int], root: Path = Path("/")) -> float | None:
    """Return the millijoules between two readings; None where the board told nothing."""
    shared = before.keys() & after.keys()
    if not shared:
        return None
    return sum(_difference(before[name], after[name], root / "sys/class/powercap" / name) for name in shared) / 1e3


def find_power_sensor(root: Path = Path("/")) -> Callable[[], float] | None:
    """Return a function that reads the board's power in watts; None where no INA sensor is readable.

    Where a rail is known to feed the others, it alone counts; else all rails are added.
    """
    rails = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if _text(folder / "name").startswith("ina"):
            for channel in _CHANNELS:
                if _watts(folder, channel) is not None:
                    rails[folder, channel] = _text(folder / f"in{channel}_label")
    chosen = [place for place, label in rails.items() if label in _WHOLE] or list(rails)
    return (lambda: sum(_watts(*place) or 0.0 for place in chosen)) if chosen else None


def _watts(folder: Path, channel: int) -> float | None:
    """Return a channel's power; files and units as in the kernel's Documentation/hwmon/sysfs-interface.rst."""
    power = _number(folder / f"power{channel}_input")
    if power is not None:
        return power / 1e6
    millivolts, milliamperes = _number(folder / f"in{channel}_input"), _number(folder / f"curr{channel}_input")
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _difference(before: int, after: int, folder: Path) -> int:
    if after >= before:
        return after - before
    return after - before + int((folder / "max_energy_range_uj").read_text())  # the counter began again


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""
