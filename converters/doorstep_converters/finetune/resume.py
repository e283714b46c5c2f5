"""Which of a run's checkpoints can be gone on from, and which are good."""

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from doorstep_converters.together import is_first

_WEIGHTS = "model.safetensors"
_NAME = re.compile(r"checkpoint-(\d+)")


def last_whole(run: Path) -> Path | None:
    """Return the newest checkpoint of a Trainer's folder that was written to its end; None where there is none.

    Halves that a kill left behind are removed, so that nothing else takes them for whole.
    """
    for folder in _newest_first(run):
        if _is_whole(folder):
            return folder
        _remove(folder)
    return None


def last_good(run: Path) -> Path | None:
    """Return the newest whole checkpoint whose weights are all finite numbers; younger ones are removed."""
    for folder in _newest_first(run):
        if _is_whole(folder) and _is_finite(folder):
            return folder
        _remove(folder)
    return None


def step_of(folder: Path) -> int:
    """Return the training step a checkpoint was written at."""
    return int(folder.name.partition("-")[2])


def _newest_first(run: Path) -> list[Path]:
    if not run.is_dir():
        return []
    found = [path for path in run.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def _remove(folder: Path) -> None:
    if is_first():  # of several processes that train together, one
        shutil.rmtree(folder)


def _is_whole(folder: Path) -> bool:
    """Tell whether everything is there and can be read; the Trainer writes its state last."""
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(folder / _WEIGHTS, framework="pt") as file:
            file.keys()
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.load(folder / name, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, SafetensorError):
        return False
    return True


def _is_finite(folder: Path) -> bool:
    with safe_open(folder / _WEIGHTS, framework="pt") as file:
        return all(bool(torch.isfinite(file.get_tensor(name)).all()) for name in file.keys())  # noqa: SIM118
