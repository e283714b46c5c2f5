"""`doorstep depot`: make, check and look after a depot."""

import argparse
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.cli.output import mib, print_json
from doorstep.errors import UsageError

if TYPE_CHECKING:
    from doorstep.fleet.care import Finding

ACTIONS = ("init", "fsck", "gc", "resign", "rotate-key", "export")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("path", type=Path, nargs="?", help="the depot; for export, where the copy goes")
    parser.add_argument("--depot", type=Path, help="the depot, where PATH is something else")
    parser.add_argument("--keys", type=Path, help="folder of the keys (default: DEPOT.keys)")
    parser.add_argument("--root-keys", type=int, default=3, help="init: how many root keys there shall be")
    parser.add_argument("--threshold", type=int, default=2, help="init: how many of them must sign")
    parser.add_argument("--role", help="rotate-key: whose key")
    parser.add_argument("--key", metavar="ID", help="rotate-key: which of its keys goes; the first without it")
    parser.add_argument("--keep", type=int, default=5, help="gc: releases of each product to keep")
    parser.add_argument("--grace", type=int, default=30, metavar="DAYS", help="gc: how long an unused file stays")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    from doorstep.fleet import care
    from doorstep.fleet.depot import Depot
    from doorstep.fleet.keys import KeyRing

    folder = arguments.depot or (None if arguments.action == "export" else arguments.path) or Path("depot")
    keys = arguments.keys or keys_of(folder)
    if arguments.action == "init":
        return _init(arguments, folder, keys)
    depot = Depot.open(folder)
    if arguments.action == "export":
        if arguments.path is None:
            raise UsageError("export: expected where the copy goes: doorstep depot export ./usb --depot ./depot")
        print(f"{arguments.path}: {mib(care.export(depot, arguments.path))} copied; devices: --depot {arguments.path}")
        return 0
    if arguments.action == "fsck":
        return _fsck(arguments, care.fsck(depot), folder)
    ring = KeyRing.open(keys)
    if arguments.action == "gc":
        done = care.gc(depot, ring, arguments.keep, timedelta(days=arguments.grace))
        print(f"{done.releases} releases delisted, {done.files} files ({mib(done.bytes)}) deleted, {done.waiting} wait")
    elif arguments.action == "resign":
        print(f"signed again: {', '.join(care.resign(depot, ring))}")
    else:
        if not arguments.role:
            raise UsageError("rotate-key: name the role with --role")
        made = care.rotate_key(depot, ring, arguments.role, arguments.key)
        print(f"{arguments.role}: new key {made} in {keys}; the old one no longer counts")
    return 0


def keys_of(folder: Path) -> Path:
    """Return where a depot's keys lie unless told otherwise: beside it, never in it."""
    return folder.absolute().with_name(folder.absolute().name + ".keys")


def _init(arguments: argparse.Namespace, folder: Path, keys: Path) -> int:
    from doorstep.fleet.depot import Depot, Terms
    from doorstep.fleet.keys import KeyRing

    if keys.absolute().is_relative_to(folder.absolute()):
        raise UsageError(f"{keys}: would be served with the depot; keep the keys elsewhere")
    if not 1 <= arguments.threshold <= arguments.root_keys <= 16:
        raise UsageError(f"threshold: expected 1 to {arguments.root_keys}, got {arguments.threshold}")
    terms = Terms(root_keys=arguments.root_keys, root_threshold=arguments.threshold)
    Depot.init(folder, KeyRing(keys, {}), terms)
    print(f"depot   {folder}: serve this folder as it is")
    print(f"devices {folder / 'root.json'}: ship it with every device (doorstep agent --root root.json)")
    print(f"keys    {keys}: take root-*, targets-1 and releases-1 offline; the others sign daily (depot resign)")
    return 0


def _fsck(arguments: argparse.Namespace, findings: "list[Finding]", folder: Path) -> int:
    if arguments.json:
        print_json([{"error": finding.is_error, "text": finding.text} for finding in findings])
    else:
        for finding in findings:
            print(f"{'error  ' if finding.is_error else 'warning'} {finding.text}")
        if not findings:
            print(f"{folder}: every signature, digest and date is in order")
    return int(any(finding.is_error for finding in findings))
