"""What goes wrong with boards, by what the caller can do.

BoardError
├── ToolMissing    install the named Debian package
├── RootMissing    build the userland root
├── BuildFailed    read the tool's own last words; most often the network or a package source
└── UnknownBoard   name one of the table
"""

from __future__ import annotations

import shutil


class BoardError(Exception):
    """Root of this room's errors."""


class ToolMissing(BoardError):
    """A command of the host is not there."""


class RootMissing(BoardError):
    """No userland root has been built for this board's architecture."""


class BuildFailed(BoardError):
    """A command that builds a root ended in failure."""


class UnknownBoard(BoardError):
    """A name that the table of boards does not hold."""


def find_tool(command: str, package: str) -> str:
    """Return the path of `command`; raises `ToolMissing` naming the Debian `package` that brings it."""
    found = shutil.which(command)
    if found is None:
        raise ToolMissing(
            f"{command}: expected on PATH, got none; run: apt-get install --no-install-recommends {package}"
        )
    return found
