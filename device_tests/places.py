"""Where Python runs: this machine, an emulated board, or a real board over ssh. All three look alike to the suite."""

import os
import resource
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Protocol

from device_tests.boards.board import Board
from doorstep.origin import BOARD_VARIABLE, COMMIT_VARIABLE, EMULATED_VARIABLE

_REPOSITORY = Path(__file__).parents[1]
_CONFINE = Path(__file__).with_name("confine.py")
_TIMEOUT_S = 1800.0
_SSH = (*shlex.split(os.environ.get("DOORSTEP_SSH", "ssh")), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may have: cores and memory in MiB, None for what the device grants; `denied` as confine.py has it."""

    cores: int | None = None
    memory_mib: int | None = None
    denied: str = ""


FREE = Limits()


class Place(Protocol):
    """A device with a bundle on it."""

    name: str
    bundle: str
    """The bundle's path on the device."""
    scratch: str
    """A folder on the device that the suite may write to; it goes away."""
    source: Path
    """The bundle's path here."""
    is_emulated: bool

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits = FREE
    ) -> CompletedProcess[str]:
        """Run `python ARGV` there and return what it said."""

    def put(self, file: Path) -> str:
        """Copy a file to the device's scratch folder and return its path there."""


@contextmanager
def open_place(name: str, bundle: Path, work: Path) -> Iterator[Place]:
    """Open the device called `name` and put `bundle` on it."""
    if name.startswith("board:"):
        board = Board.load(name.removeprefix("board:"))
        yield _EmulatedBoard(name, str(bundle.resolve()), str(work), bundle, board)
    elif name.startswith("ssh://"):
        with _remote(name, bundle) as place:
            yield place
    else:
        yield _Local(name, str(bundle.resolve()), str(work), bundle)


def commit() -> str:
    """Return the commit that is tested, with `-dirty` behind it where files were changed; empty outside a checkout."""
    command = ["git", "-C", str(_REPOSITORY), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@dataclass(slots=True)
class _Local:
    name: str
    bundle: str
    scratch: str
    source: Path
    is_emulated: bool = False

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits = FREE
    ) -> CompletedProcess[str]:
        return subprocess.run(
            [*_confined(limits), sys.executable, *argv],
            capture_output=True,
            text=True,
            env={**os.environ, COMMIT_VARIABLE: commit(), **(env or {})},
            cwd=self.scratch,
            preexec_fn=_limiter(limits),
            timeout=_TIMEOUT_S,
            check=False,
        )

    def put(self, file: Path) -> str:
        return shutil.copy(file, self.scratch)


@dataclass(slots=True)
class _EmulatedBoard:
    name: str
    bundle: str
    scratch: str
    source: Path
    board: Board
    is_emulated: bool = True

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits = FREE
    ) -> CompletedProcess[str]:
        own = {EMULATED_VARIABLE: "1", BOARD_VARIABLE: self.board.spec.name, COMMIT_VARIABLE: commit()}
        return self.board.run(
            argv,
            env=own | dict(env or {}),
            cwd=Path(self.scratch),
            timeout=_TIMEOUT_S,
            memory_mib=limits.memory_mib,
            cores=limits.cores,
            before=_confined(limits),
        )

    def put(self, file: Path) -> str:
        return shutil.copy(file, self.scratch)


@dataclass(slots=True)
class _Remote:
    name: str
    bundle: str
    scratch: str
    source: Path
    host: str
    python: str = "python3"
    is_emulated: bool = False

    def run(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits = FREE
    ) -> CompletedProcess[str]:
        words = ["env", *(f"{key}={value}" for key, value in {COMMIT_VARIABLE: commit(), **(env or {})}.items())]
        words += ["taskset", "-c", f"0-{limits.cores - 1}"] if limits.cores else []
        words += [self.python, "-c", _CONFINE.read_text(encoding="utf-8"), limits.denied] if limits.denied else []
        prefix = f"ulimit -d {limits.memory_mib * 1024}; " if limits.memory_mib else ""
        return self.shell(prefix + shlex.join([*words, self.python, *argv]))

    def put(self, file: Path) -> str:
        target = f"{self.scratch}/{file.name}"
        command = [*_SSH, self.host, f"cat > {shlex.quote(target)}"]
        with open(file, "rb") as stream:
            subprocess.run(command, stdin=stream, check=True, timeout=_TIMEOUT_S)
        return target

    def shell(self, line: str) -> CompletedProcess[str]:
        """Run a line in the device's shell."""
        return subprocess.run([*_SSH, self.host, line], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)


@contextmanager
def _remote(name: str, bundle: Path) -> Iterator[_Remote]:
    """Copy the bundle to the board, whose `python3` (or DOORSTEP_SSH_PYTHON) must have doorstep and an engine.

    The name is what ssh takes: `ssh://USER@HOST:PORT`. DOORSTEP_SSH holds ssh's command and options.
    """
    scratch = f"/tmp/doorstep-suite-{uuid.uuid4().hex[:12]}"  # noqa: S108 -- on the board
    python = os.environ.get("DOORSTEP_SSH_PYTHON", "python3")
    place = _Remote(name, f"{scratch}/{bundle.name}", scratch, bundle, name, python)
    folder = shlex.quote(place.bundle)
    with subprocess.Popen(["tar", "-C", str(bundle), "-cf", "-", "."], stdout=subprocess.PIPE) as send:
        unpack = f"mkdir -p {folder} && tar -C {folder} -xf -"
        subprocess.run([*_SSH, place.host, unpack], stdin=send.stdout, check=True, timeout=_TIMEOUT_S)
    try:
        yield place
    finally:
        place.shell(f"rm -rf {shlex.quote(scratch)}")


def _confined(limits: Limits) -> list[str]:
    return [sys.executable, str(_CONFINE), limits.denied] if limits.denied else []


def _limiter(limits: Limits) -> Callable[[], None]:
    def limit() -> None:
        if limits.cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: limits.cores])
        if limits.memory_mib is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_mib << 20, limits.memory_mib << 20))

    return limit
