"""Deltas of weights: what a device has, minus what it should have, one mebibyte at a time.

A retrained model's weights mostly move a little and stay where they are, so the byte-wise difference to the old file
compresses where neither file does; block matching finds nothing in them. Each segment of the new file is the
cheapest of: a copy of old bytes, old bytes plus a compressed difference, compressed with old bytes as dictionary,
compressed, or raw. Old bytes may lie elsewhere in the old file: an edit near its beginning shifts all that follows.

Memory while decoding: a few segments, whatever the size of the files.
"""

import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from doorstep.errors import IntegrityError
from doorstep.fleet.release import Content

MAGIC = b"DSEG1\n"
SEGMENT = 1 << 20
COPY, SUBTRACT, DICTIONARY, PACKED, RAW = range(5)
_HEAD = struct.Struct("<6sQQ")
_OP = struct.Struct("<BIQI")
_LEVEL = 12
_BLOCK = 64
_PROBES = 256
_WINDOW_LOG = 21


class Op(NamedTuple):
    """How one segment is made: kind, bytes it yields, place in the old file, bytes that follow."""

    kind: int
    length: int
    place: int
    payload: int


def encode_delta(base: Path, target: Path, out: Path) -> None:
    """Write to `out` what turns `base` into `target`."""
    old = base.read_bytes()
    index = _index(old)
    packer = zstandard.ZstdCompressor(level=_LEVEL)
    with open(target, "rb") as reader, open(out, "wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.write(_HEAD.pack(MAGIC, len(old), size))
        place = shift = 0
        while segment := reader.read(SEGMENT):
            shift = _best_shift(old, index, segment, place, shift)
            op, payload = _cheapest(packer, old, segment, place + shift)
            writer.write(_OP.pack(*op) + payload)
            place += len(segment)
        writer.flush()
        os.fsync(writer.fileno())


def decode_delta(base: Path, delta: Path, out: Path, content: Content) -> None:
    """Write `content` to `out`, flushed; the whole is compared with its digest before this returns.

    Raises:
        IntegrityError: damaged, made for another base, or of another content; `out` is then not to be used.
    """
    import hashlib

    digest = hashlib.sha256()
    with open(base, "rb") as old, open(delta, "rb") as reader, _create(out) as writer:
        magic, base_size, size = _HEAD.unpack(_exactly(reader, _HEAD.size))
        if magic != MAGIC or size != content.size or base_size != os.fstat(old.fileno()).st_size:
            raise IntegrityError(f"delta to {content.sha256[:12]}: made for other files than these")
        for segment in _segments(old, base_size, reader, size):
            digest.update(segment)
            writer.write(segment)
        writer.flush()
        os.fsync(writer.fileno())
    if digest.hexdigest() != content.sha256:
        raise IntegrityError(f"delta to {content.sha256[:12]}: gave other bytes; the old file may be damaged")


def _segments(old: BinaryIO, base_size: int, reader: BinaryIO, size: int) -> Iterator[bytes]:
    left = size
    while left:
        op = Op(*_OP.unpack(_exactly(reader, _OP.size)))
        needs_base = op.kind in (COPY, SUBTRACT, DICTIONARY)
        if not 0 < op.length <= min(SEGMENT, left) or op.payload > 2 * SEGMENT or op.kind > RAW:
            raise IntegrityError("delta: a segment of an impossible size or kind")
        if needs_base and op.place + op.length > base_size and op.kind != DICTIONARY:
            raise IntegrityError("delta: a segment from beyond the old file")
        payload = _exactly(reader, op.payload)
        region = b""
        if needs_base:
            old.seek(min(op.place, base_size))
            region = old.read(op.length)
        segment = _decode(op, region, payload)
        if len(segment) != op.length:
            raise IntegrityError("delta: a segment of another length than it says")
        left -= len(segment)
        yield segment
    if reader.read(1):
        raise IntegrityError("delta: bytes after its end")


def _decode(op: Op, region: bytes, payload: bytes) -> bytes:
    if op.kind == COPY:
        return region
    if op.kind == RAW:
        return payload
    if op.kind == SUBTRACT:
        return _add(region, _unpack(payload, op.length, None))
    return _unpack(payload, op.length, region if op.kind == DICTIONARY else None)


def _unpack(payload: bytes, length: int, dictionary: bytes | None) -> bytes:
    """Decompress a frame that must say it holds `length` bytes; a frame that holds more is never expanded."""
    try:
        told = zstandard.get_frame_parameters(payload)
        if told.content_size != length or told.window_size > 1 << (_WINDOW_LOG + 2):
            raise IntegrityError("delta: a compressed segment of another size than it says")
        words = zstandard.ZstdCompressionDict(dictionary, zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
        unpacker = zstandard.ZstdDecompressor(dict_data=words) if words else zstandard.ZstdDecompressor()
        with unpacker.stream_reader(payload) as stream:
            return stream.read(length + 1)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"delta: damaged ({error!s:.100})") from error


def _cheapest(packer: zstandard.ZstdCompressor, old: bytes, segment: bytes, place: int) -> tuple[Op, bytes]:
    length = len(segment)
    region = old[place : place + length] if 0 <= place <= len(old) else b""
    if region == segment:
        return Op(COPY, length, place, 0), b""
    options = [(PACKED, packer.compress(segment)), (RAW, segment)]
    if len(region) == length:
        options.append((SUBTRACT, packer.compress(_subtract(segment, region))))
    if len(region) > 8:
        words = zstandard.ZstdCompressionDict(region, zstandard.DICT_TYPE_RAWCONTENT)
        options.append((DICTIONARY, zstandard.ZstdCompressor(level=_LEVEL, dict_data=words).compress(segment)))
    kind, payload = min(options, key=lambda option: len(option[1]))
    return Op(kind, length, place if kind in (SUBTRACT, DICTIONARY) else 0, len(payload)), payload


def _index(old: bytes) -> dict[bytes, int]:
    """Return places of the old file's blocks by their bytes; blocks that stand twice tell nothing and are left out."""
    index: dict[bytes, int] = {}
    twice = set()
    for place in range(0, len(old) - _BLOCK + 1, _BLOCK):
        block = old[place : place + _BLOCK]
        if block in index:
            twice.add(block)
        index[block] = place
    for block in twice:
        del index[block]
    return index


def _best_shift(old: bytes, index: dict[bytes, int], segment: bytes, place: int, shift: int) -> int:
    """Return how far from `place` the old file's bytes lie that are most like the segment: by vote of probes.

    A probe looks up as many places in a row as a block is long, so it meets a block's beginning whatever the shift.
    """
    if not index or old[place + shift : place + shift + len(segment)] == segment:
        return shift
    votes: Counter[int] = Counter()
    step = max(_BLOCK, (len(segment) - 2 * _BLOCK) // _PROBES)
    for start in range(0, max(0, len(segment) - 2 * _BLOCK), step):
        for offset in range(start, start + _BLOCK):
            found = index.get(segment[offset : offset + _BLOCK])
            if found is not None:
                votes[found - (place + offset)] += 1
                break
    if not votes:
        return shift
    best, count = votes.most_common(1)[0]
    return best if count > 1 and place + best >= 0 else shift


def _subtract(segment: bytes, region: bytes) -> bytes:
    import numpy as np

    return (np.frombuffer(segment, np.uint8) - np.frombuffer(region, np.uint8)).tobytes()


def _add(region: bytes, difference: bytes) -> bytes:
    import numpy as np

    if len(region) != len(difference):
        raise IntegrityError("delta: a difference of another length than its base")
    return (np.frombuffer(region, np.uint8) + np.frombuffer(difference, np.uint8)).tobytes()


def _exactly(reader: BinaryIO, length: int) -> bytes:
    data = reader.read(length)
    if len(data) != length:
        raise IntegrityError("delta: ends too early")
    return data


def _create(path: Path) -> BinaryIO:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    return os.fdopen(handle, "wb")
