"""A release: one bundle as it was published, every file cut into pieces. A TUF target, so its bytes are verified
before they are parsed.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from doorstep.bundle import MANIFEST
from doorstep.decoding import decode_json
from doorstep.errors import FormatError
from doorstep.manifest import MAX_FILE_BYTES, MAX_FILES, check_path

FORMAT = 1
MAX_RELEASE_BYTES = 1 << 20
MIN_PIECE_BYTES, MAX_PIECE_BYTES = 4 << 10, 16 << 20
CODECS = ("seg1",)
PACKED_CODECS = ("sparse1",)
_SUBJECT = "release"
_MOST_PIECES = 512
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that can be fetched and verified piece by piece.

    Attributes:
        sha256: digest of the whole, and its name in the depot.
        piece_size: bytes of every piece but the last.
        pieces: sha256 of each piece, in order.
    """

    sha256: str
    size: int
    piece_size: int
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """One file of the bundle, `manifest.json` and its signature included."""

    path: str
    content: Content


@dataclass(frozen=True, slots=True)
class Delta:
    """What turns the blob `base` into the blob `target`: digests of those; `content` is the delta itself."""

    base: str
    target: str
    codec: str
    content: Content


@dataclass(frozen=True, slots=True)
class PackedContent:
    """A smaller form of the blob `target`, as the bundle's manifest declares it."""

    target: str
    codec: str
    content: Content


@dataclass(frozen=True, slots=True)
class Release:
    """One published bundle.

    Attributes:
        seq: counts the product's releases up from 1; a device never goes to a lower one than it committed.
        bundle: sha256 of the bundle's manifest.
        created: UTC, ISO 8601.
    """

    format: int
    product: str
    version: str
    seq: int
    created: str
    bundle: str
    files: tuple[ReleaseFile, ...]
    deltas: tuple[Delta, ...] = ()
    packed: tuple[PackedContent, ...] = ()

    @property
    def id(self) -> str:
        """The release's name on a device: `57-1a2b3c4d5e6f`."""
        return f"{self.seq}-{self.bundle[:12]}"

    def content(self, path: str) -> Content | None:
        """Return the content of the file `path`; None where the release has no such file."""
        return next((file.content for file in self.files if file.path == path), None)


def decode_release(data: bytes) -> Release:
    """Decode and check a release's bytes.

    Raises:
        FormatError: not JSON, too large, wrong types, a newer format, paths that could leave a folder, or
            pieces that do not add up.
    """
    if len(data) > MAX_RELEASE_BYTES:
        raise FormatError(f"{_SUBJECT}: expected at most {MAX_RELEASE_BYTES} bytes, got {len(data)}")
    release = decode_json(data, Release, _SUBJECT, FORMAT)
    _check(release)
    return release


def encode_release(release: Release) -> bytes:
    """Encode without spaces; what devices fetch counts.

    Raises:
        FormatError: what a device would refuse is not encoded.
    """
    data = json.dumps(asdict(release), ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    decode_release(data)
    return data


def piece_size_for(total: int) -> int:
    """Return a power of two from 1 to 16 MiB that cuts `total` bytes into at most 512 pieces where it can."""
    size = 1 << 20
    while total > size * _MOST_PIECES and size < MAX_PIECE_BYTES:
        size *= 2
    return size


def check_product(name: str) -> str:
    """Return `name`, which goes into addresses and folders.

    Raises:
        FormatError: other than 1 to 64 of `a-z 0-9 . _ -`, or not starting with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise FormatError(f"{name[:80]!r}: expected 1 to 64 of a-z 0-9 . _ - as a name, the first a letter or digit")
    return name


def _check(release: Release) -> None:
    check_product(release.product)
    if not 1 <= release.seq < 1 << 53 or not is_digest(release.bundle):
        raise FormatError(f"{_SUBJECT}: seq {release.seq} or bundle {release.bundle[:80]!r} is impossible")
    most = max(len(release.deltas), len(release.packed))
    if not 1 <= len(release.files) <= MAX_FILES + 2 or most > MAX_FILES:
        raise FormatError(f"{_SUBJECT}: {len(release.files)} files and {most} deltas are too many")
    seen: set[str] = set()
    for file in release.files:
        _check_file_name(file.path)
        if file.path.casefold() in seen:
            raise FormatError(f"{_SUBJECT}: {file.path} is listed twice")
        seen.add(file.path.casefold())
        _check_content(file.content, file.path)
    manifest = release.content(MANIFEST)
    if manifest is None or manifest.sha256 != release.bundle:
        raise FormatError(f"{_SUBJECT}: {MANIFEST} is missing or is not the bundle's")
    for delta in release.deltas:
        if not is_digest(delta.base) or not is_digest(delta.target):
            raise FormatError(f"{_SUBJECT}: a delta names no digest")
        _check_content(delta.content, f"delta to {delta.target[:12]}")
    for packed in release.packed:
        if not is_digest(packed.target):
            raise FormatError(f"{_SUBJECT}: a packed form names no digest")
        _check_content(packed.content, f"packed form of {packed.target[:12]}")


def _check_file_name(path: str) -> None:
    check_path(path)
    for part in path.split("/"):
        if part.endswith(".") or _DEVICE_NAME.fullmatch(part):
            raise FormatError(f"{_SUBJECT}: {path[:80]!r} means something else on some systems; rename it")


def _check_content(content: Content, subject: str) -> None:
    if not is_digest(content.sha256) or not 0 <= content.size <= MAX_FILE_BYTES:
        raise FormatError(f"{_SUBJECT}: {subject} has no possible size or sha256")
    if not MIN_PIECE_BYTES <= content.piece_size <= MAX_PIECE_BYTES:
        raise FormatError(f"{_SUBJECT}: {subject} is cut into pieces of {content.piece_size} bytes")
    if len(content.pieces) != -(-content.size // content.piece_size) or not all(map(is_digest, content.pieces)):
        raise FormatError(f"{_SUBJECT}: {subject} has pieces that do not add up to {content.size} bytes")


def is_digest(text: str) -> bool:
    """Tell whether `text` is the hexadecimal form of a sha256."""
    return len(text) == 64 and _DIGITS.issuperset(text)


def total_size(contents: Iterable[Content]) -> int:
    """Return the bytes of several contents."""
    return sum(content.size for content in contents)
