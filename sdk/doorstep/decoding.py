"""JSON from outside, decoded once and strictly into records, named tuples and dataclasses.

Libraries that do this either have no wheel for 32-bit ARM or take longer than loading the engine; see
`sdk/docs/decisions/0002-own-decoder.md`.
"""

import json
import math
import types
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin

from doorstep.errors import FormatError
from doorstep.record import Record

_Value = TypeVar("_Value")
_Reader = Callable[[Any, str], Any]


def parse_json(data: bytes, subject: str) -> Any:
    """Parse JSON bytes; the caller has bounded their length.

    Raises:
        FormatError: not UTF-8, not JSON, a number no float64 can hold, a name twice, or nested too deep.
    """
    try:
        return json.loads(data.decode(), parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise FormatError(f"{subject}: expected JSON, got {reason[:200]}") from error


def decode_json(data: bytes, kind: type[_Value], subject: str, newest: int) -> _Value:
    """Decode JSON bytes into the dataclass `kind`, whose `format` must be `newest`.

    Raises:
        FormatError: as `parse_json`, another format version, a missing field or a wrong type.
    """
    parsed = parse_json(data, subject)
    if not isinstance(parsed, dict):
        raise FormatError(f"{subject}: expected an object, got {type(parsed).__name__}")
    version = parsed.get("format")
    if type(version) is not int or version != newest:
        remedy = "; upgrade with: pip install -U doorstep" if type(version) is int else ""
        raise FormatError(f"{subject}: this doorstep reads format {newest}, got {version!r:.40}{remedy}")
    return build(parsed, kind, subject)


def build(plain: dict[str, Any], kind: type[_Value], subject: str) -> _Value:
    """Build the dataclass or named tuple `kind` from plain JSON values; types are checked, unknown fields ignored.

    Raises:
        FormatError: a missing field or a wrong type; the message names the place.
    """
    try:
        return cast(_Value, _reader(cast(Hashable, kind))(plain, ""))
    except (ValueError, OverflowError, RecursionError) as error:
        raise FormatError(f"{subject}: {error!s:.300}") from error


@cache
def _reader(kind: Hashable) -> _Reader:
    """Return the function that checks a JSON value against the type `kind` and returns it decoded."""
    if kind is Any:
        return lambda value, place: value
    if kind is float:
        return _number
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None and hasattr(kind, "__annotations__"):
        return _object_reader(kind)
    if origin is types.UnionType:
        return _union_reader(arguments)
    if origin is tuple:
        return _tuple_reader(_reader(arguments[0]))
    if origin in (dict, Mapping):
        return _dict_reader(_reader(arguments[1]))
    return _exact_reader(cast(type, kind))


def _object_reader(kind: Any) -> _Reader:
    required = _required(kind)
    parts = [(name, _reader(part), name in required) for name, part in kind.__annotations__.items()]

    def read(value: Any, place: str) -> Any:
        if type(value) is not dict:
            raise _wrong(place, "an object", value)
        found = {}
        for name, reader, is_required in parts:
            if name in value:
                found[name] = reader(value[name], f"{place}.{name}" if place else name)
            elif is_required:
                raise ValueError(f"{f'{place}.' if place else ''}{name} is missing")
        return kind(**found)

    return read


def _required(kind: Any) -> set[str]:
    """Return the names of the fields without a default."""
    if issubclass(kind, Record):
        return {name for name in kind.__slots__ if name not in kind.__defaults__}
    if issubclass(kind, tuple):
        return {name for name in kind._fields if name not in kind._field_defaults}
    from dataclasses import MISSING, fields

    return {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}


def _tuple_reader(item: _Reader) -> _Reader:
    def read(value: Any, place: str) -> Any:
        if type(value) is not list:
            raise _wrong(place, "a list", value)
        return tuple([item(element, f"{place}[{number}]") for number, element in enumerate(value)])

    return read


def _dict_reader(item: _Reader) -> _Reader:
    def read(value: Any, place: str) -> Any:
        if type(value) is not dict:
            raise _wrong(place, "an object", value)
        return {name: item(element, f"{place}.{name}") for name, element in value.items()}

    return read


def _union_reader(kinds: tuple[Any, ...]) -> _Reader:
    readers = [_reader(kind) for kind in kinds]
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)

    def read(value: Any, place: str) -> Any:
        for reader in readers[:-1]:
            try:
                return reader(value, place)
            except ValueError:
                if type(value) is dict:
                    raise
        try:
            return readers[-1](value, place)
        except ValueError:
            raise _wrong(place, names, value) from None

    return read


def _exact_reader(kind: type) -> _Reader:
    def read(value: Any, place: str) -> Any:
        if type(value) is not kind:
            raise _wrong(place, "null" if kind is type(None) else kind.__name__, value)
        return value

    return read


def _number(value: Any, place: str) -> float:
    if type(value) not in (int, float):
        raise _wrong(place, "a number", value)
    return float(value)


def _wrong(place: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{place}: expected {expected}, got {value!r:.40}")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant:.40} is no JSON number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found
