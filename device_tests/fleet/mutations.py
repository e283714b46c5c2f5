"""Bugs put into the fleet's code one at a time, to see that the tests notice: a guarantee whose bug nothing catches is
none. `python -m device_tests.fleet.mutations` prints the table of `sdk/docs/fleet.md`.
"""

import fcntl
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from doorstep.bundle import Bundle
from doorstep.files import sync_folder
from doorstep.fleet import delta, download, floor, slots, staging, store
from doorstep.fleet.state import encode_state, rolled_back

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One bug: what is replaced by what; `every` how densely the sweep must look to meet it."""

    name: str
    patches: Callable[[], list[Patch]]
    every: int = 4

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the bug in."""
        with ExitStack() as stack:
            for thing, name, new in self.patches():
                stack.enter_context(mock.patch.object(thing, name, new))
            yield


def _nothing(*arguments: Any, **options: Any) -> None:
    return None


class _OsWithoutFlush:
    """The os module, but fsync and fdatasync do nothing."""

    def __getattr__(self, name: str) -> Any:
        return _nothing if name in ("fsync", "fdatasync") else getattr(os, name)


def _write_at_once(path: Path, generation: int, body: bytes) -> None:
    head = f"{generation} {slots._digest(generation, body)}\n".encode()
    path.write_bytes(head + body)


def _one_slot(self: slots.Slots, body: bytes) -> None:
    before = slots._read(self._paths[0])
    slots._write(self._paths[0], (before[0] if before else 0) + 1, body)
    sync_folder(self._paths[0].parent)


def _link_before_record(self: store.Store, edit: Any) -> Any:
    with self._locked("state.lock", fcntl.LOCK_EX):
        before = self.state()
        after = edit(before)
        self._point(after)
        if after != before and after.phase != "trial":
            self._slots.save(encode_state(after))
    return after


def _open_lazily(*arguments: Any, **options: Any) -> Bundle:
    return Bundle.open(*arguments, **{**options, "is_lazy": True})


class _LazyBundle:
    open = staticmethod(_open_lazily)


def _every_piece_is_right(self: Any, piece: Any) -> bool:
    return True


def _keep_unflushed(self: Any, *ended: object) -> None:
    os.close(self._handle)


def _copy_into_place(part: Path, blob: Path) -> None:
    blob.write_bytes(part.read_bytes())
    part.unlink()


class _OsThatCopies(_OsWithoutFlush):
    """The os module, but replace copies into place, as a careless mover would."""

    def __getattr__(self, name: str) -> Any:
        return _copy_into_place if name == "replace" else getattr(os, name)


def _deny_damaged(self: store.Store, held: Any, error: Exception) -> None:
    self.change(lambda state: rolled_back(state, held.id, str(error), is_denied=True))


MUTATIONS = (
    Mutation("content is not flushed before it is named", lambda: [(download._Part, "__exit__", _keep_unflushed)]),
    Mutation("the record is written without a flush", lambda: [(slots, "_write", _write_at_once)]),
    Mutation("the record has one slot", lambda: [(slots.Slots, "save", _one_slot)]),
    Mutation("a release's folder is not flushed", lambda: [(staging, "sync_folder", _nothing)]),
    Mutation("a blob is trusted by its name", lambda: [
        (staging, "Bundle", _LazyBundle), (download._Part, "__exit__", _keep_unflushed)
    ]),
    Mutation("content is copied into place, not renamed", lambda: [(staging, "os", _OsThatCopies())]),
    Mutation("the link is turned and the trial not recorded", lambda: [(store.Store, "change", _link_before_record)]),
    Mutation("a release damaged by the disk is denied", lambda: [
        (store.Store, "_note_failure", _deny_damaged), (staging, "sync_folder", _nothing)
    ]),
    Mutation("the floor is not kept", lambda: [(floor.FloorFile, "save", _nothing)]),
    Mutation("what a killed updater wrote aside stays", lambda: [(store.Store, "_tidy", _nothing)], every=2),
    Mutation("unused content is never deleted", lambda: [(store.Store, "collect", _nothing)], every=2),
    Mutation("a delta is not flushed", lambda: [(delta, "os", _OsWithoutFlush())], every=2),
)  # fmt: skip


def main() -> int:
    from device_tests.fleet.sweep import SCENES, fast_folder, sweep

    missed = 0
    for mutation in MUTATIONS:
        failures = 0
        for scene in SCENES:
            with tempfile.TemporaryDirectory(dir=fast_folder()) as folder, mutation.applied():
                swept = sweep(scene, Path(folder) / "world", seeds=2, every=2)
            failures += len(swept.failures)
        missed += not failures
        print(f"| {mutation.name} | {failures} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
