"""A bundle on disk: `Bundle.open` verifies, `seal` writes.

Nothing of a bundle is parsed before its size and sha256 were compared with the manifest, and the manifest's own
bytes before their signature was (where a trust key is configured).
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from doorstep import manifest as manifests
from doorstep.errors import BundleError, IntegrityError
from doorstep.manifest import FileEntry, Manifest, Variant
from doorstep.signing import TrustKey, verify_envelope

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path  # imported where a caller asks for one: 5 ms of a start

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig.json"
MAX_SHARED_BYTES = 256 << 20
_WINDOW = 16 << 20  # bytes mapped at once
_MAX_SIGNATURE_BYTES = 2 * manifests.MAX_MANIFEST_BYTES


class Bundle:
    """A verified bundle folder. Made by `Bundle.open`."""

    def __init__(self, folder: str, manifest: Manifest, digest: str, signer: str | None) -> None:
        self._folder = folder
        self.manifest = manifest
        self.digest = digest
        """sha256 of the manifest's bytes: the identity of everything in the bundle."""
        self.signer = signer
        """The trusted public key that signed the manifest; None where no trust key is configured."""
        self._entries = {entry.path: entry for entry in manifest.files}
        self._verified: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where the bundle lies."""
        from pathlib import Path

        return Path(self._folder)

    @classmethod
    def open(cls, folder: str | Path, *, trust: TrustKey | None = None, is_lazy: bool = False) -> Bundle:
        """Open a bundle folder and verify it.

        Args:
            folder: the bundle. It may itself be a link; nothing inside it may.
            trust: with a key, an unsigned or wrongly signed bundle is refused.
            is_lazy: verify the digest of a file when it is first asked for, instead of all of them now.
                Sizes, links and unlisted files are checked at once either way.

        Raises:
            BundleError: no such folder, or no bundle; FormatError, IntegrityError, SignatureError: see there.
        """
        root = os.fspath(folder)
        if not os.path.isdir(root):
            hint = "; unpack it with: doorstep unpack" if os.path.isfile(root) else ""
            raise BundleError(f"{root}: expected a bundle folder, got {_describe(root)}{hint}")
        if not os.path.isfile(f"{root}/{MANIFEST}"):
            raise BundleError(f"{root}: no {MANIFEST} in it, so this is no bundle")
        data = _read_bounded(f"{root}/{MANIFEST}", manifests.MAX_MANIFEST_BYTES)
        signer = None
        if trust is not None:
            signer = verify_envelope(_read_signature(root), data, trust)
        bundle = cls(root, manifests.decode(data), hashlib.sha256(data).hexdigest(), signer)
        bundle._check_tree()
        if not is_lazy:
            bundle.verify(path for path in bundle._entries if os.path.exists(f"{root}/{path}"))
        return bundle

    def verify(self, paths: Iterable[str]) -> None:
        """Compare the bytes of `paths` with their digests.

        Raises:
            IntegrityError: a file is missing or altered.
        """
        for path in paths:
            self.file(path)

    def file(self, path: str) -> str:
        """Return the place of a listed file whose bytes have been verified.

        Raises:
            IntegrityError: not listed, missing, or altered.
        """
        entry, place = self._entry(path), f"{self._folder}/{path}"
        if path not in self._verified:
            with _open_regular(place) as file:
                try:
                    digest = _digest(file)
                except OSError as error:
                    raise _unreadable(place, error) from error
            _compare(entry, digest)
            self._verified.add(path)
        return place

    def read(self, path: str) -> bytes:
        """Return the verified bytes of a listed file of at most `MAX_SHARED_BYTES`.

        Raises:
            IntegrityError: not listed, missing, altered, or too large to be held in memory.
        """
        entry = self._entry(path)
        data = _read_bounded(f"{self._folder}/{path}", MAX_SHARED_BYTES)
        _compare(entry, hashlib.sha256(data).hexdigest())
        return data

    def has(self, variant: Variant) -> bool:
        """Tell whether all files of `variant` are on this device."""
        return all(os.path.exists(f"{self._folder}/{path}") for path in variant.files)

    def _entry(self, path: str) -> FileEntry:
        if path not in self._entries:
            raise IntegrityError(f"{path}: not listed in {self._folder}/{MANIFEST}")
        return self._entries[path]

    def _check_tree(self) -> None:
        """Refuse links, unlisted files, wrong sizes, and missing files unless a whole variant is absent."""
        found = dict(_walk(self._folder))
        found.pop(MANIFEST, None)
        found.pop(SIGNATURE, None)
        if extra := sorted(found.keys() - self._entries.keys()):
            raise IntegrityError(f"{self._folder}: {extra[0]} is not listed in the manifest; remove it")
        for path, size in found.items():
            if size != self._entries[path].size:
                raise IntegrityError(f"{path}: expected {self._entries[path].size} bytes, got {size}")
        absent = self._entries.keys() - found.keys()
        for variant in self.manifest.variants:
            if absent.issuperset(variant.files):
                absent = absent - set(variant.files)
        if absent:
            raise IntegrityError(f"{self._folder}: {min(absent)} is missing; fetch the bundle again")


def seal(folder: Path, manifest: Manifest, *, is_packed: bool = False) -> Manifest:
    """List every file of `folder` in the manifest and write it there; returns the manifest with its files.

    With `is_packed`, files of mostly zeros are listed with the smaller form they may be moved in.

    The caller builds `folder` aside (`files.folder_aside`), so that a half-made bundle is never seen.
    """
    from dataclasses import replace

    entries = []
    for path, size in sorted(_walk(os.fspath(folder))):
        manifests.check_path(path)
        with open(folder / path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        packed = None
        if is_packed:
            from doorstep.sparse import packed_form

            packed = packed_form(folder / path)
        entries.append(FileEntry(path, size, digest, packed))
    sealed = replace(manifest, files=tuple(entries))
    data = manifests.encode(sealed)
    manifests.decode(data)
    (folder / MANIFEST).write_bytes(data)
    return sealed


def _walk(root: str) -> Iterable[tuple[str, int]]:
    """Yield (relative path, size) of every regular file; anything else is refused."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{root}/{prefix}") as entries:
            for entry in entries:
                path = prefix + entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(path + "/")
                elif stat.S_ISREG(status.st_mode):
                    yield path, status.st_size
                else:
                    raise IntegrityError(f"{root}/{path}: expected a regular file, got a link or a device")


def _read_signature(root: str) -> bytes | None:
    path = f"{root}/{SIGNATURE}"
    return _read_bounded(path, _MAX_SIGNATURE_BYTES) if os.path.exists(path) else None


def _read_bounded(path: str, limit: int) -> bytes:
    with _open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise IntegrityError(f"{path}: expected at most {limit} bytes, got {size}")
        return file.read(size)  # as much memory as the file needs; asking for the limit would reserve all of it


def _open_regular(path: str) -> BinaryIO:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise IntegrityError(f"{path}: expected a regular file")
    return os.fdopen(handle, "rb")


def _digest(file: BinaryIO) -> str:
    """Return the sha256 of a whole file, mapped window by window: reading it into a buffer takes twice as long.

    A mapped page that cannot be read kills a process. So the kernel first reads the file through, without copying it
    anywhere, and tells a bad sector as an error; what it has read stays in memory.
    """
    handle = file.fileno()
    size = os.fstat(handle).st_size
    _read_through(handle, size)
    digest = hashlib.sha256()
    for start in range(0, size, _WINDOW):
        with mmap.mmap(handle, min(_WINDOW, size - start), access=mmap.ACCESS_READ, offset=start) as window:
            digest.update(window)
    return digest.hexdigest()


def _read_through(handle: int, size: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        done = 0
        while done < size and (count := os.sendfile(nowhere, handle, done, size - done)):
            done += count
    finally:
        os.close(nowhere)
    if done < size:
        raise OSError(errno.EIO, "shorter than its size")


def _unreadable(path: str, error: OSError) -> IntegrityError:
    return IntegrityError(f"{path}: cannot be read ({error.strerror}); fetch the bundle again")


def _compare(entry: FileEntry, digest: str) -> None:
    if digest != entry.sha256:
        raise IntegrityError(
            f"{entry.path}: expected sha256 {entry.sha256[:12]}…, got {digest[:12]}…; fetch the bundle again"
        )


def _describe(path: str) -> str:
    return "a single file" if os.path.isfile(path) else "nothing there"
