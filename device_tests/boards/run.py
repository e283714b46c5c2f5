"""Run Python on an emulated board: `python -m device_tests.boards.run BOARD [options] -- script.py args`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from device_tests.boards.board import Board, default_roots
from device_tests.boards.errors import BoardError
from device_tests.boards.table import BOARDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is the guest's, or 1 where the board cannot be had."""
    own, guest = _split(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="python -m device_tests.boards.run",
        usage="%(prog)s BOARD [options] -- script.py args",
        description="Run Python on an emulated board; what stands after -- goes to the guest's python3.11.",
    )
    parser.add_argument("board", choices=BOARDS, metavar="BOARD", help=", ".join(BOARDS))
    parser.add_argument("--roots", type=Path, default=default_roots(), help="folder of userland roots")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="add to the environment")
    parser.add_argument("--cores", type=int, help="use only so many of the host's cores")
    parser.add_argument("--memory-mib", type=int, help="kill the guest above this; collects output until it ends")
    options = parser.parse_args(own)
    try:
        return _run(options, guest)
    except BoardError as error:
        print(error, file=sys.stderr)
        return 1


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Part our own arguments from the guest's, at the first `--`."""
    if "--" not in arguments:
        return arguments, []
    border = arguments.index("--")
    return arguments[:border], arguments[border + 1 :]


def _run(options: argparse.Namespace, guest: Sequence[str]) -> int:
    board = Board.load(options.board, options.roots)
    env = dict(pair.partition("=")[::2] for pair in options.env)
    if options.memory_mib is None:
        home = Path(tempfile.gettempdir())
        command = board.command(guest, cores=options.cores)
        os.execve(command[0], command, board.environment(home, env))  # noqa: S606
    done = board.run(
        guest,
        env=env,
        cwd=Path.cwd(),
        timeout=None,
        memory_mib=options.memory_mib,
        cores=options.cores,
    )
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
