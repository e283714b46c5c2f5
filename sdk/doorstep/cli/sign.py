"""`doorstep sign`."""

import argparse
from pathlib import Path

from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.files import write_atomic
from doorstep.signing import sign_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--key", type=Path, required=True, help="private key made by doorstep keygen")


def run(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle)
    envelope = sign_manifest((bundle.folder / MANIFEST).read_bytes(), arguments.key)
    write_atomic(bundle.folder / SIGNATURE, envelope)
    print(f"{arguments.bundle}: signed, digest {bundle.digest}")
    return 0
