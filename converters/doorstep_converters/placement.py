"""Where a checkpoint's weights go: onto one GPU or, where they are too big for it, over several, RAM and disk."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from doorstep_converters.export.classifier import load_model
from doorstep_converters.together import processes

_SHARE = 0.8  # of a GPU's memory; the rest is for activations
_FP32 = 4  # bytes of a weight, in whichever numbers the file holds it


def placement(folder: Path, copies: int, gpu_memory: int | None = None) -> str | None:
    """Return `auto`, which spreads layers over all GPUs, where `copies` of the weights exceed one GPU's memory.

    Several processes (`accelerate launch`) hold a whole copy each, so nothing is spread for them.

    Args:
        gpu_memory: bytes of one GPU, 0 where there is none; by default this machine is asked.
    """
    memory = _gpu_memory() if gpu_memory is None else gpu_memory
    if not memory or processes() > 1:
        return None
    return "auto" if copies * _bytes_in_fp32(folder) > _SHARE * memory else None


def load_teacher(
    folder: Path, is_pickle_allowed: bool = False, *, gpu_memory: int | None = None, device_map: Any = None
) -> Any:
    """Load a checkpoint to be asked: on the GPU where there is one, spread where it is too big for one.

    Args:
        gpu_memory: as of `placement`.
        device_map: of accelerate, module to device; by default `placement` chooses.
    """
    spread = device_map or placement(folder, 1, gpu_memory)
    model = load_model(folder, is_pickle_allowed, device_map=spread)
    return model if spread else model.to(feeds_device())


def feeds_device() -> torch.device:
    """Return where feeds go: layers that lie elsewhere fetch theirs themselves, and answers come back to here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: torch.nn.Module) -> torch.device:
    """Return where a model's weights lie, for what it is to be fed with."""
    return next(model.parameters()).device


def _gpu_memory() -> int:
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0


def _bytes_in_fp32(folder: Path) -> int:
    """Return the bytes that a checkpoint takes once loaded; pickles are not opened, their size is taken."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                total += _FP32 * int(torch.Size(file.get_slice(name).get_shape()).numel())
    return total or sum(path.stat().st_size for path in folder.glob("pytorch_model*.bin"))
