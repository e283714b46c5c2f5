"""The features a board tells are the features its emulated CPU has."""

from __future__ import annotations

import json

import pytest

from device_tests.boards import Board

pytestmark = pytest.mark.board

# Bit order of AT_HWCAP and AT_HWCAP2: Linux, arch/arm64/include/uapi/asm/hwcap.h, arch/arm/include/uapi/asm/hwcap.h.
_HWCAP = {
    "arm64": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop "
    "sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg",
    "armhf": "swp half thumb 26bit fastmult fpa vfp edsp java iwmmxt crunch thumbee neon vfpv3 vfpv3d16 tls vfpv4 "
    "idiva idivt vfpd32 lpae evtstrm",
}
_HWCAP2 = {
    "arm64": "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 "
    "i8mm bf16 dgh rng bti mte",
    "armhf": "aes pmull sha1 sha2 crc32",
}
_TOLD_BY_KERNEL_ONLY = {"evtstrm", "ssbs"}
_KNOWN_TO_QEMU_ONLY = {"swp", "thumbee"}
_READ_HWCAP = """
import ctypes
libc = ctypes.CDLL(None)
libc.getauxval.argtypes, libc.getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
print([libc.getauxval(16), libc.getauxval(26)])
"""


def test_the_features_told_are_the_features_the_cpu_has(board: Board) -> None:
    first, second = json.loads(board.run(["-c", _READ_HWCAP]).stdout)
    architecture = board.spec.architecture.name
    emulated = _named(first, _HWCAP[architecture]) | _named(second, _HWCAP2[architecture])
    assert emulated - _KNOWN_TO_QEMU_ONLY == set(board.spec.features.split()) - _TOLD_BY_KERNEL_ONLY


def _named(word: int, names: str) -> set[str]:
    return {name for bit, name in enumerate(names.split()) if word >> bit & 1}
