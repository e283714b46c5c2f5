"""The form without zeros: any bytes come back as they were, and altered ones never do."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from doorstep.bundle import Bundle, seal
from doorstep.errors import FormatError, IntegrityError
from doorstep.manifest import FileEntry, Manifest, Packed, decode, encode
from doorstep.sparse import decode as expand
from doorstep.sparse import encode as shrink
from doorstep.sparse import packed_form

MEBIBYTE = 1 << 20


def zeros_and_others(size: int, share: float, dtype: str, seed: int = 5) -> bytes:
    random = np.random.default_rng(seed)
    width = np.dtype(dtype).itemsize
    values = (random.normal(size=size // width) * 50).astype(dtype)
    values[random.random(len(values)) < share] = 0
    return values.tobytes() + random.bytes(size % width)


def entry_of(path: Path) -> FileEntry:
    data = path.read_bytes()
    return FileEntry("model.bin", len(data), hashlib.sha256(data).hexdigest(), packed_form(path))


@pytest.fixture
def forms(tmp_path: Path) -> tuple[FileEntry, Path]:
    """A file of 80 % zeros as its entry, and its packed form."""
    source = tmp_path / "source"
    source.write_bytes(zeros_and_others(300_001, 0.8, "float32"))
    shrink(source, tmp_path / "packed")
    return entry_of(source), tmp_path / "packed"


@pytest.mark.parametrize("size", [0, 1, 7, 65_537, MEBIBYTE, MEBIBYTE + 3, 3 * MEBIBYTE - 1])
@pytest.mark.parametrize(
    ("share", "dtype"), [(0.9, "float32"), (0.7, "int8"), (0.8, "float16"), (0.0, "float32"), (1.0, "int8")]
)
def test_any_bytes_come_back_as_they_were(size: int, share: float, dtype: str, tmp_path: Path) -> None:
    source, packed, out = tmp_path / "source", tmp_path / "packed", tmp_path / "out"
    source.write_bytes(zeros_and_others(size, share, dtype))
    shrink(source, packed)
    data = packed.read_bytes()
    form = Packed("sparse1", len(data), hashlib.sha256(data).hexdigest())
    expand(packed, out, replace(entry_of(source), packed=form))
    assert out.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(("dtype", "most"), [("float32", 0.25), ("float16", 0.28), ("int8", 0.34)])
def test_four_fifths_of_zeros_shrink_a_file_of_any_width(dtype: str, most: float, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(zeros_and_others(MEBIBYTE, 0.8, dtype))
    form = packed_form(tmp_path / "source")
    assert form is not None and form.size < most * MEBIBYTE
    shrink(tmp_path / "source", tmp_path / "packed")
    assert hashlib.sha256((tmp_path / "packed").read_bytes()).hexdigest() == form.sha256


@pytest.mark.parametrize(("size", "share"), [(1000, 0.9), (MEBIBYTE, 0.1)])
def test_what_would_save_little_has_no_packed_form(size: int, share: float, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(zeros_and_others(size, share, "float32"))
    assert packed_form(tmp_path / "source") is None


ATTACKS: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "one bit of the bitmap": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "one bit of a word": lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:],
    "another width": lambda data: data[:8] + b"\x01" + data[9:],
    "no width": lambda data: data[:8] + b"\x00" + data[9:],
    "another magic": lambda data: b"DSPARSE2" + data[8:],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("is_redeclared", [False, True])
def test_an_altered_form_never_expands_into_other_bytes(
    attack: str, is_redeclared: bool, forms: tuple[FileEntry, Path], tmp_path: Path
) -> None:
    """Neither where its digest tells, nor where somebody declared the altered form with a digest that fits."""
    entry, packed = forms
    altered = ATTACKS[attack](packed.read_bytes())
    packed.write_bytes(altered)
    if is_redeclared:
        entry = replace(entry, packed=Packed("sparse1", len(altered), hashlib.sha256(altered).hexdigest()))
    with pytest.raises(IntegrityError, match=r"model\.bin"):
        expand(packed, tmp_path / "out", entry)


def test_nothing_is_written_before_the_packed_bytes_are_verified(forms: tuple[FileEntry, Path], tmp_path: Path) -> None:
    entry, packed = forms
    packed.write_bytes(packed.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match="altered"):
        expand(packed, tmp_path / "out", entry)
    assert not (tmp_path / "out").exists()


def test_a_form_that_asks_for_more_than_the_file_is_stopped_at_its_size(tmp_path: Path) -> None:
    """A whole mebibyte of set bits, for a file of 100 bytes."""
    data = b"DSPARSE1\x01" + b"\xff" * MEBIBYTE
    (tmp_path / "packed").write_bytes(data)
    entry = FileEntry("model.bin", 100, "0" * 64, Packed("sparse1", len(data), hashlib.sha256(data).hexdigest()))
    with pytest.raises(IntegrityError, match="behind its end"):
        expand(tmp_path / "packed", tmp_path / "out", entry)
    assert (tmp_path / "out").stat().st_size <= 100


def test_nothing_is_written_through_a_link(forms: tuple[FileEntry, Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        expand(forms[1], tmp_path / "out", forms[0])
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def test_a_codec_this_doorstep_does_not_know_is_refused(forms: tuple[FileEntry, Path], tmp_path: Path) -> None:
    entry, packed = forms
    assert entry.packed is not None
    with pytest.raises(IntegrityError, match="codec sparse1, got 'sparse9'"):
        expand(packed, tmp_path / "out", replace(entry, packed=replace(entry.packed, codec="sparse9")))


def test_the_manifest_declares_both_forms_of_a_file_of_zeros(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", files={"zeros.bin": zeros_and_others(200_000, 0.9, "float32")})
    manifest = Bundle.open(folder).manifest
    sealed = seal_again(folder)
    packed = {entry.path: entry.packed for entry in sealed.files if entry.packed is not None}
    assert list(packed) == ["zeros.bin"]
    assert packed["zeros.bin"].size < 40_000
    assert decode(encode(sealed)) == sealed
    assert all(entry.packed is None for entry in manifest.files)


@pytest.mark.parametrize("change", [{"size": 200_000}, {"size": -1}, {"sha256": "?"}])
def test_an_impossible_packed_form_is_refused(
    change: dict[str, object], make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_bundle(tmp_path / "b", files={"zeros.bin": zeros_and_others(200_000, 0.9, "float32")})
    sealed = seal_again(folder)
    files = tuple(
        replace(entry, packed=replace(entry.packed, **change)) if entry.packed else entry for entry in sealed.files
    )
    with pytest.raises(FormatError, match="packed form of no possible"):
        decode(encode(replace(sealed, files=files)))


def seal_again(folder: Path) -> Manifest:
    manifest = Bundle.open(folder).manifest
    (folder / "manifest.json").unlink()
    return seal(folder, manifest, is_packed=True)
