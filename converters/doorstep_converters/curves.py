"""TensorBoard's curves: they grow below the user's logs while a stage trains, and a copy stays with its output."""

import shutil
from pathlib import Path

CURVES = "logs"
"""Folder of a stage's output for its curves."""


def make_room(shown: Path, begun: Path, goes_on: bool) -> None:
    """Remove an earlier training's curves from `shown`; those of one that a kill interrupted stay where it goes on.

    Args:
        begun: file that says where the curves of this very training began; it goes with `keep_curves`.
    """
    if goes_on and begun.is_file() and begun.read_text(encoding="utf-8") == str(shown):
        return
    shutil.rmtree(shown, ignore_errors=True)
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.write_text(str(shown), encoding="utf-8")


def keep_curves(shown: Path, output: Path, begun: Path) -> None:
    """Copy the curves of a training that is over into its output."""
    if shown.is_dir() and not (output / CURVES).exists():
        shutil.copytree(shown, output / CURVES)
    begun.unlink(missing_ok=True)


def show_curves(output: Path, shown: Path) -> None:
    """Let `shown` hold the curves that a stage's output has; nothing changes where it has none."""
    kept = output / CURVES
    if kept.is_dir() and _names(kept) != _names(shown):
        shutil.rmtree(shown, ignore_errors=True)
        shutil.copytree(kept, shown)


def _names(folder: Path) -> list[str]:
    """Return the names of the files, which hold time, host and process of their writer."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
