"""What a device installs: no workshop, no tests, less than 3 MB."""

import compileall
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_MOST_BYTES = 3_000_000  # beside the bare engine with its tokenizer


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The device's wheel, unpacked and compiled as pip does it."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)], cwd=ROOT, check=True)
    (wheel,) = out.glob("doorstep-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    assert compileall.compile_dir(out / "site", quiet=1)
    return out / "site"


def test_a_device_installs_the_face_and_the_adapters_only(installed: Path) -> None:
    tops = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert tops == {"doorstep", "doorstep_runtimes"}
    assert not [path for path in installed.rglob("*") if path.name.startswith("test_")]
    assert (installed / "doorstep/py.typed").is_file()


def test_a_device_installs_less_than_3_mb(installed: Path) -> None:
    assert sum(path.stat().st_size for path in installed.rglob("*") if path.is_file()) < _MOST_BYTES


def test_both_distributions_have_one_version() -> None:
    device, workshop = (
        tomllib.loads((ROOT / name).read_text(encoding="utf-8"))["project"]
        for name in ("pyproject.toml", "converters/pyproject.toml")
    )
    version = device["version"]
    assert workshop["version"] == version
    assert device["optional-dependencies"]["convert"] == [f"doorstep-converters=={version}"]
    assert next(name for name in workshop["dependencies"] if name.startswith("doorstep[")).endswith(f"=={version}")
