"""A disk that can lose power after any operation: records an action once, and yields every state it may leave.

The model is strict, as POSIX allows: a file's bytes are safe once fsync was called on it after they were written, and
a name is safe once fsync was called on its folder. Before and after every operation of the action, these states are
taken: the process was killed (all that was done is there); the power went and unsafe bytes are gone, names are not;
unsafe names are gone, too; and, for every seed, a mixture of old, new, torn and empty.

As in CrashMonkey (Mohan et al., OSDI 2018) and Pebble's strict in-memory file system. It is a model: no real file
system was cut off.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

_CHANGES = (
    "replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "fsync", "fdatasync", "pwrite",
    "ftruncate", "open",
)  # fmt: skip
KILLED, LOST_DATA, LOST_NAMES = "killed", "lost data", "lost names"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder: what it is, and its inode's number or a link's target."""

    kind: str
    node: int = 0
    target: str = ""


Names = dict[str, Entry]


@dataclass(slots=True)
class Tree:
    """A file system: every folder's names, every file's bytes, by inode."""

    folders: dict[int, Names] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    root: int = 0

    def digest(self) -> str:
        """Return what two trees that look alike have in common."""
        digest = hashlib.sha256()
        for path, entry in self.walk():
            what = _digest(self.files.get(entry.node, b"")) if entry.kind == "file" else entry.target
            digest.update(f"{path}\0{entry.kind}\0{what}\n".encode())
        return digest.hexdigest()

    def walk(self) -> Iterator[tuple[str, Entry]]:
        """Yield every path below the root, folders before what is in them."""
        pending = [("", self.root)]
        while pending:
            prefix, node = pending.pop()
            for name, entry in sorted(self.folders.get(node, {}).items()):
                yield prefix + name, entry
                if entry.kind == "folder":
                    pending.append((f"{prefix}{name}/", entry.node))

    def write(self, place: Path) -> None:
        """Make this tree below `place`; names of one inode become hard links."""
        place.mkdir(parents=True)
        first: dict[int, Path] = {}
        for path, entry in self.walk():
            made = place / path
            if entry.kind == "folder":
                made.mkdir()
            elif entry.kind == "link":
                made.symlink_to(entry.target)
            elif entry.node in first:
                made.hardlink_to(first[entry.node])
            else:
                made.write_bytes(self.files.get(entry.node, b""))
                first[entry.node] = made


@dataclass(frozen=True, slots=True)
class Crash:
    """One state that the action may leave: after how many operations, which one, how it was interrupted."""

    point: int
    operation: str
    mode: str
    tree: Tree


class Disk:
    """Watches what happens below `root`; everything there before counts as safe."""

    def __init__(self, root: Path, seeds: int) -> None:
        self._root = root
        self._seeds = seeds
        self._safe = _look(root)
        self._seen: set[str] = set()
        self.crashes: list[Crash] = []
        self.points = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Record every operation inside."""
        with ExitStack() as patches:
            for name in _CHANGES:
                patches.enter_context(mock.patch.object(os, name, self._wrap(name, getattr(os, name))))
            yield
        self._take("end")

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & (os.O_CREAT | os.O_TRUNC):
                return real(*arguments, **options)
            self.points += 1
            self._take(name)
            result = real(*arguments, **options)
            if name in ("fsync", "fdatasync"):
                self._make_safe(arguments[0])
            if name == "open":
                self._note_new(result)
                self._take(name)  # what is written next goes by no operation that is seen
            return result

        return call

    def _take(self, operation: str) -> None:
        now = _look(self._root)
        found = {KILLED: now, LOST_DATA: _without_data(now, self._safe), LOST_NAMES: _without_names(self._safe)}
        for seed in range(self._seeds):
            found[f"seed {seed}"] = _mixed(now, self._safe, random.Random(f"{seed} {self.points}"))  # noqa: S311
        for mode, tree in found.items():
            digest = tree.digest()
            if digest not in self._seen:
                self._seen.add(digest)
                self.crashes.append(Crash(self.points, operation, mode, tree))

    def _make_safe(self, handle: int) -> None:
        place = Path(f"/proc/self/fd/{handle}").readlink()
        if not place.is_relative_to(self._root):
            return
        node = os.fstat(handle).st_ino
        if place.is_dir():
            self._safe.folders[node] = _names(place)
        else:
            self._safe.files[node] = Path(f"/proc/self/fd/{handle}").read_bytes()

    def _note_new(self, handle: int) -> None:
        """Forget what an inode's number meant before it was used again."""
        status = os.fstat(handle)
        if status.st_size == 0 and status.st_nlink == 1 and status.st_ino not in _nodes(self._safe):
            self._safe.files.pop(status.st_ino, None)


@lru_cache(maxsize=4096)
def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _look(root: Path) -> Tree:
    tree = Tree(root=root.stat().st_ino)
    pending = [root]
    while pending:
        folder = pending.pop()
        names = _names(folder)
        tree.folders[folder.stat().st_ino] = names
        for name, entry in names.items():
            if entry.kind == "folder":
                pending.append(folder / name)
            elif entry.kind == "file" and entry.node not in tree.files:
                tree.files[entry.node] = _bytes_of(f"{folder}/{name}")
    return tree


_KNOWN: dict[tuple[int, int, int, int], bytes] = {}


def _bytes_of(path: str) -> bytes:
    """Return a file's bytes; read again only when inode, size or times have changed."""
    status = Path(path).stat()
    key = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _KNOWN:
        with open(path, "rb") as file:
            _KNOWN[key] = file.read()
    return _KNOWN[key]


def _names(folder: Path) -> Names:
    found: Names = {}
    for entry in os.scandir(folder):
        if entry.is_symlink():
            found[entry.name] = Entry("link", target=str(Path(entry.path).readlink()))
        else:
            found[entry.name] = Entry("folder" if entry.is_dir() else "file", entry.inode())
    return found


def _nodes(tree: Tree) -> set[int]:
    return {entry.node for _, entry in tree.walk() if entry.kind == "file"}


def _without_data(now: Tree, safe: Tree) -> Tree:
    """All names, and of each file only what is safe; a file never flushed is empty."""
    files = {node: data if safe.files.get(node) == data else b"" for node, data in now.files.items()}
    return Tree(now.folders, files, now.root)


def _without_names(safe: Tree) -> Tree:
    """Only safe names, and of each file only what is safe."""
    return Tree(dict(safe.folders), dict(safe.files), safe.root)


def _mixed(now: Tree, safe: Tree, chance: random.Random) -> Tree:
    """For every unsafe name and every unsafe file, one of the states it may be in."""
    folders = {}
    for node in now.folders.keys() | safe.folders.keys():
        new, old = now.folders.get(node, {}), safe.folders.get(node, {})
        names = {}
        for name in sorted(new.keys() | old.keys()):
            chosen = (new if new.get(name) == old.get(name) or chance.random() < 0.5 else old).get(name)
            if chosen is not None:
                names[name] = chosen
        folders[node] = names
    files = {}
    for node in sorted(now.files.keys() | safe.files.keys()):
        data, kept = now.files.get(node, b""), safe.files.get(node, b"")
        torn = data[: chance.randrange(len(data) + 1)] + bytes(chance.randrange(64))
        files[node] = data if node in now.files and data == kept else chance.choice([kept, data, torn, b""])
    return Tree(folders, files, now.root)
