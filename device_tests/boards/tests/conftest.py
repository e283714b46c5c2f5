"""Boards for tests: skipped, with the command to run, where a root has not been built."""

from __future__ import annotations

import pytest

from device_tests.boards import BOARDS, Board, RootMissing, ToolMissing


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `arm64_board` on each arm64 board, and one that takes `board` on every board."""
    if "board" in metafunc.fixturenames:
        metafunc.parametrize("board", BOARDS, indirect=True)
    if "arm64_board" in metafunc.fixturenames:
        names = [name for name, spec in BOARDS.items() if spec.architecture.name == "arm64"]
        metafunc.parametrize("arm64_board", names, indirect=True)


@pytest.fixture
def board(request: pytest.FixtureRequest) -> Board:
    return _load(request.param)


@pytest.fixture
def arm64_board(request: pytest.FixtureRequest) -> Board:
    return _load(request.param)


@pytest.fixture
def armhf_board() -> Board:
    return _load("armhf-cortex-a7")


@pytest.fixture
def small_board() -> Board:
    return _load("arm64-cortex-a53")


def _load(name: str) -> Board:
    try:
        return Board.load(name)
    except (RootMissing, ToolMissing) as error:
        pytest.skip(str(error))
