"""`doorstep verify`."""

import argparse
from pathlib import Path

from doorstep.bundle import Bundle
from doorstep.cli.output import print_json
from doorstep.signing import TrustKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--trust", type=Path, metavar="KEY.pub", help="refuse a bundle not signed by this key")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    trust = TrustKey.load(arguments.trust) if arguments.trust else TrustKey.configured()
    bundle = Bundle.open(arguments.bundle, trust=trust)
    present = [entry for entry in bundle.manifest.files if (bundle.folder / entry.path).exists()]
    report = {
        "bundle": str(arguments.bundle),
        "digest": bundle.digest,
        "files": len(present),
        "bytes": sum(entry.size for entry in present),
        "signed_by": bundle.signer,
    }
    if arguments.json:
        print_json(report)
        return 0
    signed = f"signed by {bundle.signer[:16]}…" if bundle.signer else "signature not checked (no trust key configured)"
    print(f"{arguments.bundle}: {report['files']} files, {report['bytes']} bytes, all digests match; {signed}")
    return 0
