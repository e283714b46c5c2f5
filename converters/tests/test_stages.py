"""Stages that several processes want at once."""

import fcntl
import threading
from pathlib import Path

import pytest
import torch

from doorstep.device import Device
from doorstep.errors import ConversionError
from doorstep_converters.progress import Lines
from doorstep_converters.stages import Stage, StageRunner
from doorstep_converters.variants import Workbench

SLOW = """
import time
from pathlib import Path


def make(out, channel, beside):
    with open(Path(beside) / "calls", "a") as file:
        file.write("call\\n")
    time.sleep(1)
    (out / "made").write_text("made")
    return {"answer": 42}
"""


def test_a_stage_that_two_want_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_jobs").mkdir()
    (tmp_path / "slow_jobs/__init__.py").touch()
    (tmp_path / "slow_jobs/make.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    stage = Stage("slow", "slow_jobs.make:make", {"beside": str(tmp_path)})
    outputs = []

    def make(place: int) -> None:
        runner = StageRunner(tmp_path / "cache", tmp_path / f"logs{place}")
        outputs.append(runner.run(stage, lambda share: None, 1))

    threads = [threading.Thread(target=make, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "calls").read_text() == "call\n"
    assert [output.result["answer"] for output in outputs] == [42, 42]
    assert sorted(output.is_cached for output in outputs) == [False, True]


def test_one_that_waits_for_another_process_can_be_stopped(tmp_path: Path) -> None:
    stage = Stage("slow", "doorstep_converters.parity:answer", {})
    runner = StageRunner(tmp_path, tmp_path / "logs")
    (tmp_path / "locks").mkdir()
    with open(tmp_path / "locks" / f"slow-{stage.key}", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        runner.close()
        with pytest.raises(ConversionError, match="stopped while another process makes it"):
            runner.run(stage, lambda share: None, 1)


CURVES = """
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


def train(out, channel, seed, stop="/nowhere", resume=""):
    writer = SummaryWriter(str(channel.logs))
    writer.add_scalar("loss", seed, 1)
    writer.close()
    if Path(stop).exists():
        raise RuntimeError("stopped")
    (out / "weights").write_text(str(seed))
    return {}
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "curve_jobs").mkdir()
    (tmp_path / "curve_jobs/__init__.py").touch()
    (tmp_path / "curve_jobs/make.py").write_text(CURVES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return "curve_jobs.make:train"


def _losses(folder: Path) -> list[float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = [EventAccumulator(str(path)).Reload() for path in folder.glob("events.*")]
    return sorted(point.value for one in curves for point in one.Scalars("loss"))


def test_curves_lie_among_the_logs_by_stage_also_where_the_stage_was_kept(tmp_path: Path, jobs: str) -> None:
    made = StageRunner(tmp_path / "cache", tmp_path / "one").run(Stage("train", jobs, {"seed": 3}), print, 1)
    kept = StageRunner(tmp_path / "cache", tmp_path / "two").run(Stage("train", jobs, {"seed": 3}), print, 1)
    assert (made.is_cached, kept.is_cached) == (False, True)
    assert _losses(tmp_path / "one/train") == _losses(tmp_path / "two/train") == [3]


def test_curves_are_those_of_the_output_and_no_earlier_ones(tmp_path: Path, jobs: str) -> None:
    runner = StageRunner(tmp_path / "cache", tmp_path / "logs")
    shown = []
    for seed in (3, 4, 3):
        runner.run(Stage("train", jobs, {"seed": seed}), print, 1)
        shown.append(_losses(tmp_path / "logs/train"))
    assert shown == [[3], [4], [3]]


def test_a_training_that_goes_on_keeps_the_curves_from_before_it_was_stopped(tmp_path: Path, jobs: str) -> None:
    stage = Stage("train", jobs, {"seed": 3, "stop": str(tmp_path / "stop")}, is_resumable=True)
    assert _losses_of_stopped(stage, tmp_path) == [3, 3]


def test_a_training_of_the_search_that_goes_on_keeps_its_curves_too(tmp_path: Path, jobs: str) -> None:
    stage = Stage("train", jobs, {"seed": 3, "stop": str(tmp_path / "stop"), "resume": str(tmp_path / "kept")})
    assert _losses_of_stopped(stage, tmp_path) == [3, 3]


def test_a_training_that_begins_anew_shows_no_curves_of_the_one_that_was_stopped(tmp_path: Path, jobs: str) -> None:
    stage = Stage("train", jobs, {"seed": 3, "stop": str(tmp_path / "stop")})
    assert _losses_of_stopped(stage, tmp_path) == [3]


def _losses_of_stopped(stage: Stage, folder: Path) -> list[float]:
    """Run a stage that is stopped at the end and then once more."""
    runner = StageRunner(folder / "cache", folder / "logs")
    (folder / "stop").touch()
    with pytest.raises(ConversionError, match="stopped"):
        runner.run(stage, print, 1)
    (folder / "stop").unlink()
    runner.run(stage, print, 1)
    return _losses(folder / "logs/train")


def test_the_digest_of_an_output_tells_nothing_of_when_it_was_trained(tmp_path: Path, jobs: str) -> None:
    stage = Stage("train", jobs, {"seed": 3})
    one, two = (StageRunner(tmp_path / name, tmp_path / "logs").run(stage, print, 1) for name in ("a", "b"))
    assert _names(one.folder / "logs") != _names(two.folder / "logs")
    assert one.digest == two.digest


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    "tool", ["torch", "peft", "tokenizers", "datasets", "accelerate", "scikit-learn", "numpy", "ai-edge-litert"]
)
def test_another_version_of_what_computes_makes_a_stage_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    stage = Stage("answer", "doorstep_converters.parity:answer", {})
    before = stage.key
    folder = tmp_path / f"{tool.replace('-', '_')}-99.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {tool}\nVersion: 99\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert stage.key != before


ALLOCATE = """
def make(out, channel):
    import torch

    torch.zeros(64, 1 << 20, dtype=torch.uint8, device="cuda")
    return {}
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_stage_tells_the_most_memory_it_had_on_the_gpu(tmp_path: Path, jobs: str) -> None:
    (tmp_path / "curve_jobs/make.py").write_text(ALLOCATE)
    runner = StageRunner(tmp_path / "cache", tmp_path / "logs")
    assert runner.run(Stage("allocate", "curve_jobs.make:make", {}), print, 1).result["peak_gpu_mib"] >= 64


def test_what_a_stage_has_to_say_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "saying_jobs").mkdir()
    (tmp_path / "saying_jobs/__init__.py").touch()
    job = "def say(out, channel):\n    channel.note('mind the gap')\n    return {}\n"
    (tmp_path / "saying_jobs/make.py").write_text(job)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    said = []
    for _ in range(2):  # a later run says it again
        runner = StageRunner(tmp_path / "cache", tmp_path / "logs")
        bench = Workbench(runner, tmp_path, Lines(), Device.detect(), is_pickle_allowed=False)
        for _ in range(3):
            bench.run(Stage("say", "saying_jobs.make:say", {}), 1)
        said.append(capsys.readouterr().err.count("say: mind the gap"))
    assert said == [1, 1]
