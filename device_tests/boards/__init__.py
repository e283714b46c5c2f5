"""Emulated ARM boards: a Debian userland with the real wheels, run by qemu user-mode. Start at README.md.

>>> from device_tests.boards import BOARDS, Board
>>> board = Board.load("arm64-cortex-a53")                         # doctest: +SKIP
>>> board.run(["-c", "import platform; print(platform.machine())"]).stdout    # doctest: +SKIP
'aarch64\n'
"""

from device_tests.boards.board import Board, default_roots
from device_tests.boards.errors import BoardError, BuildFailed, RootMissing, ToolMissing, UnknownBoard
from device_tests.boards.table import BOARDS, BoardSpec

__all__ = [
    "BOARDS",
    "Board",
    "BoardError",
    "BoardSpec",
    "BuildFailed",
    "RootMissing",
    "ToolMissing",
    "UnknownBoard",
    "default_roots",
]
