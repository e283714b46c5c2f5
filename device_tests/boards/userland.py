"""A Debian userland of a foreign architecture, out of the package sources this machine is configured with."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from device_tests.boards.architectures import Architecture
from device_tests.boards.commands import run_command
from device_tests.boards.errors import BuildFailed, find_tool

# Its own state: nothing counts as installed, so apt resolves the whole closure, and the machine's own state, archives
# and hooks are left alone. `-c` is read after the machine's files, which keeps its sources, keys and proxies.
_APT_CONF = """\
#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{state}";
Dir::State::Lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}";
Dir::Cache::Archives "{state}/archives";
Dir::Log "{state}";
"""
_INSTALLED = re.compile(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", re.MULTILINE)
_ALTERNATIVES = ("blas/libblas.so.3", "lapack/liblapack.so.3")


def unpack_userland(architecture: Architecture, cache: Path, root: Path) -> None:
    """Fetch the architecture's packages into `cache` and unpack them, with all they depend on, into `root`.

    Raises:
        ToolMissing, BuildFailed
    """
    dpkg_deb = find_tool("dpkg-deb", "dpkg")
    for archive in _fetch(architecture, cache.resolve() / f"apt-{architecture.name}"):
        run_command(
            [dpkg_deb, "--extract", str(archive), str(root)],
            subject=archive.name,
            remedy="remove this file and build again",
        )
    _link_alternatives(root)


def _fetch(architecture: Architecture, state: Path) -> list[Path]:
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (state / "apt.conf").write_text(_APT_CONF.format(architecture=architecture.name, state=state))
    apt = [find_tool("apt-get", "apt"), "-c", str(state / "apt.conf"), "-q", "-y"]
    subject = f"Debian packages for {architecture.name}"
    remedy = f"this machine's package sources must hold {architecture.name} with Python 3.11 (Debian 12 does)"
    index_error = _update(apt, subject)
    try:
        plan = run_command([*apt, "-s", "install", *architecture.packages], subject=subject, remedy=remedy)
        run_command([*apt, "install", "--download-only", *architecture.packages], subject=subject, remedy=remedy)
    except BuildFailed as error:
        raise BuildFailed(f"{error}\n{index_error}") from error
    return [_archive(state, *found) for found in _INSTALLED.findall(plan)]


def _update(apt: list[str], subject: str) -> str:
    """Return what went wrong, which stops nothing yet: one stale index of several may still leave enough to resolve."""
    try:
        run_command([*apt, "update"], subject=subject, remedy="going on with the indexes that could be read")
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return str(error)
    return ""


def _archive(state: Path, package: str, version: str, architecture: str) -> Path:
    return state / "archives" / f"{package}_{version.replace(':', '%3a')}_{architecture}.deb"


def _link_alternatives(root: Path) -> None:
    """Make the links that update-alternatives makes on a device: they are no part of any package."""
    for libraries in (root / "usr/lib").glob("*-linux-gnu*"):
        for name in _ALTERNATIVES:
            if (libraries / name).exists():
                (libraries / Path(name).name).symlink_to(name)
