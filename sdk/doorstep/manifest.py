"""The manifest: JSON bytes to values and back.

Unknown fields are ignored, so that an older device reads a newer bundle of the same format; an unknown
format version is refused. `sdk/docs/bundle.schema.json` is generated from the types below: `make schema`.
"""

import json
from collections.abc import Iterator
from typing import Any

from doorstep.decoding import decode_json
from doorstep.errors import FormatError
from doorstep.record import Record
from doorstep.tensors import TensorSpec

FORMAT = 1
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 4096
MAX_FILE_BYTES = 1 << 40
_NAME_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-"
_DTYPES = frozenset(
    ["bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
)


class Packed(Record):
    """A smaller form that a file may be moved in: codec (`sparse1`), size in bytes, digest of those bytes."""

    codec: str
    size: int
    sha256: str


class FileEntry(Record):
    """One file of the bundle: relative POSIX path, size in bytes, digest of its bytes, perhaps a form to move it in."""

    path: str
    size: int
    sha256: str
    packed: Packed | None = None


class Board(Record):
    """The machine a figure was measured on."""

    arch: str
    cpu: str = ""
    features: tuple[str, ...] = ()
    is_emulated: bool = False


class Measured(Record):
    """What conversion measured for one variant.

    Attributes:
        bytes: size of the variant's own files.
        examples: number of evaluation items behind `agreement`.
        agreement: share of evaluation items with the checkpoint's label (0 to 1).
        max_abs_error: largest difference of a probability from the checkpoint's.
        accuracy: share of right labels on the evaluation data, where it has labels (0 to 1).
        metric: what `accuracy` is, where it is not the share of right labels (`span-f1`, `auc`, `ndcg@10`, …).
        recall_at_10: of rankings, the share of what is right that is among the first ten, on the same data (0 to 1).
        macro_f1: unweighted mean of the classes' F1 on the same data (0 to 1).
        p50_ms, p95_ms: latency of one item of `sequence` tokens on one thread.
        cold_start_ms: process start to first answer.
        peak_rss_mib: peak resident memory of that process.
        board: where the times and the memory were measured.
    """

    bytes: int
    examples: int = 0
    agreement: float | None = None
    max_abs_error: float | None = None
    accuracy: float | None = None
    macro_f1: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    sequence: int | None = None
    cold_start_ms: float | None = None
    peak_rss_mib: float | None = None
    board: Board | None = None
    metric: str | None = None
    recall_at_10: float | None = None


class Variant(Record):
    """One runtime and precision.

    Attributes:
        name: for example `onnx-int8`.
        runtime: a key of `doorstep.session.RUNTIMES`.
        recipe: how it was compressed; the name decodes, see the converters' recipe.py.
        entry: path of the file the engine opens; the engine finds its other `files` beside it.
        files: every path that belongs to this variant alone.
        requires: distribution name to lowest version; any one of them is enough.
        arch: machines it was made for (`x86_64`, `aarch64`, `armv7l`); empty for all.
        cpu_features: CPU flags (Linux names) without which it must not run.
    """

    name: str
    runtime: str
    recipe: str
    entry: str
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    requires: dict[str, str]
    arch: tuple[str, ...] = ()
    cpu_features: tuple[str, ...] = ()
    measured: Measured | None = None
    notes: str = ""


class Manifest(Record):
    """Everything a device must know before it opens another file of the bundle.

    Attributes:
        format: version of this format, 1.
        task: a key of `doorstep.tasks.TASKS`.
        options: the task's options (labels, thresholds, …), decoded by the task.
        golden: path of the golden examples.
        created: UTC time, ISO 8601.
        provenance: checkpoint, data, tools and their versions, as text.
    """

    format: int
    name: str
    version: str
    created: str
    task: str
    options: dict[str, Any]
    files: tuple[FileEntry, ...]
    variants: tuple[Variant, ...]
    golden: str = "golden.json"
    target: str = ""
    licence: str = ""
    provenance: dict[str, str] = {}


def decode(data: bytes) -> Manifest:
    """Decode and check manifest bytes.

    Raises:
        FormatError: not JSON, too large, nested too deep, wrong types, a newer format, or inconsistent.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise FormatError(f"manifest.json: expected at most {MAX_MANIFEST_BYTES} bytes, got {len(data)}")
    manifest = decode_json(data, Manifest, "manifest.json", FORMAT)
    _check(manifest)
    return manifest


def encode(manifest: Manifest) -> bytes:
    """Encode to the canonical bytes: sorted keys, two spaces, no nulls, one final newline."""
    from dataclasses import asdict

    plain = _without_none(asdict(manifest))
    text = json.dumps(plain, ensure_ascii=False, sort_keys=True, indent=2)
    return text.encode() + b"\n"


def check_path(path: str) -> None:
    """Refuse every path that could leave the bundle or mean another file elsewhere.

    Raises:
        FormatError: absolute, `..`, backslash, hidden, odd characters, or too long.
    """
    if len(path) > 300 or not all(_is_plain(part, ".") for part in path.split("/")):
        raise FormatError(f"manifest.json: {path[:80]!r} is no plain relative path")


def _check(manifest: Manifest) -> None:
    if len(manifest.files) > MAX_FILES:
        raise FormatError(f"manifest.json: expected at most {MAX_FILES} files, got {len(manifest.files)}")
    seen: set[str] = set()
    _check_name(manifest.name)
    for entry in manifest.files:
        if not 0 <= entry.size <= MAX_FILE_BYTES or not _is_sha256(entry.sha256):
            raise FormatError(f"manifest.json: {entry.path[:80]!r} has no possible size or sha256")
        if (packed := entry.packed) is not None and not (0 <= packed.size < entry.size and _is_sha256(packed.sha256)):
            raise FormatError(f"manifest.json: {entry.path[:80]!r} has a packed form of no possible size or sha256")
        check_path(entry.path)
        if entry.path.casefold() in seen:
            raise FormatError(f"manifest.json: {entry.path} is listed twice")
        seen.add(entry.path.casefold())
    folders = {parent.casefold() for entry in manifest.files for parent in _parents(entry.path)}
    if both := sorted(folders & seen):
        raise FormatError(f"manifest.json: {both[0]} is listed as a file and as a folder")
    listed = {entry.path for entry in manifest.files}
    if manifest.golden not in listed:
        raise FormatError(f"manifest.json: the golden examples {manifest.golden!r} are not listed")
    names = [variant.name for variant in manifest.variants]
    if len(set(names)) != len(names) or not names:
        raise FormatError(f"manifest.json: expected one or more distinct variants, got {names}")
    for variant in manifest.variants:
        _check_name(variant.name)
        if unlisted := {variant.entry, *variant.files} - listed:
            raise FormatError(f"manifest.json: {variant.name} names unlisted files {sorted(unlisted)}")
        if variant.entry not in variant.files:
            raise FormatError(f"manifest.json: {variant.name} does not own its entry {variant.entry}")
        for spec in (*variant.inputs, *variant.outputs):
            if spec.dtype not in _DTYPES or any(type(axis) is int and axis < 1 for axis in spec.shape):
                raise FormatError(
                    f"manifest.json: {spec.name:.80} is no tensor: {spec.dtype[:20]!r} {list(spec.shape)[:8]}"
                )


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def is_name(text: str) -> bool:
    """Tell whether a bundle or a variant may be called `text`."""
    return _is_plain(text, "._+-")


def _check_name(name: str) -> None:
    if not is_name(name):
        raise FormatError(f"manifest.json: {name[:80]!r} is no name (letters, digits, . _ + -, at most 100)")


def _is_plain(text: str, not_first: str) -> bool:
    """Tell whether `text` is 1 to 100 letters, digits and . _ + -, and does not begin with one of `not_first`."""
    return 0 < len(text) <= 100 and text[0] not in not_first and not text.strip(_NAME_CHARACTERS)


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def _without_none(value: Any) -> Any:
    """Drop None inside dicts: it is what decoding fills in."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
