"""`doorstep keygen`."""

import argparse
from pathlib import Path

from doorstep.signing import TRUST_VARIABLE, keygen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("private", type=Path, help="where the private key goes; the public one stands beside it, .pub")


def run(arguments: argparse.Namespace) -> int:
    public = keygen(arguments.private)
    print(f"private {arguments.private} (keep it off every device)")
    print(f"public  {public} (devices: {TRUST_VARIABLE}={public})")
    return 0
