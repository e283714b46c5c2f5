"""The example bundle: made once by the README's own command, unless it is there."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def bundle() -> Path:
    """Return `dist/shopper_intents.bundle`; the first time, `make convert TARGET=arm64` trains and converts it."""
    folder = ROOT / "dist/shopper_intents.bundle"
    if not folder.is_dir():
        subprocess.run(["make", "convert", "TARGET=arm64"], cwd=ROOT, check=True)
    return folder
