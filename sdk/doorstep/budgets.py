"""Budgets: what a variant may cost on a board, from a TOML file.

    size_mb = 40
    p95_ms = 30

    [variant."onnx-int8"]
    size_mb = 25

    [board."aarch64"]
    p95_ms = 60

A bound that is not named is not checked. A variant's table overrides the top of the file, a board's table overrides
both; a board is named by its architecture, or by DOORSTEP_BOARD, which comes last.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from doorstep.errors import FormatError

_MAX_BYTES = 1 << 20
_TABLES = ("variant", "board")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that is allowed; None for no bound.

    Attributes:
        size_mb: the files a device needs for one variant (10^6 bytes).
        p50_ms, p95_ms: latency of one golden example.
        cold_start_ms: process start to first answer.
        peak_rss_mib: peak resident memory of that process.
    """

    size_mb: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    cold_start_ms: float | None = None
    peak_rss_mib: float | None = None


BOUNDS = tuple(bound.name for bound in fields(Bounds))


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bounds for every variant on every board, and what single variants and boards have otherwise."""

    common: Bounds = field(default_factory=Bounds)
    variants: dict[str, dict[str, float]] = field(default_factory=dict)
    boards: dict[str, dict[str, float]] = field(default_factory=dict)

    def bounds(self, variant: str, *boards: str) -> Bounds:
        """Return the bounds of `variant` on a board known by these names, the most particular last."""
        bounds = replace(self.common, **self.variants.get(variant, {}))
        for board in boards:
            bounds = replace(bounds, **self.boards.get(board, {}))
        return bounds


def load_budgets(path: Path) -> Budgets:
    """Read budgets from a TOML file.

    Raises:
        FormatError: not TOML, a misspelt bound, or no positive number.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise FormatError(f"{path.name}: expected at most {_MAX_BYTES} bytes, got more")
    try:
        plain = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path.name}: expected TOML, got {error!s:.200}") from error
    tables = {name: _tables(plain.pop(name, {}), f"{path.name}: {name}") for name in _TABLES}
    common = Bounds(**_numbers(plain, path.name))
    return Budgets(common, tables["variant"], tables["board"])


def _tables(plain: Any, place: str) -> dict[str, dict[str, float]]:
    tables = plain.items() if isinstance(plain, dict) else [("", plain)]
    found = {}
    for name, table in tables:
        if not isinstance(table, dict):
            raise FormatError(f'{place}: expected tables such as [variant."onnx-int8"], got {table!r:.40}')
        found[name] = _numbers(table, f"{place}.{name}")
    return found


def _numbers(plain: Mapping[str, Any], place: str) -> dict[str, float]:
    for name, value in plain.items():
        if name not in BOUNDS:
            raise FormatError(f"{place}: unknown bound {name!r:.40}; known: {', '.join(BOUNDS)}")
        if type(value) not in (int, float) or not 0 < value < 1e12:
            raise FormatError(f"{place}: expected {name} to be a number above 0, got {value!r:.40}")
    return {name: float(value) for name, value in plain.items()}
