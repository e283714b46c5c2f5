"""Names of labels that people read, one file a language: `labels.zh.json`."""

import json
from collections.abc import Iterable
from pathlib import Path

from doorstep.errors import DataError

_MAX_BYTES = 1 << 20


def read_display_names(paths: Iterable[Path]) -> dict[str, dict[str, str]]:
    """Return locale to label to name, of files called `labels.<locale>.json`.

    Raises:
        DataError: unreadable, not such a name, or no object of label to name.
    """
    return {_locale(path): read_names(path) for path in paths}


def read_names(path: Path) -> dict[str, str]:
    """Return label to name.

    Raises:
        DataError: unreadable, or no object of label to name.
    """
    try:
        with open(path, "rb") as file:
            names = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a JSON object of label to name ({error!s:.80})") from error
    if not isinstance(names, dict):
        raise DataError(f"{path}: expected a file like labels.zh.json that maps labels to names")
    return {str(label): str(name) for label, name in names.items()}


def _locale(path: Path) -> str:
    parts = path.name.split(".")
    if len(parts) < 3:
        raise DataError(f"{path}: expected a file like labels.zh.json that maps labels to names")
    return parts[-2]
