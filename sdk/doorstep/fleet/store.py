"""A device's store: content by digest, releases as folders of hard links, and `current`, which apps open.

    lock, state.lock       held by the updater for its life; held for the length of a change
    state.0, state.1       the record, in two flushed slots
    trust/                 metadata and floor
    blobs/SHA256           content, read-only; parts/SHA256 while it is fetched
    releases/ID/           a bundle
    leases/ID              locked by a process that has the release open
    current -> releases/ID follows the record

The record is written before the link is turned. Starting needs no network and looks at no expiry date.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from doorstep.bundle import MANIFEST
from doorstep.errors import BundleError, DoorstepError, FormatError, IntegrityError, StoreError
from doorstep.files import sync_folder
from doorstep.fleet.release import check_product
from doorstep.fleet.slots import Slots
from doorstep.fleet.state import Held, State, decode_state, encode_state, entered, left, rolled_back, this_start

FACTORY = Held("factory", 0, "factory", "")
_Opened = TypeVar("_Opened")


@dataclass(frozen=True, slots=True)
class Booted(Generic[_Opened]):
    """What is served: the release, what the opener made of it, and what was tried before it, with reasons."""

    held: Held
    opened: _Opened
    passed_over: tuple[str, ...] = ()


class Store:
    """One product's store. Made by `Store.open`."""

    def __init__(self, folder: Path, factory: Path) -> None:
        self.folder = folder
        self.factory = factory
        self.blobs = folder / "blobs"
        self.parts = folder / "parts"
        self.releases = folder / "releases"
        self.trust = folder / "trust"
        self.current = folder / "current"
        self._aside = folder / ".current.new"
        self._slots = Slots(folder, "state")

    @classmethod
    def open(cls, root: Path, product: str, factory: Path | None = None) -> "Store":
        """Open the store of `product` below `root`, making it where there is none.

        Args:
            factory: a bundle shipped with the device, the last resort; None for `root`/PRODUCT/factory.
        """
        folder = root / check_product(product)
        store = cls(folder, factory or folder / "factory")
        for place in (folder, store.blobs, store.parts, store.releases, store.trust, folder / "leases"):
            place.mkdir(parents=True, exist_ok=True)
        return store

    def state(self) -> State:
        """Return the record, without waiting; where both slots are damaged, what the disk shows."""
        try:
            body = self._slots.load()
            return State() if body is None else decode_state(body)
        except (IntegrityError, FormatError) as error:
            return self._guess(str(error))

    def change(self, edit: Callable[[State], State]) -> State:
        """Change the record in one step, turn `current` to what it says, and return it."""
        with self._locked("state.lock", fcntl.LOCK_EX):
            before = self.state()
            after = edit(before)
            if after != before:
                self._slots.save(encode_state(after))
            self._point(after)
        return after

    def boot(self, opener: Callable[[Path], _Opened], *, is_counted: bool = True) -> Booted[_Opened]:
        """Open the best release there is: the one on trial or current, else the one before, else the factory's.

        Args:
            opener: opens a bundle's folder; what raises DoorstepError is passed over. A damaged release is noted, so
                that the next update fetches it again; a candidate that cannot be opened is rolled back and denied.
            is_counted: count this process as one that serves; a candidate is denied when three of them died.

        Raises:
            StoreError: nothing here can be opened; the reasons are in the message.
        """
        state = self.state()
        if is_counted and state.candidate is not None:
            start = this_start()
            state = self.change(lambda known: entered(known, start))
        else:
            with suppress(OSError):  # an app that may only read serves what the record says all the same
                self.change(lambda known: known)
        passed_over: list[str] = []
        for held in state.resorts():
            try:
                return Booted(held, opener(self.place(held)), tuple(passed_over))
            except DoorstepError as error:
                passed_over.append(f"{held.id}: {error}")
                self._note_failure(held, error)
        try:
            return Booted(FACTORY, opener(self.factory), tuple(passed_over))
        except BundleError as error:
            reasons = "; ".join(passed_over) or "no release was ever activated"
            raise StoreError(
                f"{self.folder}: nothing to serve ({reasons}; factory: {error}); run: doorstep agent"
            ) from error

    def place(self, held: Held) -> Path:
        """Return a release's folder."""
        return self.factory if held == FACTORY else self.releases / held.id

    def leave(self) -> None:
        """Note that this process proved its release, or ends in order."""
        start = this_start()
        if start in self.state().starts:
            self.change(lambda known: left(known, start))

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Keep other updaters of this store out.

        Raises:
            StoreError: another one is at work.
        """
        with self._locked("lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._tidy()
            self.change(lambda state: state)  # a power cut may have kept the record and lost the turn of the link
            yield

    @contextmanager
    def lease(self, held: Held) -> Iterator[None]:
        """Keep a release's files on the disk while a process has it open."""
        with self._locked(f"leases/{held.id}", fcntl.LOCK_SH):
            yield

    def collect(self, wanted: set[str]) -> None:
        """Delete releases nobody holds, content no release has, and what was left half-made.

        Args:
            wanted: digests of content that the update under way needs.
        """
        held = self.state().held()
        for place in sorted(self.releases.iterdir()):
            if place.name not in held and not self._is_leased(place.name):
                shutil.rmtree(place)
        for lease in sorted((self.folder / "leases").iterdir()):
            if lease.name not in held and not self._is_leased(lease.name):
                lease.unlink(missing_ok=True)
        for part in sorted(self.parts.iterdir()):
            if part.name not in wanted:
                part.unlink()
        for blob in sorted(self.blobs.iterdir()):
            if blob.name not in wanted and blob.lstat().st_nlink == 1:
                blob.unlink()

    def size(self) -> int:
        """Return the bytes the store takes, every file counted once."""
        seen = {}
        for root, _, names in os.walk(self.folder):
            for name in names:
                status = os.lstat(os.path.join(root, name))
                seen[status.st_ino] = status.st_size
        return sum(seen.values())

    def _tidy(self) -> None:
        """Delete what a killed updater had written aside and not renamed."""
        for folder in (self.folder, self.trust, self.trust / "targets"):
            for place in folder.glob(".*.*"):
                if place != self._aside and not place.is_dir():
                    place.unlink(missing_ok=True)
        for place in (self.trust / "metadata").glob("tmp*"):
            place.unlink(missing_ok=True)

    def _note_failure(self, held: Held, error: DoorstepError) -> None:
        is_damaged = isinstance(error, BundleError)

        def edit(state: State) -> State:
            if is_damaged and held.id not in state.damaged:
                state = replace(state, damaged=(*state.damaged, held.id))
            return rolled_back(state, held.id, str(error), is_denied=not is_damaged)

        self.change(edit)

    def _point(self, state: State) -> None:
        """Turn `current` to what is served, unless it is."""
        held = state.serving
        target = f"releases/{held.id}" if held else str(self.factory)
        if held is None and not self.factory.is_dir():
            return
        if self.current.is_symlink() and str(self.current.readlink()) == target:
            return
        self._aside.unlink(missing_ok=True)
        self._aside.symlink_to(target)
        os.replace(self._aside, self.current)
        sync_folder(self.folder)

    def _guess(self, problem: str) -> State:
        """Return a record made from what is on the disk: what `current` points at, else the newest release."""
        found = {}
        for place in self.releases.iterdir():
            number, _, _ = place.name.partition("-")
            if number.isdecimal() and (place / MANIFEST).is_file():
                found[place.name] = Held(place.name, int(number), "", "")
        pointed = self.current.readlink().name if self.current.is_symlink() else ""
        ordered = sorted(found.values(), key=lambda held: (held.id == pointed, held.seq), reverse=True)
        note = f"the record was lost ({problem}) and guessed from the disk"
        return State(
            current=ordered[0] if ordered else None, previous=ordered[1] if len(ordered) > 1 else None, note=note
        )

    def _is_leased(self, name: str) -> bool:
        try:
            handle = os.open(self.folder / "leases" / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    @contextmanager
    def _locked(self, name: str, kind: int) -> Iterator[None]:
        handle = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            try:
                fcntl.flock(handle, kind)
            except BlockingIOError as error:
                raise StoreError(f"{self.folder}: another updater is at work; this one does nothing") from error
            yield
        finally:
            os.close(handle)
