"""A small record kept in two files, so that a power cut at any moment leaves the old record or the new one.

A save overwrites the older file and flushes it; the younger stays untouched meanwhile. A file cut short fails its
digest and counts as absent.
"""

import hashlib
import os
from pathlib import Path

from doorstep.errors import IntegrityError
from doorstep.files import sync_folder

MAX_BYTES = 256 << 10


class Slots:
    """The record kept in `folder`/`name`.0 and `name`.1."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = (folder / f"{name}.0", folder / f"{name}.1")

    def load(self) -> bytes | None:
        """Return the newest whole record; None where none was ever saved, or the very first save was cut short.

        Raises:
            IntegrityError: both files are there and both are damaged, which no power cut brings about.
        """
        found = [record for path in self._paths if (record := _read(path)) is not None]
        if found:
            return max(found)[1]
        if all(os.path.lexists(path) for path in self._paths):
            raise IntegrityError(f"{self._paths[0]} and {self._paths[1].name}: both are damaged")
        return None

    def save(self, body: bytes) -> None:
        """Make `body` the newest record; on return it outlives a power cut.

        Raises:
            OSError: disk full, no permission; the record before it is untouched.
        """
        found = [(_read(path) or (0, b"")) for path in self._paths]
        generation = max(found)[0] + 1
        older = 0 if found[0] <= found[1] else 1
        _write(self._paths[older], generation, body)
        if not os.path.lexists(self._paths[1 - older]):
            # From now on one damaged file beside a missing one can only be a first save that was cut short.
            _write(self._paths[1 - older], generation, body)
        sync_folder(self._paths[0].parent)


def _write(path: Path, generation: int, body: bytes) -> None:
    head = f"{generation} {_digest(generation, body)}\n".encode()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(head + body)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> tuple[int, bytes] | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    head, _, body = data.partition(b"\n")
    number, _, digest = head.decode("ascii", "replace").partition(" ")
    if len(data) > MAX_BYTES or not number.isdecimal() or len(number) > 18:
        return None
    generation = int(number)
    return (generation, body) if digest == _digest(generation, body) else None


def _digest(generation: int, body: bytes) -> str:
    return hashlib.sha256(b"%d\n%b" % (generation, body)).hexdigest()
