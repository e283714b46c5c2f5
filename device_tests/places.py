"""Where Python runs: this machine, an emulated board, or a real board over ssh. All three look alike to the suite."""

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Protocol

from device_tests.boards.board import Board

_REPOSITORY = Path(__file__).parents[1]
_TIMEOUT_S = 900.0
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may have: cores, memory in MiB; None for what the device grants."""

    cores: int | None = None
    memory_mib: int | None = None


FREE = Limits()


class Place(Protocol):
    """A device with a bundle on it."""

    name: str
    bundle: str
    """The bundle's path on the device."""
    source: Path
    """The bundle's path here."""
    is_emulated: bool

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits = FREE
    ) -> CompletedProcess[str]:
        """Run `python ARGV` there and return what it said."""

    def kill_after(self, argv: Sequence[str], seconds: float) -> int:
        """Run `python ARGV` there, kill it after `seconds`, and return its exit code."""


@contextmanager
def open_place(name: str, bundle: Path, work: Path) -> Iterator[Place]:
    """Open the device called `name` and put `bundle` on it."""
    if name.startswith("board:"):
        yield _EmulatedBoard(name, str(bundle.resolve()), bundle, Board.load(name.removeprefix("board:")), work)
    elif name.startswith("ssh://"):
        yield _ssh_place(name, bundle)
    else:
        yield _Local(name, str(bundle.resolve()), bundle, work)


@dataclass(slots=True)
class _Local:
    name: str
    bundle: str
    source: Path
    work: Path
    is_emulated: bool = False

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits = FREE
    ) -> CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *argv],
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=self.work,
            preexec_fn=_limiter(limits),
            timeout=_TIMEOUT_S,
            check=False,
        )

    def kill_after(self, argv: Sequence[str], seconds: float) -> int:
        return _kill_after([sys.executable, *argv], None, seconds)


@dataclass(slots=True)
class _EmulatedBoard:
    name: str
    bundle: str
    source: Path
    board: Board
    work: Path
    is_emulated: bool = True

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits = FREE
    ) -> CompletedProcess[str]:
        own = {"DOORSTEP_EMULATED": "1", **(env or {})}
        return self.board.run(
            argv, env=own, cwd=self.work, timeout=_TIMEOUT_S, memory_mib=limits.memory_mib, cores=limits.cores
        )

    def kill_after(self, argv: Sequence[str], seconds: float) -> int:
        environment = self.board.environment(self.work, {"DOORSTEP_EMULATED": "1"})
        return _kill_after(self.board.command(argv), environment, seconds)


@dataclass(slots=True)
class _Remote:
    name: str
    host: str
    bundle: str
    source: Path
    is_emulated: bool = False

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits = FREE
    ) -> CompletedProcess[str]:
        words = [*(f"{key}={value}" for key, value in (env or {}).items())]
        words = ["env", *words] if words else []
        words += ["taskset", "-c", f"0-{limits.cores - 1}"] if limits.cores else []
        prefix = f"ulimit -d {limits.memory_mib * 1024}; " if limits.memory_mib else ""
        line = prefix + shlex.join([*words, "python3", *argv])
        return subprocess.run([*_SSH, self.host, line], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)

    def kill_after(self, argv: Sequence[str], seconds: float) -> int:
        line = shlex.join(["timeout", "-s", "KILL", str(seconds), "python3", *argv])
        return subprocess.run([*_SSH, self.host, line], capture_output=True, timeout=_TIMEOUT_S, check=False).returncode


def _ssh_place(name: str, bundle: Path) -> _Remote:
    """Copy the bundle to the board; doorstep with an engine must be installed there."""
    host = name.removeprefix("ssh://")
    folder = f"/tmp/doorstep-suite/{bundle.name}"  # noqa: S108 -- on the board
    send = subprocess.Popen(["tar", "-C", str(bundle), "-cf", "-", "."], stdout=subprocess.PIPE)
    unpack = f"rm -rf {shlex.quote(folder)} && mkdir -p {shlex.quote(folder)} && tar -C {shlex.quote(folder)} -xf -"
    subprocess.run([*_SSH, host, unpack], stdin=send.stdout, check=True, timeout=_TIMEOUT_S)
    return _Remote(name, host, folder, bundle)


def _limiter(limits: Limits) -> Callable[[], None]:
    def limit() -> None:
        if limits.cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: limits.cores])
        if limits.memory_mib is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_mib << 20, limits.memory_mib << 20))

    return limit


def _kill_after(command: list[str], environment: dict[str, str] | None, seconds: float) -> int:
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
