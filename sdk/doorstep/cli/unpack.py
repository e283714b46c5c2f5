"""`doorstep unpack`."""

import argparse
from pathlib import Path

from doorstep.signing import TrustKey
from doorstep.single_file import unpack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, help="default: the file's name without .zip")
    parser.add_argument("--trust", type=Path, metavar="KEY.pub")


def run(arguments: argparse.Namespace) -> int:
    out = arguments.out or arguments.file.with_suffix("")
    trust = TrustKey.load(arguments.trust) if arguments.trust else TrustKey.configured()
    unpack(arguments.file, out, trust=trust)
    print(f"{out}: unpacked and verified")
    return 0
