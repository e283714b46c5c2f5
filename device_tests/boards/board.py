"""One emulated board: run Python on it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen
from typing import Self

from device_tests.boards.errors import BoardError, UnknownBoard, find_tool
from device_tests.boards.memory import MemoryWatch
from device_tests.boards.system import lay_system
from device_tests.boards.table import BOARDS, BoardSpec

_REPOSITORY = Path(__file__).resolve().parents[2]


def default_roots() -> Path:
    """Return the folder of userland roots: `$DOORSTEP_BOARDS`, or `.cache/boards` of the repository."""
    named = os.environ.get("DOORSTEP_BOARDS")
    return Path(named).resolve() if named else _REPOSITORY / ".cache" / "boards"


@dataclass(frozen=True, slots=True)
class Board:
    """A board whose root is there and that can run Python 3.11 now."""

    spec: BoardSpec
    system: Path
    """Its system root; `usr/bin/python3.11` in it can be started from any shell."""

    @classmethod
    def load(cls, name: str, roots: Path | None = None) -> Self:
        """Return the board called `name`.

        Raises:
            UnknownBoard, RootMissing, ToolMissing
        """
        if name not in BOARDS:
            raise UnknownBoard(f"board: expected one of {', '.join(BOARDS)}, got {name!r}; name one of these")
        return cls(BOARDS[name], lay_system(BOARDS[name], roots or default_roots()))

    @property
    def python(self) -> Path:
        """The board's Python: what the guest sees as `sys.executable`."""
        return self.system / "usr/bin/python3.11"

    def command(self, argv: Sequence[str], *, cores: int | None = None) -> list[str]:
        """Return the host's command for `python3.11 ARGV` on this board, on `cores` cores where given."""
        start = [str(self.python), *argv]
        if cores is None:
            return start
        granted = sorted(os.sched_getaffinity(0))
        if not 0 < cores <= len(granted):
            raise BoardError(f"cores: expected 1 to {len(granted)}, which this host grants, got {cores}; ask for fewer")
        return [find_tool("taskset", "util-linux"), "-c", ",".join(map(str, granted[:cores])), *start]

    def environment(self, home: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a small fixed environment, the same on each host, with `env` laid over it."""
        own = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(home), "TMPDIR": str(home)}
        return own | dict(env or {})

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float | None = 600.0,
        stdin: str | None = None,
        memory_mib: int | None = None,
        cores: int | None = None,
        before: Sequence[str] = (),
    ) -> CompletedProcess[str]:
        """Run `python3.11 ARGV` on the board and return what it said.

        Args:
            env: Laid over a small fixed environment; nothing is inherited from the caller.
            cwd: Where to run; a fresh folder, which is also HOME and TMPDIR and goes away afterwards, if None.
            timeout: Seconds; what is still running is killed, children too.
            memory_mib: Resident memory of the guest and its children. Above it they are killed, as by the OOM
                killer: return code -9 and a last line in `stderr`. Sampled every 20 ms; see `memory`.
            cores: How many of the host's cores it may use.
            before: The host's words that start the board's command, such as `nice`.

        Raises:
            subprocess.TimeoutExpired: as `subprocess.run` does.
        """
        with tempfile.TemporaryDirectory(prefix="board-") as home:
            process = Popen(
                [*before, *self.command(argv, cores=cores)],
                env=self.environment(Path(home), env),
                cwd=cwd or home,
                stdin=subprocess.DEVNULL if stdin is None else PIPE,
                stdout=PIPE,
                stderr=PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            return _finish(process, stdin, timeout, memory_mib)


def _finish(
    process: Popen[str], stdin: str | None, timeout: float | None, memory_mib: int | None
) -> CompletedProcess[str]:
    watch = MemoryWatch(process.pid, float("inf") if memory_mib is None else memory_mib)
    try:
        if memory_mib is None:
            stdout, stderr = process.communicate(stdin, timeout)
        else:
            with watch:
                stdout, stderr = process.communicate(stdin, timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if watch.is_exceeded:
        stderr += f"\nboard: killed at {watch.peak_mib:.0f} MiB, above the limit of {memory_mib} MiB\n"
    return CompletedProcess(process.args, process.returncode, stdout, stderr)
