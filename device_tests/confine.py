"""Starts a command that the kernel denies something: `python confine.py writes,sockets COMMAND…`.

`writes`: no file is written, made, renamed or removed, by Landlock (landlock(7), Linux 5.13).
`sockets`: the first socket ends the process with SIGSYS, by seccomp (seccomp(2)).
Both hold for every process and thread behind it, and so for what an emulator does on its guest's behalf.

Stands alone: it is sent to boards as text, so it imports the standard library only.
"""

import ctypes
import os
import struct
import sys

NOT_SUPPORTED = 77
"""Exit code where this kernel cannot deny what was asked."""

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # prctl(2)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_WRITE_FILE = 1 << 1
_MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # from the second and third version of Landlock
_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198), "armv7l": (0x40000028, 281)}  # audit arch, number
_LIBC = ctypes.CDLL(None, use_errno=True)


def deny_writes() -> None:
    """Deny this process every change to the file system; writing to /dev/null stays."""
    abi = _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        _give_up("Landlock")
    rights = _WRITE_FILE | _MAKE_AND_REMOVE | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    rules = _LIBC.syscall(_CREATE_RULESET, struct.pack("=Q", rights), ctypes.c_size_t(8), 0)
    null = os.open("/dev/null", os.O_PATH)
    _checked(_LIBC.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", _WRITE_FILE, null), 0))
    _checked(_LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(_LIBC.syscall(_RESTRICT_SELF, rules, 0))
    os.close(null)
    os.close(rules)


def deny_sockets() -> None:
    """End this process at its first socket; pairs of connected ones stay, which reach no network."""
    if os.uname().machine not in _SOCKET:
        _give_up("the number of socket(2)")
    arch, number = _SOCKET[os.uname().machine]
    allow, kill = 0x7FFF0000, 0x80000000
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 4),  # load the architecture
            (0x15, 0, 3, arch),  # another one: allow
            (0x20, 0, 0, 0),  # load the system call's number
            (0x15, 0, 1, number),
            (0x06, 0, 0, kill),
            (0x06, 0, 0, allow),
        )
    )
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(held))
    _checked(_LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(_LIBC.prctl(_SET_SECCOMP, _FILTER, header, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _give_up(missing: str) -> None:
    sys.stderr.write(f"confine: this kernel or machine lacks {missing}\n")
    raise SystemExit(NOT_SUPPORTED)


if __name__ == "__main__":
    for denied in sys.argv[1].split(","):
        {"writes": deny_writes, "sockets": deny_sockets}[denied]()
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 -- no shell is wanted
