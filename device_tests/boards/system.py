"""A board's system root: links into the shared userland, the board's own /proc and /sys, and a `python3.11`.

That `python3.11` is a shell script which starts the guest's Python under qemu and tells it that the script is its
`sys.executable`. So a guest starts another guest as any program does, with no binfmt and in an empty environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from device_tests.boards.errors import RootMissing, find_tool
from device_tests.boards.kernel import kernel_files
from device_tests.boards.table import BoardSpec

STAMP = "root.json"
_LINKS = ("bin", "etc", "lib", "opt", "usr/lib", "usr/local", "usr/share")
_LAUNCHER = """\
#!/bin/sh
top=$(cd "${{0%/*}}/../.." && pwd -P)
exec {qemu} -cpu {cpu} -L "$top" -E DOORSTEP_BOARD={board} -0 "$top/usr/bin/python3.11" \\
    "$top/../../{root}/usr/bin/python3.11" "$@"
"""


def lay_system(spec: BoardSpec, roots: Path) -> Path:
    """Return the board's system root below `roots`, laying it out where it is not there yet.

    Its folder is named by a digest of its contents, so it is never stale and two processes may lay it at once.

    Raises:
        RootMissing: the userland was not built.
        ToolMissing: qemu is not installed.
    """
    if not (roots / spec.architecture.name / STAMP).is_file():
        raise RootMissing(
            f"{spec.name}: expected a userland at {roots / spec.architecture.name}, got none; "
            f"run: python -m device_tests.boards.build {spec.architecture.name} --out {roots}"
        )
    files = {**kernel_files(spec), "usr/bin/python3.11": _launcher(spec)}
    digest = hashlib.sha256(json.dumps([files, _LINKS]).encode()).hexdigest()[:12]
    system = roots.resolve() / "systems" / f"{spec.name}-{digest}"
    if not system.is_dir():
        _lay(files, spec.architecture.name, system)
    return system


def _launcher(spec: BoardSpec) -> str:
    qemu = find_tool(spec.architecture.qemu, "qemu-user-static")
    return _LAUNCHER.format(qemu=qemu, cpu=spec.qemu_cpu, board=spec.name, root=spec.architecture.name)


def _lay(files: dict[str, str], root: str, system: Path) -> None:
    system.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".lay-", dir=system.parent))
    try:
        for name, text in files.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (aside / "usr/bin/python3.11").chmod(0o755)
        for link in _LINKS:
            target = aside / link
            target.symlink_to("../" * (2 + link.count("/")) + f"{root}/{link}")
        aside.chmod(0o755)
        try:
            os.rename(aside, system)
        except OSError:  # another process laid the same system first
            if not system.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
