"""What this machine is: CPU flags, the cores and the memory it grants this process, the engines installed."""

import functools
import importlib.machinery
import importlib.util
import os
import re
from pathlib import Path
from typing import NamedTuple

from doorstep.session import RUNTIMES

_KNOWN_FEATURES = frozenset(
    [
        "avx",
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "amx_int8",
        "amx_bf16",
        "fma",
        "f16c",
        "asimd",
        "asimddp",
        "asimdhp",
        "fphp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
        "neon",
        "vfpv4",
    ]
)
_MIB = 1 << 20


class Device(NamedTuple):
    """One machine, as seen from this process.

    Attributes:
        arch: `x86_64`, `aarch64`, `armv7l`, …
        cpu: the processor's name, as text.
        features: CPU flags in the kernel's words; those that matter to inference.
        cores: cores that affinity and cgroup grant, at least 1.
        memory_mib: memory this process may still take (MiB); None where the system does not tell.
        engines: distribution name to version, of the engines installed.
    """

    arch: str
    cpu: str
    features: frozenset[str]
    cores: int
    memory_mib: int | None
    engines: dict[str, str]

    @classmethod
    def detect(cls) -> "Device":
        """Read this machine; imports no engine."""
        info = _read(Path("/proc/cpuinfo"))
        return cls(
            arch=_arch(),
            cpu=_field(info, "model name", "Model", "Hardware") or "unknown",
            features=_features(info),
            cores=granted_cores(),
            memory_mib=_memory_mib(),
            engines=installed_engines(),
        )


def granted_cores() -> int:
    """Count the cores this process may use: the smaller of its affinity and its cgroup's quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota, _, period = _read(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    if not period:
        quota = _read(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
        period = _read(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    if quota.strip().isdigit() and period.strip().isdigit() and int(period) > 0:
        cores = min(cores, max(1, int(quota) // int(period)))
    return max(1, cores)


def installed_engines() -> dict[str, str]:
    """Return the version of every engine distribution that can be imported; imports none of them."""
    found = {}
    for runtime in RUNTIMES.values():
        for distribution, module in runtime.distributions.items():
            if spec := importlib.util.find_spec(module):
                found[distribution] = _version(distribution, spec)
    return found


@functools.cache
def parse_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, for comparing: `1.32.0+cpu` gives (1, 32, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z-]", text, maxsplit=1)[0])[:4])


def _version(distribution: str, spec: importlib.machinery.ModuleSpec) -> str:
    """Read the version from the name of the dist-info folder: importlib.metadata would parse a mail header."""
    places = list(spec.submodule_search_locations or [])
    prefix = distribution.replace("-", "_") + "-"
    for place in places:
        for name in os.listdir(os.path.dirname(place)):
            if name.startswith(prefix) and name.endswith(".dist-info"):
                return name[len(prefix) : -len(".dist-info")]
    return "0"


def _arch() -> str:
    machine = os.uname().machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(machine, machine)


def _features(info: str) -> frozenset[str]:
    flags = (_field(info, "flags", "Features") or "").split()
    return frozenset(flags) & _KNOWN_FEATURES


def _memory_mib() -> int | None:
    limits = []
    if match := re.search(r"MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo"))):
        limits.append(int(match[1]) // 1024)
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    used = _read(Path("/sys/fs/cgroup/memory.current")).strip()
    if limit.isdigit():
        limits.append((int(limit) - int(used if used.isdigit() else "0")) // _MIB)
    return max(0, min(limits)) if limits else None


def _field(info: str, *names: str) -> str | None:
    for name in names:
        if match := re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", info, re.MULTILINE):
            return match[1].strip()
    return None


def _read(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MIB)
    except OSError:
        return ""
