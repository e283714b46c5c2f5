"""Where figures come from: the board, the versions, the bundle, the time, the commit."""

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime

from doorstep import __version__
from doorstep.bundle import Bundle
from doorstep.device import Device
from doorstep.manifest import Board

EMULATED_VARIABLE = "DOORSTEP_EMULATED"
BOARD_VARIABLE = "DOORSTEP_BOARD"
COMMIT_VARIABLE = "DOORSTEP_COMMIT"


@dataclass(frozen=True, slots=True)
class Origin:
    """What must be told beside a figure.

    Attributes:
        board: the machine; where DOORSTEP_EMULATED=1, times on it say nothing about a real one.
        board_name: DOORSTEP_BOARD, for example `arm64-cortex-a72`; empty where nothing says so.
        cores: cores granted to this process.
        engines: distribution name to version.
        bundle, digest: name and version of the bundle, and sha256 of its manifest.
        time: UTC, ISO 8601.
        commit: DOORSTEP_COMMIT; empty where nothing says so.
    """

    board: Board
    board_name: str
    cores: int
    system: str
    python: str
    doorstep: str
    engines: dict[str, str] = field(default_factory=dict)
    bundle: str = ""
    digest: str = ""
    time: str = ""
    commit: str = ""

    @classmethod
    def here(cls, bundle: Bundle, device: Device) -> "Origin":
        """Describe figures of `bundle` taken on `device` now."""
        is_emulated = os.environ.get(EMULATED_VARIABLE) == "1"
        return cls(
            board=Board(device.arch, device.cpu, tuple(sorted(device.features)), is_emulated),
            board_name=os.environ.get(BOARD_VARIABLE, ""),
            cores=device.cores,
            system=f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
            python=platform.python_version(),
            doorstep=__version__,
            engines=dict(device.engines),
            bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
            digest=bundle.digest,
            time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            commit=os.environ.get(COMMIT_VARIABLE, ""),
        )

    def lines(self) -> list[str]:
        """Return the same for people."""
        board = self.board
        mark = " (emulated: its times say nothing about a real board)" if board.is_emulated else ""
        name = f"{self.board_name}: " if self.board_name else ""
        engines = ", ".join(f"{distribution} {version}" for distribution, version in self.engines.items())
        return [
            f"bundle   {self.bundle}, digest {self.digest[:16]}…",
            f"board    {name}{board.cpu} ({board.arch}, {self.cores} cores){mark}",
            f"flags    {' '.join(board.features) or 'not known'}",
            f"software doorstep {self.doorstep}, {engines or 'no engine'}, Python {self.python}, {self.system}",
            f"time     {self.time}{f', commit {self.commit}' if self.commit else ''}",
        ]
