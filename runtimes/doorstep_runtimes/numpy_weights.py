"""Weights from a `.safetensors` file, memory-mapped, read without a library.

The format: 8 bytes of header length, little-endian; a JSON header; the tensors' bytes. Tensors must cover the rest of
the file without holes or overlaps. Source: https://github.com/huggingface/safetensors#format.
"""

import math
import mmap
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doorstep.decoding import build, parse_json
from doorstep.errors import FormatError
from doorstep.tensors import Array

MAX_HEADER_BYTES = 4 << 20
_MAX_RANK = 8
_PREFIX = 8
_DTYPES = {
    "BOOL": "?", "I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


class _Tensor(NamedTuple):
    """One entry of the header; `data_offsets` are bytes from the header's end: first, one past the last."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


def open_weights(path: Path) -> dict[str, Array]:
    """Map every tensor of a file, read-only; a page is read when it is first used.

    Raises:
        FormatError: not this format, or an entry that does not fit the file.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < _PREFIX:
            raise FormatError(f"{path.name}: expected at least {_PREFIX} bytes")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = _PREFIX + int.from_bytes(mapped[:_PREFIX], "little")
    if start > min(len(mapped), _PREFIX + MAX_HEADER_BYTES):
        raise FormatError(
            f"{path.name}: expected a header of at most {MAX_HEADER_BYTES} bytes in a file of {len(mapped)}, "
            f"got one of {start - _PREFIX}"
        )
    header = parse_json(mapped[_PREFIX:start], path.name)
    if type(header) is not dict:
        raise FormatError(f"{path.name}: expected an object as header, got {type(header).__name__}")
    header.pop("__metadata__", None)
    tensors = {name: _decode(entry, f"{path.name}: {name:.80}") for name, entry in header.items()}
    _check_cover(tensors, len(mapped) - start, path.name)
    return {name: _view(tensor, mapped, start) for name, tensor in tensors.items()}


def _decode(entry: Any, subject: str) -> _Tensor:
    tensor = build(entry, _Tensor, subject)
    if tensor.dtype not in _DTYPES:
        raise FormatError(f"{subject}: expected a dtype of {', '.join(_DTYPES)}, got {tensor.dtype[:20]!r}")
    if len(tensor.shape) > _MAX_RANK or any(length < 0 for length in tensor.shape) or len(tensor.data_offsets) != 2:
        raise FormatError(f"{subject}: no possible shape {tensor.shape[:9]} or offsets {tensor.data_offsets[:3]}")
    first, last = tensor.data_offsets
    size = math.prod(tensor.shape) * np.dtype(_DTYPES[tensor.dtype]).itemsize
    if last - first != size:
        raise FormatError(f"{subject}: expected {size} bytes for its shape, got offsets {first} to {last}")
    return tensor


def _check_cover(tensors: dict[str, _Tensor], size: int, subject: str) -> None:
    """Refuse holes, overlaps, and offsets outside of the file."""
    end = 0
    for first, last in sorted((tensor.data_offsets[0], tensor.data_offsets[1]) for tensor in tensors.values()):
        if first != end:
            raise FormatError(f"{subject}: expected the next tensor at byte {end} of the data, got {first}")
        end = last
    if end != size:
        raise FormatError(f"{subject}: expected {end} bytes of tensors, got {size}")


def _view(tensor: _Tensor, mapped: mmap.mmap, start: int) -> Array:
    dtype, count = np.dtype(_DTYPES[tensor.dtype]), math.prod(tensor.shape)
    if count == 0:
        return np.empty(tensor.shape, dtype)
    if dtype == np.bool_:  # NumPy trusts a bool to be 0 or 1; a file may say anything
        raw = np.frombuffer(mapped, np.uint8, count, start + tensor.data_offsets[0])
        return (raw != 0).reshape(tensor.shape)
    return np.frombuffer(mapped, dtype, count, start + tensor.data_offsets[0]).reshape(tensor.shape)
