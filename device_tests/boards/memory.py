"""How much memory a guest holds, and what kills it when it holds too much.

A limit set on qemu itself does not do: RLIMIT_DATA counts some 160 MiB and RLIMIT_AS some 270 MiB of address space
that qemu reserves, and on reaching them qemu crashes or loops for ever; a guest's own `setrlimit` of the two is
ignored by qemu; a cgroup counts qemu's translated code (20 to 75 MiB). So the guest's resident pages are counted
from outside, and a guest above its limit is killed as the kernel's OOM killer would.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

# Guest memory lies low: from 0x400000 and 0x5500000000 for arm64, in the first 4 GiB for armhf. qemu's own pages lie
# where Linux maps a position-independent program of the host, above 0x550000000000.
_GUEST_END = 1 << 42
_SECONDS_BETWEEN_LOOKS = 0.02


class MemoryWatch:
    """A thread that follows the guests of one process group, and kills them above a limit."""

    def __init__(self, group: int, limit_mib: float) -> None:
        self.peak_mib = 0.0
        self._group = group
        self._limit_mib = limit_mib
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def is_exceeded(self) -> bool:
        return self.peak_mib > self._limit_mib

    def _follow(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            held = sum(guest_rss_mib(pid) for pid in _members(self._group))
            self.peak_mib = max(self.peak_mib, held)
            if self.is_exceeded:
                _kill(self._group)
                return


def guest_rss_mib(pid: int) -> float:
    """Return the resident memory (MiB) of the guest that the qemu process `pid` runs, without qemu's own; 0 if gone."""
    kib = 0
    is_guest = False
    try:
        with open(f"/proc/{pid}/smaps") as lines:
            for line in lines:
                first = line.split(None, 1)[0]
                if first == "Rss:":
                    kib += int(line.split()[1]) if is_guest else 0
                elif not first.endswith(":"):
                    is_guest = int(first.partition("-")[0], 16) < _GUEST_END
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0.0
    return kib / 1024


def _members(group: int) -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _group(entry) == group]


def _group(process: Path) -> int:
    try:
        stat = (process / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(stat.rpartition(")")[2].split()[2])  # proc(5): pid (comm) state ppid pgrp


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
