"""The single-file form is read as if somebody had made it to do harm."""

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.errors import BundleError, IntegrityError, SignatureError, UsageError
from doorstep.predictor import LoadOptions, Predictor
from doorstep.signing import TrustKey
from doorstep.single_file import pack, unpack

Members = list[tuple[str, bytes]]
TEXT = "arrived in two days, love it"


@pytest.fixture
def packed(bundle: Path, tmp_path: Path) -> Path:
    return pack(bundle, tmp_path / "reviews.zip")


@pytest.fixture
def members(packed: Path) -> Members:
    with zipfile.ZipFile(packed) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write(path: Path, members: Members, **options: Any) -> Path:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, **options)
    return path


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_unpacking_gives_back_what_was_packed(packed: Path, bundle: Path, tmp_path: Path) -> None:
    out = unpack(packed, tmp_path / "out")
    assert everything_below(out) == everything_below(bundle)
    assert Bundle.open(out).digest == Bundle.open(bundle).digest


def test_equal_bundles_give_equal_files(packed: Path, bundle: Path, tmp_path: Path) -> None:
    for path in bundle.rglob("*"):
        os.utime(path, (1, 1))
    assert pack(bundle, tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_an_altered_bundle_is_not_packed_and_the_old_file_stays(packed: Path, bundle: Path) -> None:
    before = packed.read_bytes()
    (bundle / "golden.json").write_text("altered")
    with pytest.raises(IntegrityError):
        pack(bundle, packed)
    assert packed.read_bytes() == before


LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from doorstep.single_file import pack, unpack
try:
    {"pack": pack, "unpack": unpack}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
except OSError as error:
    print(error.strerror)
"""


def on_a_full_disk(verb: str, source: Path, out: Path) -> str:
    command = [sys.executable, "-c", LIMITED, verb, str(source), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_full_disk_while_packing_leaves_the_old_file(packed: Path, bundle: Path, tmp_path: Path) -> None:
    before, names = packed.read_bytes(), everything_below(tmp_path)
    assert on_a_full_disk("pack", bundle, packed) == "File too large"
    assert packed.read_bytes() == before
    assert everything_below(tmp_path) == names


def test_a_full_disk_while_unpacking_leaves_the_old_bundle(packed: Path, bundle: Path, tmp_path: Path) -> None:
    names = everything_below(tmp_path)
    assert on_a_full_disk("unpack", packed, bundle) == "File too large"
    assert everything_below(tmp_path) == names
    Bundle.open(bundle)


def add(name: str, data: bytes = b"x") -> Callable[[Members], Members]:
    return lambda members: [*members, (name, data)]


def without(name: str) -> Callable[[Members], Members]:
    return lambda members: [member for member in members if member[0] != name]


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Members], Members]:
    return lambda members: [(path, edit(data) if path == name else data) for path, data in members]


MODEL = "variants/onnx-fp32/model.onnx"
HARMS: dict[str, Callable[[Members], Members]] = {
    "a name that goes up": add("../outside"),
    "an absolute name": add("/tmp/outside"),
    "a name with a backslash": add("..\\outside"),
    "a name that goes up inside": add("variants/../../outside"),
    "an extra file": add("extra.txt"),
    "an extra hidden file": add(".hidden"),
    "an extra folder": add("folder/", b""),
    "another case of a name": add("GOLDEN.json"),
    "the manifest twice": add(MANIFEST, b"{}"),
    "a file twice": add("golden.json", b"{}"),
    "a file twice alike": lambda members: [*members, members[-1]],
    "no manifest": without(MANIFEST),
    "a missing shared file": without("tokenizer.json"),
    "an altered file": change(MODEL, lambda data: data[:-1] + b"?"),
    "a shorter file": change(MODEL, lambda data: data[:-1]),
    "an empty file": change(MODEL, lambda data: b""),
    "a longer file": change(MODEL, lambda data: data + b"?"),
    "a bomb": change(MODEL, lambda data: bytes(8 << 20)),
    "a bomb in the manifest's place": change(MANIFEST, lambda data: b" " * (8 << 20)),
    "a bomb in the signature's place": change(SIGNATURE, lambda data: b" " * (8 << 20)),
    "no JSON as manifest": change(MANIFEST, lambda data: b"no JSON"),
    "too many names": lambda members: members + [(f"f{number}", b"") for number in range(5000)],
    "nothing": lambda members: [],
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_harmful_archive_is_refused_and_writes_nothing(
    members: Members, tmp_path: Path, harm: Callable[[Members], Members]
) -> None:
    file = write(tmp_path / "harm.zip", harm(members))
    before = everything_below(tmp_path)
    with pytest.raises(BundleError):
        unpack(file, tmp_path / "out")
    assert everything_below(tmp_path) == before
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_harmful_archive_is_never_loaded(
    members: Members, tmp_path: Path, harm: Callable[[Members], Members]
) -> None:
    file = write(tmp_path / "harm.zip", harm(members))
    with pytest.raises(BundleError):
        Predictor.load(file, options=LoadOptions(cache_dir=tmp_path / "cache"))


def test_a_bomb_stops_at_the_first_byte_too_many(members: Members, tmp_path: Path) -> None:
    size = len(dict(members)[MODEL])
    file = write(tmp_path / "bomb.zip", HARMS["a bomb"](members))
    command = [sys.executable, "-c", LIMITED.replace("2000, 2000", f"{size + 5000}, {size + 5000}"), "unpack"]
    done = subprocess.run([*command, str(file), str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert "longer than the manifest says" in done.stderr  # and not: File too large


def lie_about_size(data: bytes, name: str, size: int) -> bytes:
    """Declare another uncompressed size for `name` in the archive's directory."""
    place = data.rindex(name.encode())
    start = data.rindex(b"PK\x01\x02", 0, place)
    return data[: start + 24] + size.to_bytes(4, "little") + data[start + 28 :]


@pytest.mark.parametrize("size", [10**6, 2**32 - 2])
def test_a_declared_size_counts_for_nothing(members: Members, tmp_path: Path, size: int) -> None:
    file = write(tmp_path / "lie.zip", members)
    file.write_bytes(lie_about_size(file.read_bytes(), MODEL, size))
    Bundle.open(unpack(file, tmp_path / "out"))


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("name", [MODEL, MANIFEST])
def test_a_declared_size_that_cuts_a_file_is_refused(members: Members, tmp_path: Path, name: str, size: int) -> None:
    file = write(tmp_path / "lie.zip", members)
    file.write_bytes(lie_about_size(file.read_bytes(), name, size))
    with pytest.raises(BundleError):
        unpack(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_that_declares_the_right_size_is_refused(members: Members, tmp_path: Path) -> None:
    file = write(tmp_path / "lie.zip", HARMS["a bomb"](members))
    file.write_bytes(lie_about_size(file.read_bytes(), MODEL, len(dict(members)[MODEL])))
    with pytest.raises(BundleError):
        unpack(file, tmp_path / "out")


def test_a_link_in_the_archive_is_never_made(members: Members, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            is_link = name == "golden.json"
            info.external_attr = (stat.S_IFLNK if is_link else stat.S_IFREG) << 16
            archive.writestr(info, b"/etc/passwd" if is_link else data)
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "link.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_compressed_otherwise_is_refused(members: Members, tmp_path: Path, method: int) -> None:
    file = write(tmp_path / "other.zip", members, compress_type=method)
    with pytest.raises(IntegrityError, match="deflate"):
        unpack(file, tmp_path / "out")


NO_ARCHIVES: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda path: None,
    "an empty file": Path.touch,
    "text": lambda path: path.write_text("hello"),
    "a folder": Path.mkdir,
    "the end of an archive alone": lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
}


@pytest.mark.parametrize("make", NO_ARCHIVES.values(), ids=NO_ARCHIVES)
def test_what_is_no_archive_is_refused(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "x.zip")
    with pytest.raises(BundleError):
        unpack(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_archive_is_refused(packed: Path, tmp_path: Path, share: float) -> None:
    os.truncate(packed, int(packed.stat().st_size * share))
    with pytest.raises(BundleError):
        unpack(packed, tmp_path / "out")
    with pytest.raises(BundleError):
        Predictor.load(packed, options=LoadOptions(cache_dir=tmp_path / "cache"))


def test_no_damaged_byte_gets_through_or_ends_in_another_error(packed: Path, tmp_path: Path) -> None:
    data, digest = packed.read_bytes(), Bundle.open(unpack(packed, tmp_path / "good")).digest
    chance = random.Random(3)
    for number in range(400):
        damaged = bytearray(data)
        # Half of the damage goes to the directory at the end, where most of the reader's decisions are made.
        first = 0 if number % 2 else len(data) - 900
        for _ in range(chance.choice([1, 1, 2, 8])):
            damaged[chance.randrange(first, len(data))] = chance.randrange(256)
        packed.write_bytes(damaged)
        try:
            got = Bundle.open(unpack(packed, tmp_path / f"out{number}")).digest
        except BundleError:
            got = digest
        assert got == digest


def test_with_a_trust_key_an_archive_must_be_signed_by_it(
    packed: Path, members: Members, keys: Path, trust: TrustKey, tmp_path: Path
) -> None:
    unsigned = write(tmp_path / "unsigned.zip", without(SIGNATURE)(members))
    for file, key in ((packed, TrustKey.load(keys / "theirs.pub")), (unsigned, trust)):
        with pytest.raises(SignatureError):
            unpack(file, tmp_path / "out", trust=key)
    assert Bundle.open(unpack(packed, tmp_path / "out", trust=trust), trust=trust).signer == trust.public


def test_the_signature_is_checked_before_the_manifest_is_read(
    members: Members, trust: TrustKey, tmp_path: Path
) -> None:
    file = write(tmp_path / "harm.zip", HARMS["no JSON as manifest"](members))
    with pytest.raises(SignatureError):
        unpack(file, tmp_path / "out", trust=trust)


def test_unpacking_never_replaces_a_folder_that_is_no_bundle(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").touch()
    with pytest.raises(UsageError, match="got other files; name another"):
        unpack(packed, tmp_path / "photos")
    assert everything_below(tmp_path / "photos") == ["one.jpg"]


def test_unpacking_replaces_an_older_bundle(packed: Path, tmp_path: Path, make_bundle: Callable[..., Path]) -> None:
    out = make_bundle(tmp_path / "out", version="0")
    assert Bundle.open(unpack(packed, out)).manifest.version == "1"


def test_a_predictor_loads_the_single_file(packed: Path, bundle: Path, tmp_path: Path) -> None:
    options = LoadOptions(cache_dir=tmp_path / "cache")
    with Predictor.load(bundle) as plain, Predictor.load(packed, options=options) as single:
        assert single.predict(TEXT) == plain.predict(TEXT)


def test_the_single_file_is_unpacked_once(packed: Path, tmp_path: Path) -> None:
    options = LoadOptions(cache_dir=tmp_path)
    first = Predictor.load(packed, options=options).bundle.folder
    made = (first / MANIFEST).stat().st_ino
    second = Predictor.load(packed, options=options).bundle.folder
    assert (second / MANIFEST).stat().st_ino == made


def test_an_unpacked_copy_cut_short_is_unpacked_again(packed: Path, tmp_path: Path) -> None:
    options = LoadOptions(cache_dir=tmp_path)
    folder = Predictor.load(packed, options=options).bundle.folder
    os.truncate(folder / MODEL, 3)
    Predictor.load(packed, options=options).close()


def test_an_unpacked_copy_altered_is_refused(packed: Path, tmp_path: Path) -> None:
    options = LoadOptions(cache_dir=tmp_path)
    path = Predictor.load(packed, variant="onnx-fp32", options=options).bundle.folder / MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError):
        Predictor.load(packed, variant="onnx-fp32", options=options)


def test_a_signature_added_later_is_seen(packed: Path, members: Members, trust: TrustKey, tmp_path: Path) -> None:
    unsigned = write(tmp_path / "unsigned.zip", without(SIGNATURE)(members))
    Predictor.load(unsigned, options=LoadOptions(cache_dir=tmp_path)).close()
    loaded = Predictor.load(packed, options=LoadOptions(cache_dir=tmp_path, trust=trust))
    assert loaded.bundle.signer == trust.public


def test_a_signature_that_the_key_does_not_fit_is_refused_from_the_cache_too(
    packed: Path, keys: Path, tmp_path: Path
) -> None:
    Predictor.load(packed, options=LoadOptions(cache_dir=tmp_path)).close()
    with pytest.raises(SignatureError):
        Predictor.load(packed, options=LoadOptions(cache_dir=tmp_path, trust=TrustKey.load(keys / "theirs.pub")))


def test_several_loads_at_once_share_the_cache(packed: Path, tmp_path: Path) -> None:
    options = LoadOptions(cache_dir=tmp_path / "cache")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: Predictor.load(packed, options=options).predict(TEXT), range(12)))
    assert answers == answers[:1] * 12


@pytest.mark.parametrize(
    "make",
    [
        lambda path, other: path.symlink_to(other),
        lambda path, other: path.mkdir() or path.chmod(0o777),
    ],
    ids=["a link", "a folder all may write to"],
)
def test_a_temporary_folder_that_others_could_have_made_is_refused(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path, Path], Any]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "other").mkdir()
    make(tmp_path / f"doorstep-{os.getuid()}", tmp_path / "other")
    with pytest.raises(UsageError, match="others can write there"):
        Predictor.load(packed)


def test_the_archive_holds_the_manifest_first(packed: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist()[:2] == [MANIFEST, SIGNATURE]
        manifest = archive.read(MANIFEST)
    assert hashlib.sha256(manifest).hexdigest() == Bundle.open(unpack(packed, packed.parent / "out")).digest
    assert json.loads(manifest)["name"] == "reviews"
