"""What a kept stage's key depends on: the code of its job, near and far."""

import gc
import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import doorstep_converters
from doorstep_converters import sources
from doorstep_converters.sources import source_digest
from doorstep_converters.stages import Stage
from doorstep_converters.tasks import find_craft

PACKAGE = {
    "__init__.py": "",
    "job.py": "from doorstep_converters.made_up import middle\nfrom doorstep_converters.worker import Channel\n",
    "middle.py": "from doorstep_converters.made_up.far import NUMBER\nimport json\n",
    "far.py": "NUMBER = 1\n",
    "apart.py": "NUMBER = 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package inside the workshop's, in a folder of its own."""
    workshop = importlib.import_module("doorstep_converters")
    folder = tmp_path / "made_up"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(workshop, "__path__", [*workshop.__path__, str(tmp_path)])
    _forget()
    yield folder
    _forget()


def _forget() -> None:
    sources._reached.cache_clear()
    sources._source.cache_clear()


def _key() -> str:
    _forget()
    return Stage("made-up", "doorstep_converters.made_up.job:run", {}).key


@pytest.mark.parametrize(
    "changed, is_other", [("job.py", True), ("middle.py", True), ("far.py", True), ("apart.py", False)]
)
def test_a_stage_is_made_again_where_code_it_reaches_changes(package: Path, changed: str, is_other: bool) -> None:
    before = _key()
    assert _key() == before
    (package / changed).write_text(PACKAGE[changed] + "# another way\n")
    assert (_key() != before) is is_other


@pytest.mark.parametrize(
    "module, reached",
    [
        ("doorstep_converters.export.tflite", "doorstep_converters.export.classifier"),
        ("doorstep_converters.quantize.numpy", "doorstep_converters.export.numpy"),
        ("doorstep_runtimes.numpy", "doorstep_runtimes.numpy_math"),
        ("doorstep_converters.distill", "doorstep_converters.students.cnn"),
        ("doorstep_converters.students.build", "doorstep_converters.students.model"),
    ],
)
def test_real_jobs_reach_what_they_import(module: str, reached: str) -> None:
    assert reached in sources._reached(module)
    assert source_digest(module) != source_digest(reached)


@pytest.mark.parametrize("task", ["token-classification", "text-ranking", "next-item", "tabular-classification"])
def test_what_a_task_trained_follows_the_loop_that_trains(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    craft = find_craft(task)
    before, read = craft.source_digest(), sources._source
    monkeypatch.setattr(sources, "_source", lambda name: read(name) + (b"#" if name.endswith(".loop") else b""))
    assert craft.source_digest() != before


class _Garbage:
    """Refers to itself, and runs code when it is collected: where a thread may be made to wait amid parsing."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        for _ in range(20):
            pass


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Let threads take turns as often as can be."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(1)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("eager_switches")
def test_threads_may_ask_at_once() -> None:
    folder = Path(doorstep_converters.__path__[0])
    modules = [f"doorstep_converters.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"]

    def ask(module: str) -> list[str]:
        _Garbage()
        return sources._imported(module)

    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(ask, modules * 4))
    assert at_once == [sources._imported(module) for module in modules] * 4
