"""Files that are mostly zeros, in a form with the zeros taken out: for the way, not for the engine.

    "DSPARSE1"  width (1 byte: 1, 2 or 4)
    for each MiB of the file: one bit a word, set where it is not zero; then those words; then what is too short for one

The size of everything follows from the file's own size, which the manifest lists: nothing in the form can ask for more.
The same file gives the same bytes everywhere, so that the manifest can hold the digests of both.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from doorstep.errors import IntegrityError
from doorstep.manifest import FileEntry, Packed

CODEC = "sparse1"
_MAGIC = b"DSPARSE1"
_SEGMENT = 1 << 20
_WIDTHS = (4, 2, 1)
_LEAST_BYTES = 64 << 10
_PAYS_BELOW = 0.8  # of the file; a form that saves less is not worth a second copy in the depot


def packed_form(source: Path) -> Packed | None:
    """Return size and digest of a file's form without zeros; None where it has too few of them."""
    if source.stat().st_size < _LEAST_BYTES:
        return None
    width, size = _best_width(source)
    if size >= _PAYS_BELOW * source.stat().st_size:
        return None
    digest = hashlib.sha256()
    for part in _encoded(source, width):
        digest.update(part)
    return Packed(CODEC, size, digest.hexdigest())


def encode(source: Path, out: Path) -> None:
    """Write the form without zeros of `source` to `out`, flushed."""
    with open(out, "wb") as file:
        for part in _encoded(source, _best_width(source)[0]):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def decode(source: Path, out: Path, entry: FileEntry) -> None:
    """Expand `source` to `out`, flushed. The packed bytes are verified before they are read, the others as written.

    Raises:
        IntegrityError: packed or expanded bytes are not those of `entry`; `out` is then not to be used.
    """
    packed = entry.packed
    if packed is None or packed.codec != CODEC:
        raise IntegrityError(f"{entry.path}: expected a form of codec {CODEC}, got {packed and packed.codec[:40]!r}")
    with open(source, "rb") as reader:
        size = os.fstat(reader.fileno()).st_size
        if size != packed.size or hashlib.file_digest(reader, "sha256").hexdigest() != packed.sha256:
            raise IntegrityError(f"{entry.path}: its packed form is altered; fetch the bundle again")
        reader.seek(0)
        digest = hashlib.sha256()
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb") as writer:
            for segment in _decoded(reader, entry):
                digest.update(segment)
                writer.write(segment)
            writer.flush()
            os.fsync(writer.fileno())
    if digest.hexdigest() != entry.sha256:
        raise IntegrityError(f"{entry.path}: its packed form gives other bytes; publish the bundle again")


def _decoded(reader: BinaryIO, entry: FileEntry) -> Iterator[bytes]:
    head = _exactly(reader, len(_MAGIC) + 1, entry)
    width = head[-1]
    if head[:-1] != _MAGIC or width not in _WIDTHS:
        raise IntegrityError(f"{entry.path}: expected a packed form of {CODEC}, got {head[:9]!r}")
    for start in range(0, entry.size, _SEGMENT):
        length = min(_SEGMENT, entry.size - start)
        words = length // width
        bits = np.unpackbits(np.frombuffer(_exactly(reader, -(-words // 8), entry), np.uint8))
        is_set = bits[:words].astype(bool)
        table = np.zeros((words, width), np.uint8)
        kept = np.frombuffer(_exactly(reader, int(is_set.sum()) * width, entry), np.uint8)
        table[is_set] = kept.reshape(-1, width)
        yield table.tobytes() + _exactly(reader, length - words * width, entry)
    if reader.read(1):
        raise IntegrityError(f"{entry.path}: its packed form goes on behind its end")


def _encoded(source: Path, width: int) -> Iterator[bytes]:
    yield _MAGIC + bytes([width])
    for segment in _segments(source):
        words = len(segment) // width
        table = np.frombuffer(segment[: words * width], np.uint8).reshape(words, width)
        is_set = table.any(axis=1)
        yield np.packbits(is_set).tobytes()
        yield table[is_set].tobytes()
        yield segment[words * width :]


def _best_width(source: Path) -> tuple[int, int]:
    """Return the width of a word with which the form is smallest, and the form's size."""
    sizes = dict.fromkeys(_WIDTHS, len(_MAGIC) + 1)
    for segment in _segments(source):
        for width in _WIDTHS:
            words = len(segment) // width
            table = np.frombuffer(segment[: words * width], np.uint8).reshape(words, width)
            kept = int(np.count_nonzero(table.any(axis=1)))
            sizes[width] += -(-words // 8) + kept * width + len(segment) - words * width
    width = min(sizes, key=lambda one: sizes[one])
    return width, sizes[width]


def _segments(source: Path) -> Iterator[bytes]:
    with open(source, "rb") as file:
        while segment := file.read(_SEGMENT):
            yield segment


def _exactly(reader: BinaryIO, length: int, entry: FileEntry) -> bytes:
    data = reader.read(length)
    if len(data) != length:
        raise IntegrityError(f"{entry.path}: its packed form ends too early")
    return data
