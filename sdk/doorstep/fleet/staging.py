"""From content to a bundle on this device: what to fetch, fetching it, and the folder of links that is a release."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.device import Device
from doorstep.errors import IntegrityError, StoreError, TransferError
from doorstep.files import sync_folder
from doorstep.fleet.depot import blob_path, delta_path
from doorstep.fleet.download import Downloader
from doorstep.fleet.release import PACKED_CODECS, Content, Delta, PackedContent, Release, ReleaseFile, total_size
from doorstep.fleet.state import Held
from doorstep.fleet.store import Store
from doorstep.manifest import MAX_MANIFEST_BYTES, FileEntry, Manifest, decode
from doorstep.selection import rank
from doorstep.signing import TrustKey

_LEAST_FREE_BYTES = 16 << 20
_FREE_SHARE = 0.03
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV)


@dataclass(frozen=True, slots=True)
class Staging:
    """How a release is brought into a store.

    Attributes:
        every_variant: fetch every variant this device can use, not only the one it would choose.
        quota_bytes: most that the store may take; 0 for no bound but the disk's.
        trust: the key that must have signed the bundle; None where TUF's signatures are enough.
    """

    store: Store
    downloader: Downloader
    every_variant: bool = False
    quota_bytes: int = 0
    trust: TrustKey | None = None


def stage(staging: Staging, release: Release, is_wanted: Callable[[], bool] = lambda: True) -> Held:
    """Fetch what is missing and make the release's folder; it is verified as a whole before it gets its name.

    Raises:
        TransferError: what is missing cannot be fetched; what was verified is kept for the next try.
        IncompatibleError: no variant fits this device.
        StoreError: quota or disk do not allow it.
        BundleError: the bundle is not what its manifest says, or not signed by the trusted key.
    """
    store = staging.store
    manifest = _manifest(staging, release, is_wanted)
    files = _choose(staging, release, manifest)
    packed = {entry.sha256: entry for entry in manifest.files if entry.packed is not None}
    contents = {file.content.sha256: file.content for file in files}
    deltas = {delta.content.sha256 for delta in release.deltas}
    forms = {form.content.sha256 for form in release.packed}
    store.collect(wanted={*contents, *deltas, *forms})
    missing = [content for content in contents.values() if not _has(store, content)]
    _check_space(staging, missing, release.packed)
    for content in missing:
        _fetch(staging, release, content, is_wanted, packed)
    sync_folder(store.blobs)
    return _link(staging, release, files)


def _manifest(staging: Staging, release: Release, is_wanted: Callable[[], bool]) -> Manifest:
    head = release.content(MANIFEST)
    if head is None or head.size > MAX_MANIFEST_BYTES:
        raise StoreError(f"release {release.id}: its manifest is missing or larger than {MAX_MANIFEST_BYTES} bytes")
    if not _has(staging.store, head):
        _fetch(staging, release, head, is_wanted, {})
    return decode((staging.store.blobs / head.sha256).read_bytes())


def _choose(staging: Staging, release: Release, manifest: Manifest) -> list[ReleaseFile]:
    """Return the files this device needs: the shared ones, and those of the variants it can use."""
    ranking = rank(manifest.variants, Device.detect(), None, lambda variant: True)
    chosen = ranking.usable if staging.every_variant else ranking.usable[:1]
    unneeded = {path for variant in manifest.variants for path in variant.files}
    unneeded -= {path for variant in chosen for path in variant.files}
    _check_agreement(release, manifest)
    return [file for file in release.files if file.path not in unneeded]


def _check_agreement(release: Release, manifest: Manifest) -> None:
    listed = {file.path: file.content for file in release.files if file.path not in (MANIFEST, SIGNATURE)}
    for entry in manifest.files:
        content = listed.pop(entry.path, None)
        if content is None or (content.sha256, content.size) != (entry.sha256, entry.size):
            raise IntegrityError(
                f"release {release.id}: {entry.path} is not as the bundle's manifest has it; publish it again"
            )
    if listed:
        raise IntegrityError(f"release {release.id}: {min(listed)} is not in the bundle's manifest; publish it again")


def _has(store: Store, content: Content) -> bool:
    """Tell whether a blob is there by name and size; its bytes are compared when the release is linked."""
    try:
        status = os.lstat(store.blobs / content.sha256)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == content.size


def _check_space(staging: Staging, missing: list[Content], packed: Sequence[PackedContent]) -> None:
    """Refuse what does not fit: all that is missing, and one packed form beside what it expands to."""
    need = total_size(missing) + max((form.content.size for form in packed), default=0)
    usage = shutil.disk_usage(staging.store.folder)
    free = usage.free - max(_LEAST_FREE_BYTES, int(usage.total * _FREE_SHARE))
    if need > free:
        raise StoreError(f"{staging.store.folder}: {need} bytes are needed, {max(0, free)} are free; make room")
    if staging.quota_bytes and (total := need + staging.store.size()) > staging.quota_bytes:
        raise StoreError(
            f"{staging.store.folder}: would take {total} bytes, the quota is {staging.quota_bytes}; raise it"
        )


def _fetch(
    staging: Staging,
    release: Release,
    content: Content,
    is_wanted: Callable[[], bool],
    packed: Mapping[str, FileEntry],
) -> None:
    """Bring one blob into the store: by a delta where its base is here, else in its packed form, else whole."""
    store = staging.store
    for delta in release.deltas:
        if delta.target == content.sha256 and (store.blobs / delta.base).is_file():
            try:
                _apply(staging, delta, content, is_wanted)
                return
            except (IntegrityError, TransferError, ValueError):
                if not is_wanted():
                    raise
                # The base may have rotted, or the delta be made for another: the whole file needs neither.
    for form in release.packed:
        if form.target == content.sha256 and form.codec in PACKED_CODECS and content.sha256 in packed:
            try:
                _expand(staging, form, packed[content.sha256], content, is_wanted)
                return
            except (IntegrityError, TransferError):
                if not is_wanted():
                    raise
    part = store.parts / content.sha256
    staging.downloader.fetch(content, blob_path(content.sha256), part, is_wanted)
    _keep(store, part, content)


def _apply(staging: Staging, delta: Delta, content: Content, is_wanted: Callable[[], bool]) -> None:
    from doorstep.fleet.delta import decode_delta

    store = staging.store
    packed = store.parts / delta.content.sha256
    part = store.parts / content.sha256
    staging.downloader.fetch(delta.content, delta_path(delta.content.sha256), packed, is_wanted)
    try:
        decode_delta(store.blobs / delta.base, packed, part, content)
        _keep(store, part, content)
    finally:
        packed.unlink(missing_ok=True)


def _expand(
    staging: Staging, form: PackedContent, entry: FileEntry, content: Content, is_wanted: Callable[[], bool]
) -> None:
    from doorstep.sparse import decode

    store = staging.store
    packed, part = store.parts / form.content.sha256, store.parts / content.sha256
    staging.downloader.fetch(form.content, blob_path(form.content.sha256), packed, is_wanted)
    try:
        decode(packed, part, entry)
        _keep(store, part, content)
    finally:
        packed.unlink(missing_ok=True)


def _keep(store: Store, part: Path, content: Content) -> None:
    os.chmod(part, 0o444)
    os.replace(part, store.blobs / content.sha256)


def _link(staging: Staging, release: Release, files: list[ReleaseFile]) -> Held:
    store = staging.store
    aside, final = store.releases / f".{release.id}.tmp", store.releases / release.id
    if aside.exists():
        shutil.rmtree(aside)
    for file in files:
        place = aside / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(store.blobs / file.content.sha256, place)
    for folder, _, _ in os.walk(aside):
        sync_folder(Path(folder))
    try:
        bundle = Bundle.open(aside, trust=staging.trust)
    except IntegrityError:
        _drop_damaged(store, files)
        raise
    if final.exists():  # it was damaged, or staged and never activated
        retired = store.releases / f".{release.id}.old"
        shutil.rmtree(retired, ignore_errors=True)
        os.rename(final, retired)
        os.rename(aside, final)
        shutil.rmtree(retired)
    else:
        os.rename(aside, final)
    sync_folder(store.releases)
    return Held(release.id, release.seq, bundle.manifest.version, release.created)


def _link_or_copy(blob: Path, place: Path) -> None:
    try:
        os.link(blob, place)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(blob, place)
        with open(place, "rb") as file:
            os.fsync(file.fileno())


def _drop_damaged(store: Store, files: list[ReleaseFile]) -> None:
    """Delete the blobs whose bytes are wrong, so that the next try fetches them again."""
    for file in files:
        blob = store.blobs / file.content.sha256
        if not blob.is_file() or blob.is_symlink():
            blob.unlink(missing_ok=True)
            continue
        with open(blob, "rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.content.sha256:
                blob.unlink()
