"""The search's journal as a file: whether it can be read, and out of the way with it where it cannot."""

import json
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.storages.journal import JournalFileSymlinkLock

from doorstep.errors import DataError

UNREADABLE = (DataError, OptunaError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a damaged journal raises, in its lines or in what they hold."""


def check_lines(journal: Path) -> None:
    """See that every line of a journal is whole; one that is not there yet is.

    Optuna takes a half line at the end for one that is being written, and puts its next record behind it.

    Raises:
        DataError: a line is cut off or no JSON object.
    """
    if not journal.is_file():
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()  # else another process may be in the middle of a line
    try:
        with open(journal, "rb") as file:
            for number, line in enumerate(file, 1):
                if (fault := _fault(line)) is not None:
                    raise DataError(f"line {number}: {fault}")
    finally:
        lock.release()


def set_aside(journal: Path) -> Path:
    """Rename a journal, so that a new one can begin in its place; return where it lies now."""
    number = 1
    while (aside := journal.with_name(f"{journal.name}.damaged-{number}")).exists():
        number += 1
    return journal.rename(aside)


def _fault(line: bytes) -> str | None:
    if not line.endswith(b"\n"):
        return "expected a whole record, got a half one"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"expected JSON ({error!s:.80})"
    return None if isinstance(record, dict) else f"expected a JSON object, got {type(record).__name__}"
