"""Tensors of the Open Inference Protocol (KServe v2): JSON, and the binary extension that Triton clients prefer.

https://github.com/kserve/open-inference-protocol and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from doorstep.errors import InputError
from doorstep.tensors import Array

DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
"""NumPy dtype to the protocol's name for it."""
_DTYPES = {name: np.dtype(dtype) for dtype, name in DATATYPES.items()}
_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
BYTES = "BYTES"
_MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True)
class InferInput:
    """One input; `data` is absent where it follows the JSON in binary."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferOutput:
    """An output asked for."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferBody:
    """What `/infer` takes."""

    inputs: tuple[InferInput, ...]
    id: str = ""
    outputs: tuple[InferOutput, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


def read_inputs(inputs: Sequence[InferInput], tail: bytes) -> dict[str, Any]:
    """Return name to array, or to a flat list of texts or bytes where the datatype is BYTES.

    Args:
        tail: what follows the JSON; inputs with `binary_data_size` lie in it one after another.

    Raises:
        InputError: a name twice, an unknown datatype, or data that do not fit the shape.
    """
    found: dict[str, Any] = {}
    offset = 0
    for tensor in inputs:
        if tensor.name in found:
            raise InputError(f"inputs: {tensor.name:.60} stands there twice")
        count = _count(tensor)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            found[tensor.name] = _from_json(tensor, count)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - offset:
            raise InputError(f"{tensor.name:.60}: binary_data_size {size!r:.20} is more than there is")
        found[tensor.name] = _from_binary(tensor, tail[offset : offset + size], count)
        offset += size
    if offset != len(tail):
        raise InputError(f"body: {len(tail) - offset} bytes follow the JSON that no input claims")
    return found


def output_json(name: str, value: Array | list[str], shape: Sequence[int]) -> dict[str, Any]:
    """Return an output as JSON; `value` flat or of `shape`."""
    if isinstance(value, list):
        return {"name": name, "datatype": BYTES, "shape": list(shape), "data": value}
    datatype = DATATYPES[str(value.dtype)]
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": value.reshape(-1).tolist()}


def output_binary(value: Array | list[str]) -> bytes:
    """Return an output in the binary form."""
    if isinstance(value, list):
        encoded = [text.encode() for text in value]
        return b"".join(struct.pack("<I", len(data)) + data for data in encoded)
    return value.astype(value.dtype.newbyteorder("<")).tobytes()


def _count(tensor: InferInput) -> int:
    if tensor.datatype != BYTES and tensor.datatype not in _DTYPES:
        known = ", ".join([*_DTYPES, BYTES])
        raise InputError(f"{tensor.name:.60}: expected a datatype of {known}, got {tensor.datatype!r:.40}")
    if not tensor.shape or any(axis < 1 for axis in tensor.shape) or math.prod(tensor.shape) > _MOST_ELEMENTS:
        raise InputError(f"{tensor.name:.60}: no tensor has shape {list(tensor.shape)!r:.60}")
    return math.prod(tensor.shape)


def _from_json(tensor: InferInput, count: int) -> Any:
    flat = list(_leaves(tensor.data))
    if len(flat) != count:
        raise InputError(
            f"{tensor.name:.60}: expected {count} elements for shape {list(tensor.shape)}, got {len(flat)}"
        )
    if tensor.datatype == BYTES:
        if any(not isinstance(leaf, str) for leaf in flat):
            raise InputError(f"{tensor.name:.60}: expected texts")
        return flat
    wanted = _DTYPES[tensor.datatype]
    try:
        array = np.array(flat)
        if array.dtype.kind not in _KINDS[wanted.kind]:
            raise TypeError(f"they are {array.dtype}")
        with np.errstate(over="ignore"):
            cast = array.astype(wanted)
        if wanted.kind in "iu" and not np.array_equal(cast, array):
            raise ValueError("one is out of range")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{tensor.name:.60}: its elements are no {tensor.datatype} ({error!s:.80})") from error
    return cast.reshape(tensor.shape)


def _from_binary(tensor: InferInput, data: bytes, count: int) -> Any:
    if tensor.datatype == BYTES:
        elements = list(_elements(tensor.name, data))
        if len(elements) != count:
            raise InputError(f"{tensor.name:.60}: expected {count} elements, got {len(elements)}")
        return elements
    dtype = _DTYPES[tensor.datatype].newbyteorder("<")
    if len(data) != count * dtype.itemsize:
        raise InputError(f"{tensor.name:.60}: expected {count * dtype.itemsize} bytes, got {len(data)}")
    return np.frombuffer(data, dtype).reshape(tensor.shape)


def _elements(name: str, data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        if place + 4 > len(data):
            raise InputError(f"{name:.60}: it ends inside a length")
        (size,) = struct.unpack_from("<I", data, place)
        place += 4
        if place + size > len(data):
            raise InputError(f"{name:.60}: it ends inside an element")
        yield data[place : place + size]
        place += size


def _leaves(value: Any) -> Iterator[Any]:
    pending = [iter([value])]
    while pending:
        for element in pending[-1]:
            if isinstance(element, list):
                pending.append(iter(element))
                break
            yield element
        else:
            pending.pop()
