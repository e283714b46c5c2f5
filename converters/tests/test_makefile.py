"""What `make` passes on to the command."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUDGET = "size<=2MB, p95<=2ms, drop<=0.5"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def _converts(*given: str) -> list[str]:
    """Return the words of the convert that `make convert` would run."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "BUDGET", "TARGET")}
    done = subprocess.run(
        ["make", "-n", "convert", *given], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    (line,) = (line for line in done.stdout.splitlines() if "/doorstep convert " in line)
    return shlex.split(line)


def test_make_convert_passes_the_budget_on_whole() -> None:
    words = _converts("TARGET=arm64", f"BUDGET={BUDGET}")
    assert words[words.index("--budget") + 1] == BUDGET
    assert words[words.index("--target") + 1] == "arm64"


def test_make_convert_without_a_budget_searches_nothing() -> None:
    assert "--budget" not in _converts("TARGET=arm64")
