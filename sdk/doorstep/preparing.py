"""Items to rows, where a wrong item shall cost its own answer alone and be named by its place."""

from typing import Any

from doorstep.errors import InputError, UsageError
from doorstep.tasks import Task

RAISE, RETURN = "raise", "return"


def check_on_error(on_error: str) -> None:
    """Refuse another word than `raise` or `return`.

    Raises:
        UsageError: it is one.
    """
    if on_error not in (RAISE, RETURN):
        raise UsageError(f"on_error: expected raise or return, got {on_error!r}")


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch of nothing.

    Raises:
        UsageError: it is smaller than 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size: expected at least 1, got {batch_size}")


def prepared(task: Task, items: list[Any], on_error: str, first: int = 0) -> list[Any]:
    """Prepare items; with `return`, a wrong one becomes its error.

    Args:
        first: place of the first item among all that are answered, for errors.

    Raises:
        InputError: an item is wrong, with `raise`; its place is named.
    """
    try:
        return list(task.prepare(items))
    except InputError:
        if on_error == RAISE and first == 0:
            raise
    rows: list[Any] = []
    for place, item in enumerate(items, first):
        try:
            rows += task.prepare((item,))
        except InputError as error:
            named = InputError(str(error).replace("item 0", f"item {place}", 1))
            if on_error == RAISE:
                raise named from error
            rows.append(named)
    return rows
