"""What the depot signed, checked: python-tuf for signatures, thresholds, key rotation, expiry and versions, and the
trust floor above it.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from doorstep.errors import TransferError, TrustError
from doorstep.files import sync_folder, write_atomic
from doorstep.fleet.channel import MAX_CHANNEL_BYTES, Channel, decode_channel
from doorstep.fleet.clock import Clock, from_text, to_text
from doorstep.fleet.download import retry_after
from doorstep.fleet.floor import Floor, FloorFile, raise_floor
from doorstep.fleet.release import MAX_RELEASE_BYTES, Release, decode_release
from doorstep.fleet.transport import Transport

_TRIES = 3
_CHUNK = 64 << 10
_KEPT_TARGETS = 16
_CONFIG = UpdaterConfig(
    root_max_length=64 << 10, timestamp_max_length=16 << 10, snapshot_max_length=1 << 20, targets_max_length=8 << 20,
    max_delegations=4,
)  # fmt: skip


class Trust:
    """What this device trusts, kept in `folder`."""

    def __init__(self, folder: Path, root: bytes, clock: Clock) -> None:
        self._folder = folder
        self._root = root
        self._clock = clock
        self.floor_file = FloorFile(folder)

    def refresh(self, mirrors: Sequence[str], transport: Transport) -> "Signed":
        """Fetch what is new, check it, and raise the floor; the first mirror that gives trusted metadata is taken.

        Raises:
            TrustError: metadata is not signed as it must be, expired, or below the floor.
            TransferError: no mirror answers.
        """
        folder = self._folder / "metadata"
        folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "targets").mkdir(exist_ok=True)
        floor = self.floor_file.load()
        problems: list[TrustError | TransferError] = []
        for mirror in mirrors:
            try:
                updater = self._refresh_from(mirror, transport, floor)
                seen = raise_floor(floor, self._seen(updater))
            except (TrustError, TransferError) as error:
                problems.append(error)
                continue
            self._flush(folder)
            if seen != floor:
                self.floor_file.save(seen)
            return Signed(self._folder / "targets", updater, mirror, transport, self._clock)
        raise next((problem for problem in problems if isinstance(problem, TrustError)), problems[0])

    def commit(self, seq: int, created: str) -> None:
        """Never again accept a release below `seq`; `created` is when it was published.

        The time kept is the earlier of that and of this machine's clock, so that neither a publisher's clock in the
        future nor this one's can make everything look expired for ever.
        """
        floor = self.floor_file.load()
        latest = max(floor.latest, min(created, to_text(self._clock.now())))
        if seq > floor.seq or latest > floor.latest:
            self.floor_file.save(replace(floor, seq=max(seq, floor.seq), latest=latest))

    def reference_time(self, floor: Floor) -> datetime:
        """Return this machine's time, or the latest time surely past where the clock is behind it."""
        now = self._clock.now()
        return max(now, from_text(floor.latest)) if floor.latest else now

    def _refresh_from(self, mirror: str, transport: Transport, floor: Floor) -> Updater:
        fetcher = DepotFetcher(transport, self._clock)
        try:
            updater = Updater(
                str(self._folder / "metadata"), f"{mirror.rstrip('/')}/metadata/", fetcher=fetcher, config=_CONFIG,
                bootstrap=self._root,
            )  # fmt: skip
            updater._trusted_set.reference_time = self.reference_time(floor)
            updater.refresh()
        except ExpiredMetadataError as error:
            raise TrustError(
                f"{mirror}: {error}; it may be withheld from this device, or this device's clock may be wrong "
                f"({to_text(self._clock.now())}); what is installed goes on"
            ) from error
        except RepositoryError as error:
            raise TrustError(f"{mirror}: metadata refused: {error!s:.300}") from error
        except DownloadError as error:
            raise TransferError(f"{mirror}: metadata cannot be fetched: {_chain(error)}") from error
        return updater

    def _seen(self, updater: Updater) -> Floor:
        found = updater._trusted_set
        root = found.root
        return Floor(
            root=root.version,
            timestamp=found.timestamp.version,
            snapshot=found.snapshot.version,
            targets=found.targets.version,
            timestamp_keys=_key_set(root, "timestamp"),
            snapshot_keys=_key_set(root, "snapshot"),
        )

    def _flush(self, folder: Path) -> None:
        for place in (folder, folder / "root_history"):
            for entry in os.scandir(place):
                if entry.is_file(follow_symlinks=False):
                    handle = os.open(entry.path, os.O_RDONLY)
                    try:
                        os.fsync(handle)
                    finally:
                        os.close(handle)
            sync_folder(place)
        sync_folder(self._folder)


class Signed:
    """Everything the depot's newest metadata vouches for. Made by `Trust.refresh`."""

    def __init__(self, cache: Path, updater: Updater, mirror: str, transport: Transport, clock: Clock) -> None:
        self._cache = cache
        self._updater = updater
        self._mirror = mirror
        self._fetcher = DepotFetcher(transport, clock)

    def channel(self, product: str, name: str) -> Channel:
        """Return a channel.

        Raises:
            TrustError: no such channel is signed. FormatError: a newer format. TransferError: it cannot be fetched.
        """
        return decode_channel(self.target(f"channels/{product}/{name}.json", MAX_CHANNEL_BYTES))

    def release(self, product: str, seq: int) -> Release:
        """Return a release.

        Raises:
            TrustError: no such release is signed, or it is another one. FormatError, TransferError: as `channel`.
        """
        release = decode_release(self.target(f"releases/{product}/{seq}.json", MAX_RELEASE_BYTES))
        if (release.product, release.seq) != (product, seq):
            raise TrustError(f"release {seq} of {product} says it is {release.seq} of {release.product}")
        return release

    def target(self, path: str, most: int) -> bytes:
        """Return a signed document of at most `most` bytes; what is kept here already is not fetched again.

        Raises:
            TrustError: it is not signed, is larger, or has no sha256. TransferError: it cannot be fetched.
        """
        try:
            info = self._updater.get_targetinfo(path)
        except RepositoryError as error:
            raise TrustError(f"{self._mirror}: metadata refused: {error!s:.300}") from error
        except DownloadError as error:
            raise TransferError(f"{self._mirror}: metadata cannot be fetched: {_chain(error)}") from error
        if info is None:
            raise TrustError(f"{path}: not signed in this depot; is it published there?")
        if info.length > most or "sha256" not in info.hashes:
            raise TrustError(f"{path}: expected at most {most} bytes and a sha256, got {info.length} bytes")
        digest = info.hashes["sha256"]
        kept = self._cache / digest
        data = _read_kept(kept, info.length)
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            folder, slash, name = path.rpartition("/")
            url = f"{self._mirror.rstrip('/')}/targets/{folder}{slash}{digest}.{name}"
            try:
                data = self._fetcher.download_bytes(url, info.length)
                info.verify_length_and_hashes(data)
            except RepositoryError as error:
                raise TrustError(f"{path}: other bytes than the signed ones: {error!s:.200}") from error
            except DownloadError as error:
                raise TransferError(f"{url}: cannot be fetched: {_chain(error)}") from error
            write_atomic(kept, data)
            self._prune(kept)
        return data

    def _prune(self, newest: Path) -> None:
        kept = sorted(self._cache.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in [path for path in kept if path != newest][_KEPT_TARGETS - 1 :]:
            path.unlink(missing_ok=True)


class DepotFetcher(FetcherInterface):
    """python-tuf's port to the network, with retries, and nothing written to temporary files."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Fetch up to `max_length` bytes."""
        for number in range(_TRIES):
            try:
                return self._once(url, max_length)
            except DownloadHTTPError as error:
                if error.status_code < 500 and error.status_code not in (408, 429):
                    raise
                problem: Exception = error
                wait = getattr(error, "wait", None)
            except TransferError as error:
                problem, wait = error, None
            if number + 1 < _TRIES:
                self._clock.sleep(min(wait or 2.0**number, 60.0))
        if isinstance(problem, DownloadError):
            raise problem
        raise DownloadError(str(problem)) from problem

    def _once(self, url: str, most: int) -> bytes:
        reply = self._transport.get(url)
        try:
            if reply.status != 200:
                error = DownloadHTTPError(f"{url}: answered {reply.status}", reply.status)
                error.wait = retry_after(reply)  # type: ignore[attr-defined]
                raise error
            data = bytearray()
            while chunk := reply.read(_CHUNK):
                data += chunk
                if len(data) > most:
                    raise DownloadLengthMismatchError(f"{url}: expected at most {most} bytes, got more")
            length = reply.headers.get("Content-Length")
            if length is not None and length.isdecimal() and len(data) < int(length):
                raise TransferError(f"{url}: ended after {len(data)} of {length} bytes")
            return bytes(data)
        finally:
            reply.close()

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, _CONFIG.targets_max_length)


def _read_kept(path: Path, length: int) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        return file.read(length + 1)


def _key_set(root: Any, role: str) -> str:
    found = root.roles[role]
    return hashlib.sha256(f"{found.threshold} {' '.join(sorted(found.keyids))}".encode()).hexdigest()[:32]


def _chain(error: BaseException) -> str:
    """Return the innermost reason: python-tuf wraps what its port raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{error!s:.300}"
