"""What a guest finds on each emulated board."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from device_tests.boards import Board
from device_tests.boards.build import main as build
from device_tests.boards.kernel import cpuinfo
from device_tests.boards.run import main as run_main

pytestmark = pytest.mark.board

_HOLD = """
import sys
held = []
for _ in range(int(sys.argv[1])):
    held.append(b"x" * 2**20)
print("held")
"""


def test_the_guest_reads_its_boards_cpuinfo(board: Board) -> None:
    done = board.run(["-c", "print(open('/proc/cpuinfo').read(), end='')"])
    assert done.stdout == cpuinfo(board.spec)


def test_the_guest_knows_its_machine_and_cores(board: Board) -> None:
    done = board.run(["-c", "import os, platform; print(platform.machine(), os.cpu_count())"])
    assert done.stdout.split() == [board.spec.architecture.machine, str(board.spec.cores)]


def test_the_standard_library_is_whole(board: Board) -> None:
    modules = "ssl, ctypes, json, hashlib, multiprocessing, sqlite3, lzma, bz2, zlib, uuid, readline, zoneinfo"
    done = board.run(["-c", f"import {modules}"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["numpy", "onnxruntime", "ai_edge_litert.interpreter", "openvino", "tokenizers"])
def test_every_engine_imports_on_every_arm64_board(arm64_board: Board, module: str) -> None:
    done = arm64_board.run(["-c", f"import {module}"], timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", ["numpy", "tflite_runtime.interpreter", "tokenizers", "safetensors", "psutil", "PIL.Image"]
)
def test_the_32_bit_board_has_its_wheels(armhf_board: Board, module: str) -> None:
    done = armhf_board.run(["-c", f"import {module}"], timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_guest_starts_itself_again_even_isolated_and_without_environment(board: Board) -> None:
    inner = "import numpy, os, platform; print(platform.machine(), os.environ['DOORSTEP_BOARD'])"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-c', {inner!r}], env={{}}, check=True)"
    assert board.run(["-c", outer]).stdout.split() == [board.spec.architecture.machine, board.spec.name]


def test_nothing_of_the_hosts_python_is_seen(small_board: Board) -> None:
    done = small_board.run(["-c", "import sys; print(sys.path[1:])"])
    assert all(entry.startswith(str(small_board.system)) for entry in json.loads(done.stdout.replace("'", '"')))


def test_the_environment_is_not_inherited(small_board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_HOST", "1")
    done = small_board.run(
        ["-c", "import os; print('OF_THE_HOST' in os.environ, os.environ['MINE'])"], env={"MINE": "1"}
    )
    assert done.stdout == "False 1\n"


def test_home_is_a_folder_of_its_own_that_goes_away(small_board: Board) -> None:
    done = small_board.run(["-c", "from pathlib import Path; Path.home().joinpath('x').touch(); print(Path.cwd())"])
    assert not Path(done.stdout.strip()).exists()


def test_standard_input_and_the_exit_code_pass_through(small_board: Board) -> None:
    done = small_board.run(["-c", "import sys; print(input()); sys.exit(7)"], stdin="hello\n")
    assert (done.stdout, done.returncode) == ("hello\n", 7)


def test_one_core_is_what_the_guest_is_granted(small_board: Board) -> None:
    done = small_board.run(["-c", "import os; print(len(os.sched_getaffinity(0)))"], cores=1)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("held_mib", [64, 150])
def test_a_guest_below_its_memory_limit_is_left_alone(board: Board, held_mib: int) -> None:
    assert board.run(["-c", _HOLD, str(held_mib)], memory_mib=256).stdout == "held\n"


def test_a_guest_above_its_memory_limit_is_killed(board: Board) -> None:
    done = board.run(["-c", _HOLD, "1500"], memory_mib=256)
    assert done.returncode == -9
    assert re.search(r"board: killed at \d+ MiB, above the limit of 256 MiB", done.stderr)


def test_a_guests_children_count_towards_its_memory(small_board: Board) -> None:
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_HOLD!r}, '1500'])"
    assert small_board.run(["-c", outer], memory_mib=256).returncode == -9


def test_a_guest_that_overruns_its_time_is_killed_with_its_children(small_board: Board, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    fork = f"import os, time; pid = os.fork(); pid and open({str(note)!r}, 'w').write(str(pid)); time.sleep(600)"
    with pytest.raises(subprocess.TimeoutExpired):
        small_board.run(["-c", fork], timeout=8)
    state = Path("/proc", note.read_text(), "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_command_line_runs_a_script_on_a_board(small_board: Board, capfd: pytest.CaptureFixture[str]) -> None:
    code = run_main([small_board.spec.name, "--memory-mib", "256", "--", "-c", "print('here'); raise SystemExit(3)"])
    assert (code, capfd.readouterr().out) == (3, "here\n")


def test_a_root_that_is_there_is_not_built_again(small_board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    roots = small_board.system.parents[1]
    before = (roots / "arm64").stat().st_ctime_ns
    assert build(["arm64", "--out", str(roots)]) == 0
    assert (roots / "arm64").stat().st_ctime_ns == before
