"""Where the suite runs: `--device local`, `board:arm64-cortex-a72`, `ssh://kiosk-17`; several may be named."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from device_tests.places import Place, open_place
from device_tests.suite import ask_doctor, check_there, load_under, verdict_table
from doorstep.single_file import pack

ROOT = Path(__file__).parents[1]
_REPORTS = pytest.StashKey[dict[str, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bundle", type=Path, default=ROOT / "dist/shopper_intents.bundle", help="the bundle to prove")
    parser.addoption("--device", action="append", default=[], help="local, board:NAME or ssh://HOST (default: local)")
    parser.addoption("--examples", type=int, help="answer so many golden examples, evenly spread (default: all)")
    parser.addoption("--faults-on", action="append", default=[], help="only these devices suffer the faults")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORTS] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        devices = metafunc.config.getoption("--device") or ["local"]
        if metafunc.module.__name__.endswith("test_faults"):
            devices = metafunc.config.getoption("--faults-on") or devices
        metafunc.parametrize("place", devices, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep to the devices that were named, where some were: boards and cost guard are tested without them."""
    if config.getoption("--device"):
        others = [item for item in items if "place" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show every variant's verdict on every device, whether or not a test failed."""
    if reports := config.stash[_REPORTS]:
        terminalreporter.section("variants on devices")
        terminalreporter.write_line(verdict_table(reports))


@pytest.fixture(scope="session")
def places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    """Every device named, with the bundle on it."""
    bundle: Path = request.config.getoption("--bundle")
    devices = request.config.getoption("--device")
    if not bundle.is_dir():
        stop = pytest.fail if devices else pytest.skip
        stop(f"{bundle}: expected a bundle, got none; make it: make convert TARGET=arm64")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(open_place(name, bundle, tmp_path_factory.mktemp("place")))
            for name in devices or ["local"]
        }


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest, places: dict[str, Place]) -> Place:
    """The device under test."""
    return places[request.param]


@pytest.fixture(scope="session")
def checks(request: pytest.FixtureRequest, places: dict[str, Place]) -> Iterator[dict[str, "Future[dict[str, Any]]"]]:
    """`doorstep check` on every device, as many at a time as there are cores; a real device is alone on itself."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        examples = request.config.getoption("--examples")
        yield {name: pool.submit(check_there, place, examples) for name, place in places.items()}
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def doctor(place: Place) -> dict[str, Any]:
    """What the device says of itself."""
    return ask_doctor(place)


@pytest.fixture(scope="session")
def answer(place: Place) -> dict[str, Any]:
    """What the device answers when nothing is wrong."""
    return load_under(place, "none")


@pytest.fixture(scope="session")
def checked(
    request: pytest.FixtureRequest, place: Place, checks: dict[str, "Future[dict[str, Any]]"]
) -> dict[str, Any]:
    """What `doorstep check` finds there for every variant."""
    report = checks[place.name].result()
    request.config.stash[_REPORTS][place.name] = report
    return report


@pytest.fixture(scope="session")
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle's single-file form, on this machine."""
    file = tmp_path_factory.mktemp("packed") / "stick.zip"
    pack(request.config.getoption("--bundle"), file)
    return file
