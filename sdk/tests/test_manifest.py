"""What a manifest may say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorstep.bundle import MANIFEST
from doorstep.errors import FormatError
from doorstep.manifest import MAX_MANIFEST_BYTES, check_path, decode, encode

Plain = dict[str, Any]


@pytest.fixture
def plain(template: Path) -> Plain:
    manifest: Plain = json.loads((template / MANIFEST).read_bytes())
    return manifest


def test_encoding_what_was_decoded_gives_the_same_bytes(template: Path) -> None:
    data = (template / MANIFEST).read_bytes()
    assert encode(decode(data)) == data


def test_unknown_fields_are_ignored(plain: Plain) -> None:
    known = decode(json.dumps(plain).encode())
    plain["colour"] = {"of": ["the", "box"]}
    plain["variants"][0]["mood"] = 3
    assert decode(json.dumps(plain).encode()) == known


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "expected JSON"),
        (b"not json", "expected JSON"),
        (b"\xff\xfe\x00", "expected JSON"),
        (b'{"format": 1', "expected JSON"),
        (b"[]", "expected an object, got list"),
        (b"null", "expected an object, got NoneType"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"a":' * 200_000, "nested too deep"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "expected at most 1048576 bytes, got 1048577"),
        (b'{"format": 2}', "reads format 1, got 2; upgrade with: pip install -U doorstep"),
        (b'{"format": 0}', "reads format 1, got 0"),
        (b'{"format": true}', "reads format 1, got True"),
        (b'{"format": 1.0}', "reads format 1, got 1.0"),
        (b'{"format": "1"}', "reads format 1, got '1'"),
        (b"{}", "reads format 1, got None"),
        (b'{"format": NaN}', "NaN is no JSON number"),
        (b'{"format": 1, "x": -Infinity}', "-Infinity is no JSON number"),
        (b'{"format": 1, "x": 1e999}', "1e999 is no JSON number"),
    ],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode(data)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def put(*path: str | int) -> Callable[[Plain, Any], None]:
    """Return a function that sets the value at `path`."""

    def change(plain: Plain, value: Any) -> None:
        for step in path[:-1]:
            plain = plain[step]
        plain[path[-1]] = value

    return change


MEASURED = {"bytes": 1}
WRONG_VALUES = [
    (put("name"), 3),
    (put("name"), None),
    (put("name"), ""),
    (put("name"), "../up"),
    (put("name"), "a" * 101),
    (put("name"), "new\nline"),
    (put("task"), ["text-classification"]),
    (put("options"), []),
    (put("files"), {}),
    (put("files"), []),
    (put("files"), "golden.json"),
    (put("files", 0), "golden.json"),
    (put("files", 0, "size"), True),
    (put("files", 0, "size"), 3.0),
    (put("files", 0, "size"), "3"),
    (put("files", 0, "size"), -1),
    (put("files", 0, "size"), 1 << 41),
    (put("files", 0, "sha256"), "0" * 63),
    (put("files", 0, "sha256"), "G" * 64),
    (put("files", 0, "sha256"), None),
    (put("golden"), "nowhere.json"),
    (put("golden"), 1),
    (put("variants"), []),
    (put("variants"), None),
    (put("variants", 1, "name"), "onnx-fp32"),
    (put("variants", 0, "name"), "a/b"),
    (put("variants", 0, "entry"), "unlisted.onnx"),
    (put("variants", 0, "entry"), "tokenizer.json"),
    (put("variants", 0, "files"), ["unlisted.onnx"]),
    (put("variants", 0, "requires"), ["onnxruntime"]),
    (put("variants", 0, "requires"), {"onnxruntime": 1}),
    (put("variants", 0, "inputs", 0, "shape"), [True, 3]),
    (put("variants", 0, "inputs", 0, "shape"), [0, 3]),
    (put("variants", 0, "inputs", 0, "shape"), [-1, 3]),
    (put("variants", 0, "inputs", 0, "shape"), [1.5]),
    (put("variants", 0, "inputs", 0, "shape"), "batch"),
    (put("variants", 0, "inputs", 0, "dtype"), "object"),
    (put("variants", 0, "inputs", 0, "dtype"), "O8,i4"),
    (put("variants", 0, "inputs", 0, "pad"), True),
    (put("variants", 0, "measured"), {}),
    (put("variants", 0, "measured"), {**MEASURED, "agreement": "1"}),
    (put("variants", 0, "measured"), {**MEASURED, "agreement": True}),
    (put("variants", 0, "measured"), {**MEASURED, "p50_ms": 10**400}),
    (put("variants", 0, "measured"), {**MEASURED, "sequence": False}),
    (put("variants", 0, "measured"), {**MEASURED, "board": {"arch": 3}}),
    (put("provenance"), {"tool": 3}),
    (put("variants", 0, "inputs"), deep(900)),
]


@pytest.mark.parametrize("change, value", WRONG_VALUES, ids=range(len(WRONG_VALUES)))
def test_a_wrong_value_is_refused(plain: Plain, change: Callable[[Plain, Any], None], value: Any) -> None:
    change(plain, value)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        decode(json.dumps(plain).encode())


@pytest.mark.parametrize("field", ["format", "name", "version", "created", "task", "options", "files", "variants"])
def test_a_missing_field_is_refused(plain: Plain, field: str) -> None:
    del plain[field]
    with pytest.raises(FormatError):
        decode(json.dumps(plain).encode())


WRONG_PATHS = [
    "",
    "/etc/passwd",
    "../up",
    "a/../../up",
    "a/./b",
    "a//b",
    "a/",
    "/",
    ".hidden",
    "a/.hidden",
    "a\\b",
    "..\\up",
    "C:\\windows",
    "C:/windows",
    "a\0b",
    "a\nb",
    "a b",
    "ä",
    "~/x",
    "$HOME/x",
    "a" * 101,
    "/".join(["a" * 50] * 7),
]


@pytest.mark.parametrize("path", WRONG_PATHS)
def test_a_path_that_could_leave_the_bundle_is_refused(path: str) -> None:
    with pytest.raises(FormatError, match="no plain relative path"):
        check_path(path)


@pytest.mark.parametrize("path", WRONG_PATHS)
def test_a_listed_path_that_could_leave_the_bundle_is_refused(plain: Plain, path: str) -> None:
    plain["files"][0]["path"] = path
    with pytest.raises(FormatError, match="no plain relative path"):
        decode(json.dumps(plain).encode())


@pytest.mark.parametrize("path", ["model.onnx", "variants/onnx-int8/model.onnx", "a_b+c.d-e", "0"])
def test_a_plain_path_is_taken(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize("twin", ["golden.json", "GOLDEN.json"])
def test_a_file_listed_twice_is_refused(plain: Plain, twin: str) -> None:
    entry = next(entry for entry in plain["files"] if entry["path"] == "golden.json")
    plain["files"].append({**entry, "path": twin})
    with pytest.raises(FormatError, match="listed twice"):
        decode(json.dumps(plain).encode())


@pytest.mark.parametrize("inner", ["golden.json/x", "GOLDEN.JSON/x/y"])
def test_a_file_that_is_also_a_folder_is_refused(plain: Plain, inner: str) -> None:
    plain["files"].append({**plain["files"][0], "path": inner})
    with pytest.raises(FormatError, match="as a file and as a folder"):
        decode(json.dumps(plain).encode())


def test_a_name_that_stands_twice_in_one_object_is_refused(template: Path) -> None:
    data = (template / MANIFEST).read_bytes().replace(b'"task":', b'"task": "tensors", "task":')
    with pytest.raises(FormatError, match="twice"):
        decode(data)


def test_too_many_files_are_refused(plain: Plain) -> None:
    entry = plain["files"][0]
    plain["files"] += [{**entry, "path": f"f{number}"} for number in range(4096)]
    with pytest.raises(FormatError, match="at most 4096 files"):
        decode(json.dumps(plain).encode())
