"""The boards: facts about each, as its own kernel would tell them.

`features` stand in the kernel's order (arch/arm64/kernel/cpuinfo.c, arch/arm/kernel/setup.c). They and the part
numbers agree with what qemu's CPU model does, which a test checks against the guest's AT_HWCAP.
"""

from __future__ import annotations

from dataclasses import dataclass

from device_tests.boards.architectures import ARM64, ARMHF, Architecture

_ARMV8_CRYPTO = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
_ARMV8_2 = f"{_ARMV8_CRYPTO} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_MAX = (
    "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 sm4 "
    "asimddp sha512 asimdfhm ilrcpc flagm sb paca pacg dcpodp flagm2 frint i8mm bf16 rng bti mte"
)
_ARMV7 = "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"


@dataclass(frozen=True, slots=True)
class CpuId:
    """The main ID register (MIDR), in the fields that the kernel prints."""

    implementer: int
    variant: int
    part: int
    revision: int


@dataclass(frozen=True, slots=True)
class BoardSpec:
    """A kind of board and the qemu CPU model that stands for it."""

    name: str
    architecture: Architecture
    qemu_cpu: str
    cpu: CpuId
    features: str
    """CPU flags, as the line `Features` of /proc/cpuinfo has them."""
    cores: int
    """What /proc/cpuinfo and /sys tell; the host still runs the threads on the cores it has."""
    memory_mib: int
    """What /proc/meminfo tells; told, not enforced (see `Board.run(memory_mib=...)`)."""
    note: str
    """Where such a CPU is found."""


_ARM = 0x41
_SPECS = (
    # SME stays off: qemu 7.2 computes int8 outer products wrongly with it. So does SVE: a text takes minutes with it.
    BoardSpec("arm64-max", ARM64, "max,sme=off,sve=off", CpuId(0x00, 0x0, 0x051, 0), _MAX, 4, 8192,
              "no real chip: all that qemu does well, with dot product, i8mm and bf16"),
    BoardSpec("arm64-neoverse-n1", ARM64, "neoverse-n1", CpuId(_ARM, 0x4, 0xD0C, 1), f"{_ARMV8_2} ssbs", 4, 8192,
              "edge servers; dot product, no i8mm"),
    BoardSpec("arm64-cortex-a76", ARM64, "cortex-a76", CpuId(_ARM, 0x4, 0xD0B, 1), _ARMV8_2, 4, 8192,
              "Raspberry Pi 5, RK3588; dot product, no i8mm"),
    BoardSpec("arm64-cortex-a72", ARM64, "cortex-a72", CpuId(_ARM, 0x0, 0xD08, 3), f"{_ARMV8_CRYPTO} cpuid",
              4, 4096, "Raspberry Pi 4, i.MX 8; no dot product"),
    BoardSpec("arm64-cortex-a53", ARM64, "cortex-a53", CpuId(_ARM, 0x0, 0xD03, 4), f"{_ARMV8_CRYPTO} cpuid",
              4, 1024, "Raspberry Pi 3, i.MX 8M; in-order, no dot product"),
    BoardSpec("armhf-cortex-a7", ARMHF, "cortex-a7", CpuId(_ARM, 0x0, 0xC07, 5), _ARMV7, 4, 1024,
              "Raspberry Pi 2, i.MX 6UL; 32 bits, NEON"),
)  # fmt: skip

BOARDS = {spec.name: spec for spec in _SPECS}
