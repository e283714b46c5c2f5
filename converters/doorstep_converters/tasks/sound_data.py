"""Recordings in: a table of files with labels or texts, the files beside it, in folders or in ZIP archives."""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.errors import DataError, InputError
from doorstep.files import folder_aside
from doorstep.sound.items import recording_of
from doorstep.sound.wave import write_wave
from doorstep.tensors import Array
from doorstep_converters.data import Records, find_file, read_records

_TABLES = ("index", "metadata", "data")
_FILES = ("file", "file_name", "path", "audio")
_LONGEST = 600.0  # seconds of one recording
_LARGEST = 256 << 20  # bytes of one file in an archive


@dataclass(frozen=True, slots=True)
class SoundData:
    """Rows `{"file": absolute path, "label" or "text": …}` in three splits.

    Attributes:
        name, source, digest: as of a `DataSet`; the digest covers the recordings.
        rate: samples a second of most recordings.
        longest: seconds of the longest.
    """

    name: str
    source: Path
    train: tuple[dict[str, Any], ...]
    dev: tuple[dict[str, Any], ...]
    test: tuple[dict[str, Any], ...]
    digest: str
    rate: int
    longest: float


def read_sounds(source: Path, cache: Path, columns: Sequence[str], flag: str) -> SoundData:
    """Read a table and find every recording; those in archives are unpacked into `cache`.

    Args:
        source: a table, or a folder with `index.csv`, `metadata.csv` or one table a split.
        columns: where the truth stands, the first that is there.
        flag: the option that names another column.

    Raises:
        DataError: no such column, a file that is missing, or one that is no sound; the row is named.
    """
    table = find_file(source, _TABLES) if source.is_dir() else None
    records = read_records(table or source)
    if table is not None:
        records = replace(records, name=source.name.split(".")[0], source=source)
    splits = {"train": records.train, "dev": records.dev, "test": records.test}
    first = next(row for rows in splits.values() for row in rows)
    truth = _column(first, columns, records, f"; name it with {flag}")
    file = _column(first, _FILES, records)
    root = source if source.is_dir() else source.parent
    shelf = _Shelf(root, cache / "sounds" / _archives_digest(root))
    rates: dict[int, int] = {}
    longest, digest = 0.0, hashlib.sha256(records.digest.encode())
    found: dict[str, tuple[dict[str, Any], ...]] = {}
    for split, rows in splits.items():
        kept = []
        for number, row in enumerate(rows, 1):
            path = shelf.find(str(row.get(file) or ""), split, f"{records.source}: {split} row {number}")
            samples, rate = _listen(path, f"{records.source}: {split} row {number}")
            rates[rate] = rates.get(rate, 0) + 1
            longest = max(longest, len(samples) / rate)
            digest.update(hashlib.sha256(path.read_bytes()).digest())
            if not str(row.get(truth) or "").strip():
                raise DataError(f"{records.source}: {split} row {number}: its {truth} is empty")
            kept.append({"file": str(path), "truth": str(row[truth]).strip()})
        found[split] = tuple(kept)
    rate = max(rates, key=lambda rate: rates[rate])
    return SoundData(
        records.name, records.source, found["train"], found["dev"], found["test"], digest.hexdigest(), rate, longest
    )


def probe_sounds(cache: Path, rate: int = 16_000) -> list[dict[str, str]]:
    """Return made-up recordings that every model is asked: silence, tones, noise, a sweep, clicks."""
    folder = cache / "sounds" / f"probes-{rate}"
    if not folder.is_dir():
        with folder_aside(folder) as aside:
            for name, samples in _probes(rate):
                (aside / f"{name}.wav").write_bytes(write_wave(samples, rate))
    return [{"file": str(path.resolve())} for path in sorted(folder.iterdir())]


class _Shelf:
    """Finds a recording beside the table, or in an archive there."""

    def __init__(self, root: Path, unpacked: Path) -> None:
        self._root = root.resolve()
        self._unpacked = unpacked
        self._archives = sorted(root.glob("*.zip"))
        self._known: dict[str, Path] = {}
        if self._archives:
            self._unpack()

    def find(self, name: str, split: str, place: str) -> Path:
        """Return the file called `name` in the table."""
        path = self._known.get(f"{split}/{name}") or self._known.get(name)
        if path is None and name and not self._archives:
            path = self._root / name
        if path is None or not path.is_file():
            raise DataError(f"{place}: no recording {name!r:.80} beside the table or in a ZIP archive there")
        return path

    def _unpack(self) -> None:
        """Give every member a number for a name: what an archive calls it never becomes a path."""
        if not self._unpacked.is_dir():
            with folder_aside(self._unpacked) as aside:
                names = []
                for archive, name, data in self._members():
                    names.append([archive, name])
                    (aside / f"{len(names) - 1:06d}.wav").write_bytes(data)
                (aside / "names.json").write_text(json.dumps(names), encoding="ascii")
        names = json.loads((self._unpacked / "names.json").read_text(encoding="ascii"))
        for number, (archive, name) in enumerate(names):
            path = (self._unpacked / f"{number:06d}.wav").resolve()
            self._known[f"{archive}/{name}"] = path
            self._known.setdefault(name, path)

    def _members(self) -> Iterator[tuple[str, str, bytes]]:
        for archive in self._archives:
            try:
                with zipfile.ZipFile(archive) as opened:
                    for member in opened.infolist():
                        if member.is_dir():
                            continue
                        if member.file_size > _LARGEST:
                            raise DataError(
                                f"{archive}: {member.filename!r:.80} has {member.file_size} bytes, too many"
                            )
                        yield archive.stem, member.filename, opened.read(member)
            except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                raise DataError(f"{archive}: cannot be read ({error!s:.120})") from error


def _archives_digest(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.glob("*.zip")):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:24]


def _listen(path: Path, place: str) -> tuple[Array, int]:
    try:
        samples, rate = recording_of(path, 1, _LONGEST)
    except InputError as error:
        raise DataError(f"{place}: {error}") from error
    return samples, rate


def _column(row: dict[str, Any], names: Sequence[str], records: Records, remedy: str = "") -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise DataError(f"{records.source}: expected a column {names[0]!r}, got {', '.join(row)}{remedy}")
    return found


def _probes(rate: int) -> Iterator[tuple[str, Array]]:
    generator = np.random.default_rng(20261124)
    time = np.arange(rate, dtype=np.float32) / rate  # [samples], one second
    clicks = np.zeros(rate, np.float32)
    clicks[:: rate // 8] = 0.9
    sweep = np.sin(2 * np.pi * (100 * time + 0.5 * (0.4 * rate - 100) * time**2))
    yield "clicks", clicks
    yield "loud-noise", 0.5 * generator.standard_normal(rate)
    yield "low-tone", 0.4 * np.sin(2 * np.pi * 220 * time)
    yield "quiet-noise", 0.01 * generator.standard_normal(rate // 2)
    yield "silence", np.zeros(rate // 2, np.float32)
    yield "sweep", 0.3 * sweep
    yield "two-tones", 0.2 * (np.sin(2 * np.pi * 440 * time) + np.sin(2 * np.pi * 1300 * time))
