"""In which numbers a large model learns: weights and updates are always fp32, matrix products may be bf16."""

from contextlib import AbstractContextManager

import torch

from doorstep.device import Device
from doorstep.errors import UsageError
from doorstep_converters.job import PRECISIONS

_UNITS = frozenset({"avx512_bf16", "amx_bf16"})


def is_bf16(precision: str, on_gpu: bool) -> bool:
    """Say whether matrix products are to be bf16; `auto`: where what computes, the GPU or this CPU, has units for it.

    Raises:
        UsageError: not one of `job.PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r:.40}")
    if precision != "auto":
        return precision == "bf16"
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(Device.detect().features & _UNITS)


def products(device: torch.device, has_bf16: bool) -> AbstractContextManager[object]:
    """Return the context in which a loop of our own computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16)
