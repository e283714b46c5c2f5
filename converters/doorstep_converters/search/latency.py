"""Latency on another kind of device: modelled from what is measured here, and labelled so.

One core of the target is taken to be slower than one core here by the ratio of their peak rates of multiply-adds, for
fp32 or int8 as the variant computes. Rates of the targets are cycles per second times lanes of their vector units, for
the slowest CPU of each kind that is common in shops; this machine's rate is measured. A model of one number: good for
an order of magnitude, no promise. `doorstep bench` on the device measures.
"""

import time
from dataclasses import dataclass

import numpy as np

from doorstep.device import Device
from doorstep_converters.targets import find_target


@dataclass(frozen=True, slots=True)
class Core:
    """Peak multiply-adds of one core, in 10^9 a second.

    Attributes:
        fp32: cycles · vector lanes · units; int8: the same with dot-product or widening instructions.
    """

    cpu: str
    fp32: float
    int8: float


_CORES = {
    "arm64": Core("Cortex-A53 at 1.4 GHz: one 64-bit multiply-add unit for fp32, no dot product", 2.8, 5.6),
    "arm64-dotprod": Core("Cortex-A76 at 2.4 GHz: two 128-bit units, dot product", 19.2, 76.8),
    "armv7": Core("Cortex-A7 at 1.2 GHz: one 64-bit unit at half rate", 1.2, 2.4),
    "x86-64": Core("AVX2 at 2.0 GHz: two 256-bit units", 32.0, 64.0),
    "x86-64-vnni": Core("AVX-512 VNNI at 2.0 GHz: one 512-bit unit", 32.0, 128.0),
}
_UNITS = {"x86-64-vnni": frozenset({"avx512_vnni", "avx_vnni"}), "arm64-dotprod": frozenset({"asimddp"})}
_SIZE, _ROUNDS = 256, 20


def is_measured_here(target: str, device: Device) -> bool:
    """Tell whether this machine is of the target's kind: its architecture, and the units that its int8 needs."""
    needed = _UNITS.get(target, frozenset())
    return find_target(target).arch == device.arch and (not needed or bool(needed & device.features))


def factor(target: str, variant: str, here: float) -> float:
    """Return by how much the target is slower than this machine, whose fp32 rate is `here` (10^9 a second).

    This machine's int8 rate is taken as four times its fp32 rate, as with VNNI.
    """
    core = _CORES[target]
    is_int8 = "int8" in variant and "weights" not in variant
    return 4 * here / core.int8 if is_int8 else here / core.fp32


def modelled_on(target: str) -> str:
    """Return the CPU that the target is modelled as."""
    return _CORES[target].cpu


def rate_here() -> float:
    """Measure fp32 multiply-adds of one core here, in 10^9 a second: the best of several products of matrices."""
    rng = np.random.default_rng(0)
    one, other = (rng.standard_normal((_SIZE, _SIZE)).astype(np.float32) for _ in range(2))
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.process_time_ns()
        one @ other
        best = min(best, max(1, time.process_time_ns() - start))
    return _SIZE**3 / best
