"""What this machine is: CPU flags, the cores and the memory it grants this process, the engines installed."""

import functools
import importlib.machinery
import os
from typing import NamedTuple

from doorstep.session import RUNTIMES, find_module

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
_ARM_PARTS = {
    "0xc07": "Cortex-A7", "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1", "0xd41": "Cortex-A78",
}  # fmt: skip
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
    def detect(cls, root: str = "") -> "Device":
        """Read this machine, whose `proc` and `sys` lie in the folder `root`; imports no engine."""
        info = _fields(_read(f"{root}/proc/cpuinfo"))
        return cls(
            arch=_arch(),
            cpu=_cpu_name(info),
            features=_features(info),
            cores=granted_cores(root),
            memory_mib=_memory_mib(root),
            engines=installed_engines(),
        )


def granted_cores(root: str = "") -> int:
    """Count the cores this process may use: the smallest of its affinity and its cgroups' quotas, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _read(f"{folder}/cpu.max").partition(" ")
        if not period:
            quota, period = _read(f"{folder}/cpu.cfs_quota_us"), _read(f"{folder}/cpu.cfs_period_us")
        if quota.strip().isdecimal() and period.strip().isdecimal() and int(period) > 0:
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def installed_engines() -> dict[str, str]:
    """Return the version of every engine distribution that can be imported; imports none of them."""
    found = {}
    for runtime in RUNTIMES.values():
        for distribution, module in runtime.distributions.items():
            if spec := find_module(module):
                found[distribution] = _version(distribution, spec)
    return found


@functools.cache
def parse_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, for comparing: `1.32.0+cpu` gives (1, 32, 0, 0)."""
    numbers = []
    for part in text.split("."):
        rest = part.lstrip("0123456789")
        if number := part[: len(part) - len(rest)]:
            numbers.append(int(number[:9]))
        if rest:
            break
    return (*numbers, 0, 0, 0, 0)[:4]


def _version(distribution: str, spec: importlib.machinery.ModuleSpec) -> str:
    """Read the version from the name of the metadata's folder: importlib.metadata would parse a mail header.

    Wheels leave `NAME-VERSION.dist-info`, Debian's packages `NAME-VERSION.egg-info`.
    """
    places = list(spec.submodule_search_locations or [])
    prefix = distribution.replace("-", "_") + "-"
    for place in places:
        for name in os.listdir(os.path.dirname(place)):
            if name.startswith(prefix) and name.endswith((".dist-info", ".egg-info")):
                return name[len(prefix) :].rpartition(".")[0].partition("-py")[0]
    return "0"


def _arch() -> str:
    machine = os.uname().machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(machine, machine)


def _cpu_name(info: dict[str, str]) -> str:
    """Return the processor's name; ARM kernels tell a number (`CPU part`) instead of one."""
    part = info.get("CPU part", "")
    name = info.get("model name") or info.get("Model") or info.get("Hardware")
    return name or _ARM_PARTS.get(part, f"ARM {part}" if part else "unknown")


def _features(info: dict[str, str]) -> frozenset[str]:
    return _KNOWN_FEATURES.intersection((info.get("flags") or info.get("Features") or "").split())


def _memory_mib(root: str) -> int | None:
    limits = []
    available = _fields(_read(f"{root}/proc/meminfo")).get("MemAvailable", "").removesuffix(" kB")
    if available.isdecimal():
        limits.append(int(available) // 1024)
    for folder in _cgroups(root, "memory"):
        limit = _number(f"{folder}/memory.max") or _number(f"{folder}/memory.limit_in_bytes")
        if limit:
            used = _number(f"{folder}/memory.current") or _number(f"{folder}/memory.usage_in_bytes")
            # Files read once and not again stay in the cgroup's account until it needs the room.
            cached = _fields(_read(f"{folder}/memory.stat"), " ").get("inactive_file", "")
            limits.append((limit - used + int(cached if cached.isdecimal() else 0)) // _MIB)
    return max(0, min(limits)) if limits else None


def _cgroups(root: str, controller: str) -> list[str]:
    """Return the folders of this process's cgroup and of those around it, of cgroup v2 and of v1's `controller`."""
    folders = []
    for line in _read(f"{root}/proc/self/cgroup").splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = f"{root}/sys/fs/cgroup" + (f"/{controller}" if controllers else "")
        parts = [part for part in path.split("/") if part]
        folders += ["/".join([top, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return folders


def _number(path: str) -> int:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else 0


def _fields(text: str, separator: str = ":") -> dict[str, str]:
    """Return the first value of every name in lines of names and values; no regular expressions, they cost a start."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(separator)
        found.setdefault(name.strip(), value.strip())
    return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MIB)
    except OSError:
        return ""
