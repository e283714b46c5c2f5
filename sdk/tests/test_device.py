"""What a machine says of itself in /proc and /sys."""

import importlib.machinery
import os
import subprocess
import sys
from pathlib import Path

import pytest

from doorstep import device
from doorstep.device import Device, granted_cores, installed_engines
from doorstep.session import RUNTIMES

HOST_CORES = 64
X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Core(TM) i7
flags\t\t: fpu sse avx avx2 fma f16c avx512_vnni constant_tsc

processor\t: 1
model name\t: Intel(R) Core(TM) i7
flags\t\t: fpu sse
"""
ARM64 = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 asimddp asimdhp cpuid
CPU implementer\t: 0x41

Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""
ARM32 = """processor\t: 0
model name\t: ARMv7 Processor rev 4 (v7l)
Features\t: half thumb neon vfpv4 idiva

Hardware\t: BCM2835
"""


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(HOST_CORES)))


def write(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    "info, cpu, features",
    [
        (X86, "Intel(R) Core(TM) i7", {"avx", "avx2", "fma", "f16c", "avx512_vnni"}),
        (ARM64, "Raspberry Pi 5 Model B Rev 1.0", {"asimd", "asimddp", "asimdhp"}),
        (ARM32, "ARMv7 Processor rev 4 (v7l)", {"neon", "vfpv4"}),
        ("", "unknown", set()),
        ("\xff\x00 nonsense : : :\n", "unknown", set()),
    ],
    ids=["x86-64", "arm64", "armv7", "nothing", "nonsense"],
)
def test_the_cpu_is_read_from_cpuinfo(tmp_path: Path, info: str, cpu: str, features: set[str]) -> None:
    found = Device.detect(write(tmp_path, {"proc/cpuinfo": info}))
    assert (found.cpu, found.features) == (cpu, features)


V2 = {"proc/self/cgroup": "0::/\n"}
NESTED = {"proc/self/cgroup": "0::/system.slice/kiosk.service\n"}
V1 = {"proc/self/cgroup": "5:cpuacct,cpu:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/x\n"}
SLICE, SERVICE = "sys/fs/cgroup/system.slice", "sys/fs/cgroup/system.slice/kiosk.service"
CORES: dict[str, tuple[dict[str, str], int]] = {
    "no cgroup": ({}, HOST_CORES),
    "no limit": ({**V2, "sys/fs/cgroup/cpu.max": "max 100000\n"}, HOST_CORES),
    "two cores": ({**V2, "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    "two and a half": ({**V2, "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
    "half a core": ({**V2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "more than there are": ({**V2, "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, HOST_CORES),
    "no sense": ({**V2, "sys/fs/cgroup/cpu.max": "many cores\n"}, HOST_CORES),
    "a period of 0": ({**V2, "sys/fs/cgroup/cpu.max": "100000 0\n"}, HOST_CORES),
    "an empty file": ({**V2, "sys/fs/cgroup/cpu.max": ""}, HOST_CORES),
    "no list of cgroups": ({"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
    "a service": ({**NESTED, f"{SERVICE}/cpu.max": "100000 100000\n", f"{SLICE}/cpu.max": "max 100000\n"}, 1),
    "a service in a smaller slice": (
        {**NESTED, f"{SERVICE}/cpu.max": "400000 100000\n", f"{SLICE}/cpu.max": "300000 100000\n"},
        3,
    ),
    "v1": (
        {**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "v1 without limit": (
        {**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        HOST_CORES,
    ),
    "v1 nested": (
        {
            **V1,
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        1,
    ),
}


@pytest.mark.parametrize("files, cores", CORES.values(), ids=CORES)
def test_the_cgroup_bounds_the_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert granted_cores(write(tmp_path, files)) == cores


def test_affinity_bounds_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: {3})
    assert granted_cores(write(tmp_path, {"sys/fs/cgroup/cpu.max": "400000 100000\n"})) == 1


MIB = 1 << 20
AVAILABLE = {"proc/meminfo": "MemTotal: 9999999 kB\nMemAvailable:    2048000 kB\n"}
GROUP = "sys/fs/cgroup"
MEMORY: dict[str, tuple[dict[str, str], int | None]] = {
    "nothing known": ({}, None),
    "no cgroup": (AVAILABLE, 2000),
    "no limit": ({**AVAILABLE, f"{GROUP}/memory.max": "max\n"}, 2000),
    "a limit": ({**AVAILABLE, f"{GROUP}/memory.max": f"{512 * MIB}\n", f"{GROUP}/memory.current": f"{100 * MIB}"}, 412),
    "a limit above what is free": ({**AVAILABLE, f"{GROUP}/memory.max": f"{9000 * MIB}\n"}, 2000),
    "more used than allowed": ({f"{GROUP}/memory.max": f"{MIB}", f"{GROUP}/memory.current": f"{2 * MIB}"}, 0),
    "full of files read once": (
        {
            **AVAILABLE,
            f"{GROUP}/memory.max": f"{512 * MIB}",
            f"{GROUP}/memory.current": f"{512 * MIB}",
            f"{GROUP}/memory.stat": f"anon {12 * MIB}\ninactive_file {500 * MIB}\nactive_file 0\n",
        },
        500,
    ),
    "a service": ({**NESTED, f"{SERVICE}/memory.max": f"{64 * MIB}", f"{SERVICE}/memory.current": "0"}, 64),
    "v1": (
        {
            **V1,
            f"{GROUP}/memory/memory.limit_in_bytes": f"{64 * MIB}",
            f"{GROUP}/memory/memory.usage_in_bytes": f"{4 * MIB}",
        },
        60,
    ),
    "v1 without limit": ({**V1, **AVAILABLE, f"{GROUP}/memory/memory.limit_in_bytes": "9223372036854771712"}, 2000),
}


@pytest.mark.parametrize("files, mib", MEMORY.values(), ids=MEMORY)
def test_the_memory_left_is_bounded_by_the_cgroup(tmp_path: Path, files: dict[str, str], mib: int | None) -> None:
    assert Device.detect(write(tmp_path, files)).memory_mib == mib


@pytest.mark.parametrize(
    "machine, arch",
    [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("arm64", "aarch64"), ("aarch64", "aarch64"), ("armv8l", "armv7l")],
)
def test_an_architecture_has_one_name(monkeypatch: pytest.MonkeyPatch, machine: str, arch: str) -> None:
    name = os.uname_result(("Linux", "host", "6", "#1", machine))
    monkeypatch.setattr(device.os, "uname", lambda: name)
    assert Device.detect().arch == arch


def test_every_engine_installed_here_is_found_with_its_version() -> None:
    found = installed_engines()
    assert {"onnxruntime", "openvino", "ai-edge-litert"} <= found.keys()
    assert all(int(version.split(".")[0]) > 0 for version in found.values())


@pytest.mark.parametrize("folder", ["numpy-1.24.2.dist-info", "numpy-1.24.2.egg-info", "numpy-1.24.2-py3.11.egg-info"])
def test_the_version_is_read_from_what_a_wheel_or_a_debian_package_leaves(folder: str, tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").touch()
    (tmp_path / folder).mkdir()
    spec = importlib.machinery.PathFinder.find_spec("numpy", [str(tmp_path)])
    assert spec is not None
    assert device._version("numpy", spec) == "1.24.2"


def test_looking_for_engines_imports_none() -> None:
    modules = [name for runtime in RUNTIMES.values() if runtime.extra for name in runtime.distributions.values()]
    program = f"import sys; from doorstep.device import Device; Device.detect(); print({modules} & sys.modules.keys())"
    program = program.replace(str(modules), str(set(modules)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
