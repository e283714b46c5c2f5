"""Writing aside and renaming, so that a reader sees the old bytes or the new ones, never half of them."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doorstep.errors import UsageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` so that a crash leaves the old file or the new one.

    Raises:
        OSError: disk full, no permission; the old file is untouched.
    """
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, mode)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def folder_aside(final: Path) -> Iterator[Path]:
    """Yield a new folder beside `final`; on a clean exit it takes `final`'s place in one step.

    An exception, Ctrl-C included, removes the new folder and leaves `final` as it was.

    Raises:
        UsageError: `final` is a file.
    """
    if final.exists() and not final.is_dir():
        raise UsageError(f"{final}: expected a folder or nothing there, got a file; it is left as it is")
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    try:
        os.chmod(aside, 0o755)
        yield aside
        sync_tree(aside)
        _take_place(aside, final)
    finally:
        _remove(aside)
    sync_folder(final.parent)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Flush the names inside `folder` to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _take_place(aside: Path, final: Path) -> None:
    """Rename `aside` to `final`; where `final` exists the two swap, and `aside` then holds the old one."""
    if not os.path.lexists(final):
        try:
            os.rename(aside, final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # somebody else was quicker
                raise
    if _exchange(aside, final):
        return
    retired = final.with_name(f"{aside.name}.old")
    os.rename(final, retired)
    os.rename(aside, final)
    _remove(retired)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically with Linux's renameat2; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code), str(other))
