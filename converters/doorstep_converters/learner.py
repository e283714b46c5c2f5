"""The trainer of students: batches of like length, saves that a kill cannot damage, and a watch over the loss."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from doorstep.errors import ConversionError
from doorstep.files import write_atomic
from doorstep_converters.lessons import Batches
from doorstep_converters.worker import Channel

_WHOLE = "whole.json"  # written last into a save: the digests of its other files
_WEIGHTS = "model.safetensors"


class NotFiniteError(ConversionError):
    """The loss became NaN or infinite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is no number at step {step}")
        self.step = step


class Learner(Trainer):
    """transformers' Trainer with this project's batches; the model's answer holds its loss."""

    def __init__(self, batches: Batches, **options: Any) -> None:
        super().__init__(**options)
        self._batches = batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = DataLoader(self.train_dataset, batch_sampler=self._batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **unused: Any) -> Any:
        answer = model(**inputs)
        loss = answer["loss"]
        if model.training and not torch.isfinite(loss):
            raise NotFiniteError(self.state.global_step + 1)
        return (loss, answer) if return_outputs else loss


class Watch(TrainerCallback):
    """Tells the parent how far training is, and seals every save."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        self._channel.progress(state.global_step / max(1, state.max_steps))

    def on_save(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_atomic(folder / _WHOLE, json.dumps(_digests(folder)).encode())


def newest_save(run: Path) -> Path | None:
    """Return the newest save whose bytes are those that were written; None where there is none.

    Damaged saves are removed: a later one of the same step takes their place.
    """
    for folder in sorted(run.glob("checkpoint-*"), key=_step, reverse=True):
        if _is_whole(folder):
            return folder
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    return None


def best_save(run: Path) -> Path | None:
    """Return the whole save that did best on dev so far, as the newest one remembers it; None where there is none."""
    newest = newest_save(run)
    if newest is None:
        return None
    state = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))
    best = run / Path(state.get("best_model_checkpoint") or newest).name
    return best if _is_whole(best) else newest


def weights_of(save: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a save."""
    from safetensors.torch import load_file

    return load_file(save / _WEIGHTS)


def _step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _is_whole(folder: Path) -> bool:
    try:
        return json.loads((folder / _WHOLE).read_text(encoding="ascii")) == _digests(folder)
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != _WHOLE:
            with open(path, "rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
