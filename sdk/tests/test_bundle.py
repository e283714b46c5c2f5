"""Nothing but the listed bytes gets out of a bundle."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorstep.bundle import MANIFEST, MAX_SHARED_BYTES, SIGNATURE, Bundle, seal
from doorstep.errors import BundleError, FormatError, IntegrityError
from doorstep.manifest import MAX_MANIFEST_BYTES
from doorstep.predictor import Predictor

MODEL = "variants/onnx-fp32/model.onnx"
Damage = Callable[[Path], Any]


def flip(path: Path) -> None:
    """Change one bit and keep the length."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path: Path, target: Path) -> None:
    """Put a link where `path` was; the bytes behind it are the right ones."""
    path.rename(target)
    path.symlink_to(target)


def replace_by(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


SEEN_AT_ONCE: dict[str, Damage] = {
    "a truncated file": lambda folder: os.truncate(folder / MODEL, 10),
    "an empty file": lambda folder: os.truncate(folder / "golden.json", 0),
    "a longer file": lambda folder: (folder / MODEL).open("ab").write(b"x"),
    "an added file": lambda folder: (folder / "added.txt").write_text("hello"),
    "an added hidden file": lambda folder: (folder / ".hidden").write_text("hello"),
    "a file added to a variant": lambda folder: (folder / "variants/onnx-fp32/model.onnx.data").write_text("hello"),
    "a file in an added folder": lambda folder: (folder / "new").mkdir() or (folder / "new/file").touch(),
    "a missing shared file": lambda folder: (folder / "tokenizer.json").unlink(),
    "missing golden examples": lambda folder: (folder / "golden.json").unlink(),
    "a linked file": lambda folder: link(folder / MODEL, folder.parent / "outside"),
    "a file linked inside the bundle": lambda folder: link(folder / MODEL, folder / "variants/onnx-int8/other"),
    "an added link": lambda folder: (folder / "link").symlink_to("/etc/passwd"),
    "a dangling link": lambda folder: (folder / "link").symlink_to("nowhere"),
    "a linked folder": lambda folder: link(folder / "variants", folder.parent / "outside"),
    "a folder linked to itself": lambda folder: (folder / "loop").symlink_to("."),
    "a fifo": lambda folder: os.mkfifo(folder / "pipe"),
    "a fifo in place of a file": lambda folder: replace_by(folder / "golden.json", os.mkfifo),
    "a folder in place of a file": lambda folder: replace_by(folder / "golden.json", Path.mkdir),
    "a linked manifest": lambda folder: link(folder / MANIFEST, folder.parent / "outside"),
    "a too large manifest": lambda folder: (folder / MANIFEST).write_bytes(b" " * (MAX_MANIFEST_BYTES + 1)),
}
SEEN_WHEN_READ: dict[str, Damage] = {
    "an altered model": lambda folder: flip(folder / MODEL),
    "an altered tokenizer": lambda folder: flip(folder / "tokenizer.json"),
}


@pytest.mark.parametrize("damage", SEEN_AT_ONCE.values(), ids=SEEN_AT_ONCE)
@pytest.mark.parametrize("is_lazy", [False, True])
def test_a_damaged_bundle_is_refused(bundle: Path, damage: Damage, is_lazy: bool) -> None:
    damage(bundle)
    with pytest.raises(IntegrityError):
        Bundle.open(bundle, is_lazy=is_lazy)


@pytest.mark.parametrize("damage", SEEN_WHEN_READ.values(), ids=SEEN_WHEN_READ)
def test_an_altered_file_is_refused(bundle: Path, damage: Damage) -> None:
    damage(bundle)
    with pytest.raises(IntegrityError, match=r"expected sha256 .*fetch the bundle again"):
        Bundle.open(bundle)


@pytest.mark.parametrize("damage", [*SEEN_AT_ONCE.values(), *SEEN_WHEN_READ.values()])
def test_a_predictor_never_loads_a_damaged_bundle(bundle: Path, damage: Damage) -> None:
    damage(bundle)
    with pytest.raises(IntegrityError):
        Predictor.load(bundle, variant="onnx-fp32")


@pytest.mark.parametrize("read", [Bundle.file, Bundle.read])
def test_a_file_altered_after_opening_is_refused_when_it_is_first_read(
    bundle: Path, read: Callable[[Bundle, str], Any]
) -> None:
    opened = Bundle.open(bundle, is_lazy=True)
    flip(bundle / "tokenizer.json")
    with pytest.raises(IntegrityError):
        read(opened, "tokenizer.json")


@pytest.mark.parametrize("read", [Bundle.file, Bundle.read])
@pytest.mark.parametrize("swap", [os.mkfifo, lambda path: path.symlink_to("copy"), Path.mkdir])
def test_a_file_swapped_after_opening_is_refused(
    bundle: Path, read: Callable[[Bundle, str], Any], swap: Callable[[Path], Any]
) -> None:
    opened = Bundle.open(bundle, is_lazy=True)
    shutil.copy(bundle / "tokenizer.json", bundle / "copy")
    replace_by(bundle / "tokenizer.json", swap)
    with pytest.raises(IntegrityError):
        read(opened, "tokenizer.json")


@pytest.mark.parametrize("path", ["unlisted", "../outside", MANIFEST, "/etc/passwd", ""])
def test_an_unlisted_path_is_never_read(bundle: Path, path: str) -> None:
    with pytest.raises(IntegrityError, match="not listed"):
        Bundle.open(bundle).read(path)


def test_a_shared_file_too_large_for_memory_is_refused(bundle: Path, rewrite: Callable[..., None]) -> None:
    def enlarge(plain: dict[str, Any]) -> None:
        entry = next(entry for entry in plain["files"] if entry["path"] == "golden.json")
        entry["size"] = MAX_SHARED_BYTES + 1

    rewrite(bundle, enlarge)
    os.truncate(bundle / "golden.json", MAX_SHARED_BYTES + 1)
    with pytest.raises(IntegrityError, match="at most"):
        Bundle.open(bundle, is_lazy=True).read("golden.json")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "got nothing there"),
        (Path.touch, "got a single file; unpack it with: doorstep unpack"),
        (Path.mkdir, "no manifest.json in it"),
        (lambda path: (path / MANIFEST).mkdir(parents=True), "no manifest.json in it"),
        (lambda path: path.mkdir() or os.mkfifo(path / MANIFEST), "no manifest.json in it"),
        (lambda path: path.symlink_to("nowhere"), "got nothing there"),
        (os.mkfifo, "got nothing there"),
    ],
    ids=[
        "nothing",
        "a file",
        "an empty folder",
        "a folder as manifest",
        "a fifo as manifest",
        "a dangling link",
        "a fifo",
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "x")


def test_the_bundle_itself_may_be_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert Bundle.open(tmp_path / "current").manifest.name == "reviews"


def test_the_signature_may_lie_in_the_bundle_unlisted(bundle: Path) -> None:
    assert (bundle / SIGNATURE).is_file()
    assert Bundle.open(bundle).signer is None


def test_a_whole_variant_may_be_absent(bundle: Path) -> None:
    shutil.rmtree(bundle / "variants/onnx-int8")
    opened = Bundle.open(bundle)
    assert [opened.has(variant) for variant in opened.manifest.variants] == [True, False]


def test_half_a_variant_is_refused(tmp_path: Path, make_bundle: Callable[..., Path], make_variant: Any) -> None:
    files = (MODEL, "variants/onnx-fp32/weights")
    folder = make_bundle(
        tmp_path, files={files[1]: b"w"}, variants=(make_variant("onnx-fp32", files=files), make_variant("onnx-int8"))
    )
    (folder / files[1]).unlink()
    with pytest.raises(IntegrityError, match="is missing; fetch the bundle again"):
        Bundle.open(folder)


def test_an_altered_file_of_an_unused_variant_is_refused_by_a_full_check(bundle: Path) -> None:
    shutil.rmtree(bundle / "variants/onnx-int8")
    flip(bundle / MODEL)
    with pytest.raises(IntegrityError):
        Bundle.open(bundle)


def test_the_digest_names_the_manifests_bytes(bundle: Path) -> None:
    before = Bundle.open(bundle).digest
    plain = json.loads((bundle / MANIFEST).read_bytes())
    (bundle / MANIFEST).write_text(json.dumps({**plain, "version": "2"}))
    assert Bundle.open(bundle).digest != before


@pytest.mark.parametrize("name", [".hidden", "a b", "ä", "a\\b"])
def test_sealing_refuses_a_name_no_manifest_may_list(bundle: Path, name: str) -> None:
    manifest = Bundle.open(bundle).manifest
    (bundle / MANIFEST).unlink()
    (bundle / name).touch()
    with pytest.raises(FormatError, match="no plain relative path"):
        seal(bundle, manifest)


def test_sealing_refuses_a_link(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    (bundle / MANIFEST).unlink()
    (bundle / "link").symlink_to("golden.json")
    with pytest.raises(IntegrityError, match="regular file"):
        seal(bundle, manifest)
