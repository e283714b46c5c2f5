"""Environments of the peers: one a requirement list, made under `.cache/bench` and kept until the list changes."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/bench"
_LISTS = Path(__file__).parent / "peers"
_TIMEOUT_S = 1800


class SkippedError(Exception):
    """A peer that cannot be measured here; the message is the reason, one line."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment without pip.

    Attributes:
        python: its interpreter.
        megabytes: what was installed into it, 10⁶ bytes.
    """

    python: Path
    megabytes: float


def environment(name: str, *, has_doorstep: bool = False) -> Environment:
    """Make the environment of `requirements-NAME.txt`, or take the one that is there.

    Args:
        name: which requirement list.
        has_doorstep: install this project's wheel as well, anew each time; an environment of its own.

    Raises:
        SkippedError: something does not install here.
    """
    wanted = _LISTS / f"requirements-{name}.txt"
    folder = CACHE / "environments" / (f"doorstep-{name}" if has_doorstep else name)
    python = folder / "bin/python"
    stamp = folder / "requirements.sha256"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text(encoding="ascii") != digest:
        print(f"  installing {wanted.name} …", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        call([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        _install(python, "--requirement", str(wanted))
        stamp.write_text(digest, encoding="ascii")
    if has_doorstep:
        _install(python, "--no-deps", "--force-reinstall", str(_wheel()))
    return Environment(python, megabytes(folder / "lib"))


def megabytes(path: Path) -> float:
    """Return the size of a file, or of all files under a folder, in 10⁶ bytes."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / 1e6


def call(command: list[str], environ: dict[str, str] | None = None, timeout_s: float = _TIMEOUT_S) -> str:
    """Run a command and return what it printed.

    Raises:
        SkippedError: it failed or took too long; says its last line.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise SkippedError(f"took more than {timeout_s:.0f} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        raise SkippedError(((errors or lines)[-1:] or [f"exit code {done.returncode}"])[0][:200])
    return done.stdout


def _install(python: Path, *what: str) -> None:
    call([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *what])


def _wheel() -> Path:
    folder = CACHE / "wheels"
    shutil.rmtree(folder, ignore_errors=True)
    call([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
          "--wheel-dir", str(folder), str(ROOT)])  # fmt: skip
    return next(folder.glob("doorstep-*.whl"))
