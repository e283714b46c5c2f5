"""Build a userland root once: `python -m device_tests.boards.build arm64|armhf [--out DIR] [--wheel PATH]`.

Built aside, tried in the emulator, then renamed: a root that is there works. No Docker, no binfmt, no root user.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from device_tests.boards.architectures import ARCHITECTURES, Architecture
from device_tests.boards.board import Board, default_roots
from device_tests.boards.errors import BoardError, BuildFailed, find_tool
from device_tests.boards.system import STAMP
from device_tests.boards.table import BOARDS
from device_tests.boards.userland import unpack_userland
from device_tests.boards.wheels import SITE, install_own_wheel, install_wheels, installed, pins

_CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


def build_root(architecture: Architecture, roots: Path, constraints: Path) -> Path:
    """Return the architecture's root below `roots`, building it where it is missing or no longer what was asked.

    Raises:
        ToolMissing, BuildFailed
    """
    roots.mkdir(parents=True, exist_ok=True)
    root = roots / architecture.name
    with _locked(roots / f".{architecture.name}.lock"):
        if _is_current(root, architecture, constraints):
            return root
        find_tool(architecture.qemu, "qemu-user-static")
        with tempfile.TemporaryDirectory(prefix=".build-", dir=roots, ignore_cleanup_errors=True) as aside:
            new = Path(aside) / architecture.name
            _say(f"{architecture.name}: unpacking Debian packages")
            unpack_userland(architecture, roots / "cache", new)
            _say(f"{architecture.name}: installing wheels")
            install_wheels(architecture, constraints, roots / "cache", new)
            _compile(new)
            (new / STAMP).write_text(json.dumps(_asked(architecture), indent=1) + "\n")
            _say(f"{architecture.name}: importing {', '.join(architecture.imports)} in the emulator")
            _try_out(architecture, Path(aside))
            if root.exists():
                root.rename(Path(aside) / "old")
            new.rename(root)
    return root


def _is_current(root: Path, architecture: Architecture, constraints: Path) -> bool:
    stamp = root / STAMP
    if not stamp.is_file() or json.loads(stamp.read_text()) != _asked(architecture):
        return False
    pinned = pins(constraints)
    own_pins = {requirement.partition("==")[0] for requirement in architecture.wheels if "==" in requirement}
    there = {name: version for name, version in installed(root).items() if name not in own_pins}
    return all(pinned.get(name, version) == version for name, version in there.items())


def _asked(architecture: Architecture) -> dict[str, list[str]]:
    return {"packages": [*architecture.packages], "wheels": [*architecture.wheels]}


def _compile(root: Path) -> None:
    """Write bytecode now, so that a guest need not; only a host of the guest's own Python version can."""
    if sys.implementation.cache_tag == "cpython-311":
        for library in ("usr/lib/python3.11", "usr/lib/python3", SITE):
            compileall.compile_dir(root / library, quiet=2, workers=min(2, os.cpu_count() or 1))


def _try_out(architecture: Architecture, roots: Path) -> None:
    name = next(name for name, spec in BOARDS.items() if spec.architecture is architecture)
    done = Board.load(name, roots).run(["-c", f"import {', '.join(architecture.imports)}"], timeout=300)
    if done.returncode != 0:
        raise BuildFailed(
            f"{name}: expected {', '.join(architecture.imports)} to import, got exit {done.returncode}; "
            f"pin versions that work in the constraints file\n{done.stderr[-2000:]}"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: prints the root's path; 1 where it could not be built."""
    parser = argparse.ArgumentParser(prog="python -m device_tests.boards.build", description=__doc__)
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("--out", type=Path, default=default_roots(), help="folder of roots (default: %(default)s)")
    parser.add_argument("--constraints", type=Path, default=_CONSTRAINTS, help="versions (default: %(default)s)")
    parser.add_argument("--wheel", type=Path, help="install this doorstep wheel, without its dependencies")
    options = parser.parse_args(argv)
    architecture = ARCHITECTURES[options.architecture]
    started = time.monotonic()
    try:
        root = build_root(architecture, options.out, options.constraints)
        if options.wheel is not None:
            install_own_wheel(architecture, options.wheel, root)
    except BoardError as error:
        print(error, file=sys.stderr)
        return 1
    _say(f"{architecture.name}: ready after {time.monotonic() - started:.0f} s")
    print(root)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
