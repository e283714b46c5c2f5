"""The single-file form of a bundle, for a USB stick: a ZIP of exactly the bundle's files.

The reader trusts nothing in the ZIP but the bytes of the manifest, and those only after their signature: names and
sizes come from the manifest, every byte is counted and hashed while it is written aside.
"""

import errno
import hashlib
import os
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from doorstep import manifest as manifests
from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.errors import BundleError, IntegrityError, UsageError
from doorstep.files import folder_aside, sync_folder
from doorstep.signing import TrustKey, verify_envelope

_CHUNK = 1 << 20
_MAX_SIGNATURE_BYTES = 2 * manifests.MAX_MANIFEST_BYTES
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def pack(folder: Path, out: Path, *, trust: TrustKey | None = None) -> Path:
    """Write the bundle `folder` as one file `out`; equal bundles give equal bytes.

    Raises:
        BundleError: the bundle does not verify.
    """
    bundle = Bundle.open(folder, trust=trust)
    aside = out.with_name(f".{out.name}.part")
    paths = [MANIFEST, *([SIGNATURE] if (folder / SIGNATURE).exists() else [])]
    paths += [entry.path for entry in bundle.manifest.files if (folder / entry.path).exists()]
    try:
        with open(aside, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
                for path in paths:
                    _add(archive, folder / path, path)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(out.parent)
    return out


def unpack(file: Path, out: Path, *, trust: TrustKey | None = None) -> Path:
    """Verify the single-file bundle `file` and write it as the folder `out`.

    Raises:
        BundleError: not such a file, or its content does not verify; `out` is then untouched.
        UsageError: `out` holds something else than a bundle.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UsageError(f"{out}: expected a bundle, an empty folder or nothing there, got other files; name another")
    try:
        with zipfile.ZipFile(file) as archive, folder_aside(out) as aside:
            _extract(archive, aside, trust)
    except (OSError, *_DAMAGE) as error:
        # EINVAL: an offset in the archive points before its beginning. A full disk is no fault of the archive.
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.EISDIR, errno.EINVAL):
            raise
        raise BundleError(f"{file}: expected a single-file bundle ({error!s:.120})") from error
    return out


def unpack_cached(file: str | Path, cache_dir: str | Path | None, trust: TrustKey | None) -> Path:
    """Unpack `file` once under `cache_dir`, or under the user's temporary folder, and return the folder.

    Raises:
        BundleError: as `unpack`. What lies in the cache is verified again when it is opened.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            key = hashlib.sha256("\n".join(sorted(_members(archive))).encode())
            key.update(_read(archive, MANIFEST, manifests.MAX_MANIFEST_BYTES))
    except (OSError, KeyError, *_DAMAGE) as error:
        raise BundleError(f"{file}: expected a single-file bundle ({error!s:.120})") from error
    out = Path(cache_dir or _own_temporary_folder()) / "bundles" / key.hexdigest()[:32]
    try:
        return Bundle.open(out, trust=trust, is_lazy=True).folder
    except BundleError:  # not there, cut short, or not signed as the file is: the file itself decides
        return unpack(Path(file), out, trust=trust)


def _own_temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"doorstep-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise UsageError(f"{folder}: others can write there; name a folder of your own with DOORSTEP_CACHE")
    return folder


def _extract(archive: zipfile.ZipFile, aside: Path, trust: TrustKey | None) -> None:
    members = _members(archive)
    if MANIFEST not in members:
        raise BundleError(f"no {MANIFEST} in it, so this is no bundle")
    data = _read(archive, MANIFEST, manifests.MAX_MANIFEST_BYTES)
    envelope = _read(archive, SIGNATURE, _MAX_SIGNATURE_BYTES) if SIGNATURE in members else None
    if trust is not None:
        verify_envelope(envelope, data, trust)
    manifest = manifests.decode(data)
    entries = {entry.path: entry for entry in manifest.files}
    if extra := members - entries.keys() - {MANIFEST, SIGNATURE}:
        raise IntegrityError(f"{min(extra)[:80]!r} is not listed in the manifest")
    for path in sorted(entries.keys() & members):
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        with archive.open(path) as source, open(aside / path, "wb") as target:
            digest = _copy(source, target, entries[path].size)
        if digest != entries[path].sha256:
            raise IntegrityError(f"{path}: its bytes are not those the manifest lists")
    (aside / MANIFEST).write_bytes(data)
    if envelope is not None:
        (aside / SIGNATURE).write_bytes(envelope)
    Bundle.open(aside, trust=trust, is_lazy=True)


def _members(archive: zipfile.ZipFile) -> set[str]:
    infos = archive.infolist()
    members = {info.filename for info in infos}
    if len(members) != len(infos) or len(members) > manifests.MAX_FILES + 2:
        raise IntegrityError("the archive holds a name twice, or too many names")
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
        raise IntegrityError("the archive is compressed otherwise than by deflate")
    return members


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> str:
    """Copy exactly `size` bytes; a longer stream stops at the first byte too many."""
    digest, left = hashlib.sha256(), size
    while chunk := source.read(min(_CHUNK, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise IntegrityError("a file of the archive is longer than the manifest says")
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _read(archive: zipfile.ZipFile, path: str, limit: int) -> bytes:
    with archive.open(path) as source:
        data = source.read(limit + 1)
    if len(data) > limit:
        raise IntegrityError(f"{path}: expected at most {limit} bytes, got more")
    return data


def _add(archive: zipfile.ZipFile, source: Path, path: str) -> None:
    info = zipfile.ZipInfo(path, _TIMESTAMP)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    with open(source, "rb") as reader, archive.open(info, "w", force_zip64=True) as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
