"""JSON from outside, decoded once and strictly into dataclasses."""

import json
from typing import Any, TypeVar

from dacite import Config, DaciteError, from_dict

from doorstep.errors import FormatError

_Value = TypeVar("_Value")


def parse_json(data: bytes, subject: str) -> Any:
    """Parse JSON bytes; the caller has bounded their length.

    Raises:
        FormatError: not UTF-8, not JSON, NaN or Infinity in it, or nested too deep.
    """
    try:
        return json.loads(data.decode(), parse_constant=_refuse)
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
    """Build the dataclass `kind` from plain JSON values; types are checked, unknown fields ignored.

    Raises:
        FormatError: a missing field or a wrong type.
    """
    try:
        return from_dict(kind, plain, _CONFIG)
    except (DaciteError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{subject}: {error!s:.300}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _number(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise DaciteError(f"expected a whole number, got {value!r}")
    return value


_CONFIG = Config(cast=[tuple], type_hooks={float: _number, int: _whole})
