"""Jobs as forks of a loaded process: what they begin with, how they end, and when a process of their own is made."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from doorstep.errors import ConversionError
from doorstep_converters import forks
from doorstep_converters.forks import Fork, start_fork
from doorstep_converters.stages import Stage, StageRunner

JOBS = """
import os
import resource
import sys
import threading
import time
from pathlib import Path


def look(out, channel, names=()):
    import torch

    return {
        "loaded": sorted(name for name in ("torch", "transformers", "nncf", "litert_torch") if name in sys.modules),
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ.get(name) for name in names},
        "folder": os.getcwd(),
        "pid": os.getpid(),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def crash(out, channel):
    print("about to go", file=sys.stderr, flush=True)
    os.abort()


def wait(out, channel):
    (Path(out) / "pid").write_text(str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, ...], Any]]:
    """A folder with the module `made_jobs.made`, and the servers of the tests that need none of their own."""
    return _write_jobs(tmp_path_factory.mktemp("path")), {}


def _write_jobs(folder: Path) -> Path:
    (folder / "made_jobs").mkdir(parents=True)
    (folder / "made_jobs/__init__.py").touch()
    (folder / "made_jobs/made.py").write_text(JOBS)
    return folder


@pytest.fixture
def path(shared: tuple[Path, dict[tuple[str, ...], Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with `made_jobs`."""
    monkeypatch.setattr(forks, "_servers", shared[1])
    return shared[0]


@pytest.fixture
def environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which `made_jobs.made` can be imported."""
    monkeypatch.syspath_prepend(path)
    monkeypatch.setattr(forks, "_GPUS", ())
    monkeypatch.setenv("PYTHONPATH", str(path), prepend=":")
    return dict(os.environ)


@pytest.fixture
def runner(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> StageRunner:
    monkeypatch.setattr("doorstep_converters.stages._OURS", "made_jobs")
    return StageRunner(tmp_path / "cache", tmp_path / "logs")


def _start(job: str, out: Path, environment: dict[str, str], threads: int = 1) -> Fork:
    out.mkdir(exist_ok=True)
    with open(out / "log", "ab") as log:
        fork = start_fork({"job": f"made_jobs.made:{job}", "out": str(out), "arguments": {}}, environment, threads, log)
    assert fork is not None
    return fork


def _pid(out: Path) -> int:
    """Wait until a job has written its number."""
    for _ in range(600):
        if (out / "pid").is_file() and (text := (out / "pid").read_text()):
            return int(text)
        time.sleep(0.1)
    raise AssertionError((out / "log").read_text())


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_job_begins_with_torch_and_transformers_and_nothing_that_changes_them(runner: StageRunner) -> None:
    found = runner.run(Stage("look", "made_jobs.made:look", {}), print, 1).result
    assert found["loaded"] == ["torch", "transformers"]


def test_jobs_have_the_threads_environment_and_folder_they_were_asked_with(
    runner: StageRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []
    for threads, value in ((1, "one"), (3, "two")):
        monkeypatch.setenv("DOORSTEP_MADE_UP", value)
        arguments = {"names": ["DOORSTEP_MADE_UP", "OMP_NUM_THREADS"]}
        found.append(runner.run(Stage(value, "made_jobs.made:look", arguments), print, threads).result)
    assert [one["threads"] for one in found] == [1, 3]
    assert [one["environment"]["DOORSTEP_MADE_UP"] for one in found] == ["one", "two"]
    assert [one["environment"]["OMP_NUM_THREADS"] for one in found] == ["1", "3"]
    assert {one["folder"] for one in found} == {str(Path.cwd())}


def test_a_job_that_crashes_takes_nothing_else_down(runner: StageRunner, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=rf"crash: .* \(exit code -{signal.SIGABRT:d}; all of it"):
        runner.run(Stage("crash", "made_jobs.made:crash", {}), print, 1)
    assert "about to go" in (tmp_path / "logs/crash.log").read_text()
    assert runner.run(Stage("look", "made_jobs.made:look", {}), print, 1).result["pid"]


def test_a_killed_job_is_gone_when_wait_returns(tmp_path: Path, environment: dict[str, str]) -> None:
    fork = _start("wait", tmp_path / "out", environment)
    pid = _pid(tmp_path / "out")
    fork.kill()
    assert fork.wait() == -signal.SIGKILL
    assert not _is_running(pid)
    again = _start("look", tmp_path / "again", environment)
    assert '"result"' in again.stdout.read()
    assert again.wait() == 0, "the server goes on"


def test_a_job_ends_with_whoever_asked_for_it(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "out").mkdir()
    script = f"""
import os
from doorstep_converters import forks
forks._GPUS = ()
message = {{"job": "made_jobs.made:wait", "out": {str(tmp_path / "out")!r}, "arguments": {{}}}}
with open({str(tmp_path / "out/log")!r}, "ab") as log:
    fork = forks.start_fork(message, dict(os.environ), 1, log)
fork.wait()
"""
    asker = subprocess.Popen([sys.executable, "-c", script], env=environment)
    pid = _pid(tmp_path / "out")
    asker.kill()
    asker.wait()
    deadline = time.monotonic() + 60
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


SECOND_THREAD = """
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""
FAILING = """
import errno, os
def fail(*unused):
    raise OSError(errno.EAGAIN, "made up")
os.{name} = fail
"""
LATER = """
import errno, os
own, opened = os.getpid(), os.pidfd_open
def fail(pid):
    if pid == own:
        return opened(pid)
    raise OSError(errno.EMFILE, "made up")
os.pidfd_open = fail
"""


def test_a_process_with_other_limits_has_another_server(tmp_path: Path, environment: dict[str, str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = []
    try:
        for limit in (soft, soft - 1):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            fork = _start("look", tmp_path / "out", environment)
            found.append(json.loads(fork.stdout.read().splitlines()[-1])["result"]["files"])
            fork.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == [soft, soft - 1]


def test_a_fork_of_this_process_has_no_servers_and_keeps_none_alive(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    fork = _start("look", tmp_path / "out", environment)
    fork.stdout.read()
    fork.wait()
    *_, server = forks._servers.values()
    if (pid := os.fork()) == 0:
        try:
            server._line.fileno() == -1 and not forks._servers and os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert server in forks._servers.values()
    assert server.is_live()


class TestServersOfTheirOwn:
    """Tests that count servers, end them, or start them otherwise."""

    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(forks, "_servers", {})
        return _write_jobs(tmp_path / "path")

    def test_a_job_that_does_what_a_device_does_begins_with_nothing(self, runner: StageRunner) -> None:
        found = runner.run(Stage("look", "made_jobs.made:look", {}, is_bare=True), print, 1).result
        assert found["loaded"] == ["torch"], "which it imported itself"
        assert not forks._servers

    def test_a_job_is_stopped_while_everything_is_loaded(self, tmp_path: Path, environment: dict[str, str]) -> None:
        (tmp_path / "path/sitecustomize.py").write_text("import time\ntime.sleep(30)\n")
        fork = _start("wait", tmp_path / "out", environment)
        (server,) = forks._servers.values()
        fork.kill()
        fork.wait()
        assert server._process.wait() == -signal.SIGKILL, "nobody waits until it is ready"
        assert not (tmp_path / "out/pid").exists()

    @pytest.mark.parametrize(
        "customize",
        [
            SECOND_THREAD,
            "import os\nos._exit(3)\n",
            FAILING.format(name="fork"),
            FAILING.format(name="pidfd_open"),
            LATER,
        ],
        ids=["a second thread", "it cannot start", "no more processes", "no such handles", "no more handles"],
    )
    def test_where_a_server_cannot_fork_a_job_gets_a_process_of_its_own(
        self, runner: StageRunner, tmp_path: Path, customize: str
    ) -> None:
        guard = "import sys\nif any('fork_server' in part for part in sys.orig_argv):\n"
        lines = "".join(f"    {line}\n" for line in customize.strip().splitlines())
        (tmp_path / "path/sitecustomize.py").write_text(guard + lines)
        for name in ("one", "two"):
            found = runner.run(Stage(name, "made_jobs.made:look", {}), print, 2).result
            assert (found["loaded"], found["threads"]) == (["torch"], 2)
        assert len(forks._servers) == 1, "one that cannot fork is not started again"

    def test_beside_a_gpu_nothing_is_forked(
        self, runner: StageRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "nvidiactl").touch()
        monkeypatch.setattr(forks, "_GPUS", (str(tmp_path / "nvidiactl"),))
        assert runner.run(Stage("look", "made_jobs.made:look", {}), print, 1).result["loaded"] == ["torch"]
        assert not forks._servers

    def test_each_environment_has_a_server_and_old_ones_end(self, tmp_path: Path, environment: dict[str, str]) -> None:
        servers = []
        for place in range(3):
            fork = _start("look", tmp_path / "out", {**environment, "HF_HOME": str(place)})
            fork.stdout.read()
            assert fork.wait() == 0
            servers = [*servers, *(server for server in forks._servers.values() if server not in servers)]
        assert len(servers) == 3
        assert len(forks._servers) == 2
        assert servers[0]._process.wait(timeout=60) == 0
        assert servers[2].is_live()

    def test_a_job_of_a_server_that_was_let_go_is_killed_alone(
        self, tmp_path: Path, environment: dict[str, str]
    ) -> None:
        jobs = [_start("wait", tmp_path / name, environment) for name in ("one", "two")]
        pids = [_pid(tmp_path / name) for name in ("one", "two")]
        (server,) = forks._servers.values()
        server.close()
        jobs[0].kill()
        assert (jobs[0].wait(), jobs[0].is_refused) == (-signal.SIGKILL, False)
        assert _is_running(pids[1])
        jobs[1].kill()
        assert jobs[1].wait() == -signal.SIGKILL
        assert server._process.wait(timeout=60) == 0
