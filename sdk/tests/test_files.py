"""A reader sees the old bytes or the new ones."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doorstep import files
from doorstep.errors import UsageError
from doorstep.files import folder_aside, write_atomic


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_writing_replaces_the_old_file_and_sets_its_mode(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")
    write_atomic(tmp_path / "file", b"new", mode=0o600)
    assert tree(tmp_path) == {"file": "new"}
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from doorstep.files import folder_aside, write_atomic
path = Path(sys.argv[1])
try:
    if sys.argv[2] == "file":
        write_atomic(path, bytes(5000))
    else:
        with folder_aside(path) as aside:
            (aside / "small").write_bytes(b"small")
            (aside / "large").write_bytes(bytes(5000))
except OSError as error:
    print(error.strerror)
"""


def on_a_full_disk(path: Path, kind: str) -> str:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(path), kind], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")
    assert on_a_full_disk(tmp_path / "file", "file") == "File too large"
    assert tree(tmp_path) == {"file": "old"}


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("old")
    assert on_a_full_disk(tmp_path / "folder", "folder") == "File too large"
    assert tree(tmp_path) == {"folder/file": "old"}


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_writer_stopped_at_any_step_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    write_atomic(tmp_path / "file", b"old")

    def stop(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(files.os, step, stop)
    with pytest.raises(type(error)):
        write_atomic(tmp_path / "file", b"new")
    assert tree(tmp_path) == {"file": "old"}


KILLED = """
import os, signal, sys
from pathlib import Path
from doorstep.files import folder_aside
with folder_aside(Path(sys.argv[1])) as aside:
    (aside / "file").write_text("half")
    os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("old", [{}, {"file": "old"}])
def test_a_killed_writer_leaves_the_old_folder(tmp_path: Path, number: int, old: dict[str, str]) -> None:
    final = tmp_path / "folder"
    for name, text in old.items():
        final.mkdir()
        (final / name).write_text(text)
    command = [sys.executable, "-c", KILLED, str(final), str(int(number))]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    assert tree(final) == old


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_while_a_folder_is_written_leaves_the_old_one_and_no_litter(
    tmp_path: Path, error: BaseException
) -> None:
    with folder_aside(tmp_path / "folder") as aside:
        (aside / "file").write_text("old")

    def fail() -> None:
        with folder_aside(tmp_path / "folder") as aside:
            (aside / "file").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert tree(tmp_path) == {"folder/file": "old"}
    assert os.listdir(tmp_path) == ["folder"]


def test_a_new_folder_takes_the_old_ones_place_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with folder_aside(tmp_path / "deep/folder") as aside:
            (aside / name).write_text(name)
    assert tree(tmp_path) == {"deep/folder/new": "new"}
    assert os.listdir(tmp_path / "deep") == ["folder"]


def test_folders_are_exchanged_where_the_system_cannot_swap_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    test_a_new_folder_takes_the_old_ones_place_whole(tmp_path)


def test_a_reader_never_finds_the_folder_missing(tmp_path: Path) -> None:
    final = tmp_path / "folder"

    def write(number: int) -> None:
        with folder_aside(final) as aside:
            (aside / "one").write_text(str(number))
            (aside / "two").write_text(str(number))

    write(0)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [write(number) for number in range(1, 30)])
        seen = set()
        while not writing.done():
            seen.add(final.is_dir())
    writing.result()
    assert seen == {True}
    assert tree(final) == {"one": "29", "two": "29"}


def test_a_folder_written_meanwhile_by_another_is_replaced(tmp_path: Path) -> None:
    with folder_aside(tmp_path / "folder") as slow:
        (slow / "file").write_text("slow")
        with folder_aside(tmp_path / "folder") as quick:
            (quick / "file").write_text("quick")
    assert tree(tmp_path) == {"folder/file": "slow"}


def test_writers_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with folder_aside(tmp_path / "folder") as aside:
            (aside / "one").write_text(str(number))
            (aside / "two").write_text(str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    found = tree(tmp_path)
    assert set(found) == {"folder/one", "folder/two"}
    assert len(set(found.values())) == 1


def test_a_file_in_the_folders_place_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    with (
        pytest.raises(UsageError, match="expected a folder or nothing there, got a file"),
        folder_aside(tmp_path / "precious"),
    ):
        raise AssertionError("not reached")
    assert tree(tmp_path) == {"precious": "precious"}


@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_in_the_folders_place_is_replaced_and_its_target_kept(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("kept")
    (tmp_path / "folder").symlink_to(target)
    with folder_aside(tmp_path / "folder") as aside:
        (aside / "file").write_text("new")
    assert tree(tmp_path) == {"elsewhere/file": "kept", "folder/file": "new"}
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "folder"]
