"""The files by which a board's kernel tells what the board is: /proc and /sys, as text."""

from __future__ import annotations

from collections.abc import Mapping

from device_tests.boards.architectures import ARMHF
from device_tests.boards.table import BoardSpec


def kernel_files(spec: BoardSpec) -> Mapping[str, str]:
    """Return path below the system root -> text. Without them the guest would read the host's own files."""
    every_core = f"0-{spec.cores - 1}\n" if spec.cores > 1 else "0\n"
    files = {"proc/cpuinfo": cpuinfo(spec), "proc/meminfo": meminfo(spec)}
    for name in ("online", "possible", "present"):
        files[f"sys/devices/system/cpu/{name}"] = every_core
    for core in range(spec.cores):
        topology = f"sys/devices/system/cpu/cpu{core}/topology"
        files[f"{topology}/core_id"] = f"{core}\n"
        files[f"{topology}/physical_package_id"] = "0\n"
    return files


def cpuinfo(spec: BoardSpec) -> str:
    """Return /proc/cpuinfo, one stanza a core."""
    tail = ""
    if spec.architecture is ARMHF:
        tail = "Hardware\t: Generic DT based system\nRevision\t: 0000\nSerial\t\t: 0000000000000000\n"
    return "".join(_stanza(spec, core) for core in range(spec.cores)) + tail


def meminfo(spec: BoardSpec) -> str:
    """Return /proc/meminfo of a board that has just started: nine tenths of its memory are available."""
    total = spec.memory_mib * 1024
    available = total * 9 // 10
    values = {
        "MemTotal": total,
        "MemFree": available,
        "MemAvailable": available,
        "Buffers": 0,
        "Cached": 0,
        "Active": 0,
        "Inactive": 0,
        "Shmem": 0,
        "Slab": 0,
        "SwapTotal": 0,
        "SwapFree": 0,
    }
    return "".join(f"{name + ':':<16}{kib:>8} kB\n" for name, kib in values.items())


def _stanza(spec: BoardSpec, core: int) -> str:
    is_32bit = spec.architecture is ARMHF
    lines = [f"processor\t: {core}"]
    if is_32bit:
        lines.append(f"model name\t: ARMv7 Processor rev {spec.cpu.revision} (v7l)")
    lines += [
        "BogoMIPS\t: 38.40" if is_32bit else "BogoMIPS\t: 108.00",
        f"Features\t: {spec.features}" + (" " if is_32bit else ""),  # arch/arm prints a space after each flag
        f"CPU implementer\t: 0x{spec.cpu.implementer:02x}",
        f"CPU architecture: {7 if is_32bit else 8}",
        f"CPU variant\t: 0x{spec.cpu.variant:x}",
        f"CPU part\t: 0x{spec.cpu.part:03x}",
        f"CPU revision\t: {spec.cpu.revision}",
    ]
    return "\n".join(lines) + "\n\n"
