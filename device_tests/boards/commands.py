"""Host commands that build a root: run quietly, quoted when they fail."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from device_tests.boards.errors import BuildFailed

_QUOTED_LINES = 8


def run_command(command: Sequence[str], *, subject: str, remedy: str) -> str:
    """Return what `command` printed on stdout; raises `BuildFailed` with its last words where it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        said = (done.stdout + done.stderr).splitlines()[-_QUOTED_LINES:]
        wanted = f"expected `{command[0]}` to succeed, got exit {done.returncode}"
        raise BuildFailed("\n  ".join([f"{subject}: {wanted}; {remedy}", *said]))
    return done.stdout
