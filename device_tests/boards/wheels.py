"""The wheels of a userland: fetched for the foreign architecture by the host's pip, never built."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from device_tests.boards.architectures import Architecture
from device_tests.boards.commands import run_command
from device_tests.boards.errors import ToolMissing

SITE = Path("usr/local/lib/python3.11/dist-packages")
"""Where Debian's Python looks of itself, also with `-I` and in an empty environment."""
OWN = Path("opt/doorstep")
"""Where the project's own wheel goes, apart, so that it can change without the rest."""

_PYTHON = ("--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none")


def install_wheels(architecture: Architecture, constraints: Path, cache: Path, root: Path) -> None:
    """Install the architecture's wheels into `root`, in the versions that `constraints` pins.

    Raises:
        ToolMissing, BuildFailed
    """
    wheels = cache.resolve() / f"wheels-{architecture.name}"
    options = [f"--constraint={constraints}", *([] if architecture.has_wheel_dependencies else ["--no-deps"])]
    _pip("download", architecture, [f"--dest={wheels}", *options, *architecture.wheels])
    from_cache = ["--no-index", f"--find-links={wheels}"]
    _install(architecture, [*from_cache, *options, *architecture.wheels], root / SITE)
    (root / SITE / "doorstep.pth").write_text("../" * len(SITE.parts) + f"{OWN}\n")


def install_own_wheel(architecture: Architecture, wheel: Path, root: Path) -> None:
    """Install the project's `wheel` into `root` in place of an earlier one; what it depends on is there.

    Raises:
        ToolMissing, BuildFailed
    """
    target = root / OWN
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".own-", dir=target.parent) as aside:
        _install(architecture, ["--no-deps", "--no-index", str(wheel)], Path(aside) / "new")
        if target.exists():
            target.rename(Path(aside) / "old")
        (Path(aside) / "new").rename(target)


def pins(constraints: Path) -> Mapping[str, str]:
    """Return normalized name -> version of each `name==version` line."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", constraints.read_text(), re.MULTILINE)
    return {_normalized(name): version for name, version in found}


def installed(root: Path) -> Mapping[str, str]:
    """Return normalized name -> version of each wheel in `root`."""
    parts = [folder.name.removesuffix(".dist-info").split("-") for folder in (root / SITE).glob("*.dist-info")]
    return {_normalized(name): version for name, version in parts}


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()  # PEP 503


def _install(architecture: Architecture, arguments: Sequence[str], target: Path) -> None:
    _pip("install", architecture, ["--no-compile", f"--target={target}", *arguments])
    shutil.rmtree(target / "bin", ignore_errors=True)  # scripts of the host's Python, of no use to a guest


def _pip(verb: str, architecture: Architecture, arguments: Sequence[str]) -> None:
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        raise ToolMissing(f"pip: expected in {sys.executable}, got none; run: python -m ensurepip")
    run_command(
        [
            *(sys.executable, "-m", "pip", verb, "--only-binary=:all:", *_PYTHON),
            *(f"--platform={platform}" for platform in architecture.platforms),
            *arguments,
        ],
        subject=f"wheels for {architecture.name}",
        remedy="build again when the index answers; a version without a wheel must change in the constraints file",
    )
