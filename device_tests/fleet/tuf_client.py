#!/usr/bin/env python3
"""The trust layer behind the command line that TUF's conformance suite asks of a client under test.

`init`, `refresh` and `download`, each a process of its own, as CLIENT-CLI.md of theupdateframework/tuf-conformance
says; `make tuf-conformance` runs the suite. Every command goes through `Trust`: floor, flush, limits and retries are
those of a device. Cases that are refused on purpose stand in `tuf_client.py.xfails`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from doorstep.errors import DoorstepError, UsageError
from doorstep.files import write_atomic
from doorstep.fleet.clock import SystemClock
from doorstep.fleet.release import MAX_RELEASE_BYTES
from doorstep.fleet.transport import AnyTransport, Network
from doorstep.fleet.trust import Signed, Trust

_MAX_ROOT_BYTES = 64 << 10


def init(metadata_dir: Path, root: Path) -> None:
    """Keep `root` as what this device was born with; nothing is fetched.

    `Trust` keeps its metadata in `FOLDER/metadata`, and the suite looks for it in `metadata_dir` itself: the one is a
    link to the other, and the floor lies beside it, out of the suite's sight.
    """
    folder = _folder(metadata_dir)
    folder.mkdir()
    (folder / "metadata").symlink_to("..")
    write_atomic(folder / "root", _read(root))


def refresh(metadata_dir: Path, metadata_url: str) -> Signed:
    """Fetch and check the top-level metadata."""
    mirror = _mirror(metadata_url, "metadata")
    trust = Trust(_folder(metadata_dir), _read(_folder(metadata_dir) / "root"), SystemClock())
    return trust.refresh([mirror], AnyTransport(Network()))


def download(metadata_dir: Path, metadata_url: str, name: str, base_url: str, target_dir: Path) -> None:
    """Fetch and check the document `name`, and write it under its quoted name into `target_dir` unless it is there."""
    if _mirror(base_url, "targets") != _mirror(metadata_url, "metadata"):
        raise UsageError(f"{base_url}: expected targets beside the metadata, as in a depot")
    data = refresh(metadata_dir, metadata_url).target(name, MAX_RELEASE_BYTES)
    place = target_dir / quote(name, "")
    if not _holds(place, data):
        write_atomic(place, data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all of it succeeded, 1 where any of it was refused."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "init":
            init(given.metadata_dir, given.root)
        elif given.command == "refresh":
            refresh(given.metadata_dir, given.metadata_url)
        else:
            download(given.metadata_dir, given.metadata_url, given.target_name, given.target_base_url, given.target_dir)
    except (DoorstepError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", default="")
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


def _folder(metadata_dir: Path) -> Path:
    return metadata_dir / ".trust"


def _mirror(url: str, last: str) -> str:
    folder, _, name = url.rstrip("/").rpartition("/")
    if name != last:
        raise UsageError(f"{url}: expected an address that ends in /{last}, as in a depot")
    return folder


def _read(root: Path) -> bytes:
    with open(root, "rb") as file:
        data = file.read(_MAX_ROOT_BYTES + 1)
    if len(data) > _MAX_ROOT_BYTES:
        raise UsageError(f"{root}: expected a root of at most {_MAX_ROOT_BYTES} bytes, got more")
    return data


def _holds(place: Path, data: bytes) -> bool:
    try:
        with open(place, "rb") as file:
            return file.read(len(data) + 1) == data
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
