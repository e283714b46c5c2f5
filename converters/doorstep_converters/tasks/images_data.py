"""Labelled pictures in: a table with a column of files, a ZIP beside it or not, or one folder a class."""

import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from doorstep.errors import DataError
from doorstep.files import folder_aside
from doorstep.tasks.picture_items import MAX_BYTES
from doorstep_converters.data import SPLIT_NAMES, SPLITS, Columns, column_of, find_file, records_of, split_by_hash

_FILE_COLUMNS = ("file", "path", "image", "picture", "filename")
_LABEL_COLUMNS = ("label", "class", "category", "target")
_TABLES = ("labels", "metadata", "images", "data")
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class PictureData:
    """Paths and labels, in three splits that share no picture.

    Attributes:
        name, source, digest: as of a `DataSet`; the digest covers the pictures' bytes.
        train, dev, test: `[path, label]` each.
    """

    name: str
    source: Path
    labels: tuple[str, ...]
    train: tuple[tuple[str, str], ...]
    dev: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]
    digest: str


@dataclass(frozen=True, slots=True)
class _Row:
    path: Path
    label: str
    split: str
    digest: str


def read_pictures(source: Path, columns: Columns, cache: Path) -> PictureData:
    """Read labelled pictures.

    `source` is a table (CSV, TSV, JSON lines) with a column of files, which lie beside it or in the only ZIP there; a
    folder with such a table called labels, metadata, images or data; a folder of class folders, perhaps below `train`,
    `dev` and `test`. Without splits, one in ten is held out for dev and for test each, by the hash of its bytes.

    Args:
        cache: pictures of a ZIP are unpacked below it, once.

    Raises:
        DataError: missing, no pictures, one class, a picture that is not there, or too large.
    """
    table = find_file(source, _TABLES) if source.is_dir() else source
    found = list(_folders(source) if table is None else _rows(table, columns, cache))
    counts = Counter(row.label for row in found)
    if len(counts) < 2:
        named = ", ".join(counts) or "no class"
        raise DataError(f"{source}: expected pictures of two or more classes, got {len(found)} of {named}")
    parts = _parts(_distinct(found))
    names = list(counts)
    labels = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    plain = sorted((row.split, row.label, row.digest) for row in found)
    digest = hashlib.sha256(repr(plain).encode()).hexdigest()
    train, dev, test = (tuple((str(row.path), row.label) for row in parts[split]) for split in SPLITS)
    return PictureData(source.name.split(".")[0] or "pictures", source, tuple(labels), train, dev, test, digest)


def _folders(source: Path) -> Iterator[_Row]:
    """Yield pictures by the folder they lie in."""
    splits = {path.name: path for path in sorted(source.iterdir()) if path.is_dir()}
    named = {SPLIT_NAMES.get(name, name): path for name, path in splits.items()}
    roots = {split: named[split] for split in SPLITS if split in named} if "train" in named else {"": source}
    for split, root in roots.items():
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in _ENDINGS:
                    yield _row(path, folder.name, split)


def _rows(table: Path, columns: Columns, cache: Path) -> Iterator[_Row]:
    if not table.is_file():
        raise DataError(f"{table}: no such file or folder")
    records = list(records_of(table))
    if not records or len(records) > _MOST:
        raise DataError(f"{table}: expected 1 to {_MOST} rows, got {len(records)}")
    file = column_of(records[0], columns.file, _FILE_COLUMNS, "file", table)
    label = column_of(records[0], columns.label, _LABEL_COLUMNS, "label", table)
    root = _root(table, [str(record.get(file) or "") for record in records], cache)
    for number, record in enumerate(records, 1):
        name, named = str(record.get(file) or ""), str(record.get(columns.split) or "")
        split = SPLIT_NAMES.get(named, named)
        if not name or record.get(label) in (None, "") or (split and split not in SPLITS):
            raise DataError(f"{table}: row {number}: expected a file, a label and a split train, dev or test or none")
        yield _row(root / name, str(record[label]).strip(), split)


def _root(table: Path, names: Sequence[str], cache: Path) -> Path:
    """Return the folder that the names are relative to; of a ZIP, where it was unpacked."""
    zips = sorted(table.parent.glob("*.zip"))
    if len(zips) != 1 or (table.parent / names[0]).is_file():
        return table.parent
    with open(zips[0], "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update("\n".join(names).encode(errors="surrogatepass"))
    folder = cache.resolve() / "pictures" / digest.hexdigest()[:24]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder_aside(folder) as aside:
            _unpack(zips[0], names, aside)
    return folder


def _unpack(source: Path, names: Sequence[str], folder: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            for name in dict.fromkeys(names):
                target = (folder / name).resolve()
                if not target.is_relative_to(folder.resolve()) or archive.getinfo(name).file_size > MAX_BYTES:
                    raise DataError(f"{source}: {name!r:.100}: expected a path inside, and at most {MAX_BYTES} bytes")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as member:
                    target.write_bytes(member.read(MAX_BYTES))
    except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{source}: cannot be unpacked ({error!s:.150})") from error


def _row(path: Path, label: str, split: str) -> _Row:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: expected at most {MAX_BYTES} bytes")
        return _Row(path.resolve(), label, split, hashlib.sha256(path.read_bytes()).hexdigest())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error!s:.100})") from error


def _distinct(rows: Sequence[_Row]) -> list[_Row]:
    """Drop repeated pictures; the held-out split keeps its copy, so that nothing is trained on what is tested."""
    rank = {"test": 0, "dev": 1, "": 2, "train": 3}
    kept: dict[str, _Row] = {}
    for row in sorted(rows, key=lambda row: rank[row.split]):
        kept.setdefault(row.digest, row)
    return [row for row in rows if kept[row.digest] is row]


def _parts(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
    parts: dict[str, list[_Row]] = {split: [] for split in SPLITS}
    has_splits = any(row.split for row in rows)
    for row in rows:
        parts[row.split or ("train" if has_splits else split_by_hash(row.digest))].append(row)
    if has_splits and not parts["dev"]:
        train, parts["train"] = parts["train"], []
        for row in train:
            parts["dev" if split_by_hash(row.digest) == "dev" else "train"].append(row)
    return parts
