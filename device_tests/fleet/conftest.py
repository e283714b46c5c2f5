"""A world of its own for every test, in memory where the system has a folder there."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_tests.fleet.fault_server import Served, serving
from device_tests.fleet.sweep import fast_folder
from device_tests.fleet.world import World
from doorstep.fleet.kept import Outcome
from doorstep.signing import TRUST_VARIABLE


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in (TRUST_VARIABLE, "DOORSTEP_VARIANT", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fast() -> Iterator[Path]:
    """A folder that costs no disk."""
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def _first_world() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        world = World.make(Path(folder) / "world")
        world.publish(1)
        yield world.folder


@pytest.fixture
def world(_first_world: Path, fast: Path) -> World:
    """A depot with release 1 in it, and no device yet."""
    return World(Path(shutil.copytree(_first_world, fast / "world")))


@pytest.fixture
def served(world: World) -> Iterator[Served]:
    """The depot of `world` on a web server."""
    with serving(world.depot_folder) as server:
        yield server


@pytest.fixture
def web(world: World, served: Served) -> Callable[..., Outcome]:
    """Return a function that lets a device visit the depot over HTTP."""
    return lambda device="kiosk", **changes: world.run(device, **{"depots": (served.address,), **changes})
