"""Stages that several processes want at once."""

import fcntl
import threading
from pathlib import Path

import pytest

from doorstep.errors import ConversionError
from doorstep_converters.stages import Stage, StageRunner

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
