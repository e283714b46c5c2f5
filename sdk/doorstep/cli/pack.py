"""`doorstep pack`."""

import argparse
from pathlib import Path

from doorstep.signing import TrustKey
from doorstep.single_file import pack


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, help="default: the bundle's name with .zip added")


def run(arguments: argparse.Namespace) -> int:
    bundle = arguments.bundle.resolve()
    out = arguments.out or bundle.with_name(bundle.name + ".zip")
    pack(arguments.bundle, out, trust=TrustKey.configured())
    print(f"{out}: {out.stat().st_size} bytes")
    return 0
