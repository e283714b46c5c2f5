"""Where the suite runs: `--device local`, `board:arm64-cortex-a72`, `ssh://kiosk-17`; several may be named."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from device_tests.places import Place, open_place

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bundle", type=Path, default=ROOT / "dist/shopper_intents.bundle", help="the bundle to prove")
    parser.addoption("--device", action="append", default=[], help="local, board:NAME or ssh://HOST (default: local)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        devices = metafunc.config.getoption("--device") or ["local"]
        metafunc.parametrize("place", devices, indirect=True, scope="session")


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The device under test, with the bundle on it."""
    bundle: Path = request.config.getoption("--bundle")
    if not bundle.is_dir():
        pytest.skip(f"{bundle} is not there; make it: make convert TARGET=arm64")
    with open_place(request.param, bundle, tmp_path_factory.mktemp("place")) as opened:
        yield opened
