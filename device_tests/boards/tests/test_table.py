"""What can be said about the boards without any emulator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from device_tests.boards import BOARDS, Board, BoardError, BoardSpec, RootMissing, ToolMissing, UnknownBoard
from device_tests.boards.errors import find_tool
from device_tests.boards.kernel import cpuinfo, kernel_files, meminfo
from device_tests.boards.memory import guest_rss_mib
from device_tests.boards.wheels import pins

each_board = pytest.mark.parametrize("spec", BOARDS.values(), ids=str)


@each_board
def test_a_board_is_named_after_its_architecture_and_cpu(spec: BoardSpec) -> None:
    assert spec.name == f"{spec.architecture.name}-{spec.qemu_cpu.partition(',')[0]}"


@each_board
def test_cpuinfo_has_one_stanza_a_core(spec: BoardSpec) -> None:
    assert re.findall(r"^processor\t: (\d+)$", cpuinfo(spec), re.MULTILINE) == [str(n) for n in range(spec.cores)]


@each_board
def test_cpuinfo_is_made_of_keys_and_values_as_the_kernel_prints_them(spec: BoardSpec) -> None:
    lines = [line for line in cpuinfo(spec).splitlines() if line]
    assert all(re.fullmatch(r"[A-Za-z ]+\t*: .+", line) for line in lines)


@each_board
def test_no_feature_stands_twice(spec: BoardSpec) -> None:
    features = spec.features.split()
    assert len(features) == len(set(features))


@pytest.mark.parametrize(
    ("name", "has_dot_product", "has_i8mm"),
    [
        ("arm64-max", True, True),
        ("arm64-neoverse-n1", True, False),
        ("arm64-cortex-a76", True, False),
        ("arm64-cortex-a72", False, False),
        ("arm64-cortex-a53", False, False),
    ],
)
def test_the_boards_cover_cpus_with_and_without_int8_instructions(
    name: str, has_dot_product: bool, has_i8mm: bool
) -> None:
    features = BOARDS[name].features.split()
    assert ("asimddp" in features, "i8mm" in features) == (has_dot_product, has_i8mm)


@each_board
def test_meminfo_tells_the_boards_memory(spec: BoardSpec) -> None:
    assert meminfo(spec).splitlines()[0].split() == ["MemTotal:", str(spec.memory_mib * 1024), "kB"]


def test_one_core_is_no_range() -> None:
    spec = BOARDS["armhf-cortex-a7"]
    single = BoardSpec(
        "single", spec.architecture, spec.qemu_cpu, spec.cpu, spec.features, 1, spec.memory_mib, spec.note
    )
    assert kernel_files(single)["sys/devices/system/cpu/online"] == "0\n"


def test_an_unknown_board_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnknownBoard, match=r"expected one of arm64-max, .*got 'pdp-11'"):
        Board.load("pdp-11")


def test_a_missing_root_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(RootMissing, match=r"python -m device_tests\.boards\.build arm64 --out"):
        Board.load("arm64-max", tmp_path)


def test_a_missing_tool_names_its_debian_package() -> None:
    with pytest.raises(ToolMissing, match=r"apt-get install --no-install-recommends qemu-user-static"):
        find_tool("qemu-pdp11-static", "qemu-user-static")


def test_more_cores_than_the_host_grants_are_refused(tmp_path: Path) -> None:
    board = Board(BOARDS["arm64-max"], tmp_path)
    with pytest.raises(BoardError, match=r"cores: expected 1 to \d+.*got 4096"):
        board.command(["-V"], cores=4096)


def test_a_process_that_is_gone_holds_no_memory() -> None:
    assert guest_rss_mib(2**22 + 1) == 0.0


def test_pins_are_read_under_their_normalized_names(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# why\nml_dtypes==0.6.0\nbackports.strenum==1.2.8\ntorch>=2\n")
    assert pins(constraints) == {"ml-dtypes": "0.6.0", "backports-strenum": "1.2.8"}
