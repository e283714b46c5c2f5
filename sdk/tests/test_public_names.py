"""What the package shows, and what it leaves alone."""

import inspect
import re
import subprocess
import sys

import pytest

import doorstep
from doorstep import errors
from doorstep.errors import DoorstepError
from doorstep.session import RUNTIMES
from doorstep.tasks import TASKS

HEAVY = {"onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime", "tokenizers", "torch", "transformers"}
HEAVY |= {
    "flask",
    "PIL",
    "securesystemslib",
    "cryptography",
    "dacite",
    "onnx",
    "doorstep_runtimes",
    "doorstep_converters",
}


def loaded_by(program: str) -> set[str]:
    """Return the top-level modules a fresh process has loaded after `program`."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_public_names_are_sorted_and_exist() -> None:
    assert doorstep.__all__ == sorted(doorstep.__all__)
    assert all(hasattr(doorstep, name) for name in doorstep.__all__)


def test_star_imports_every_public_name() -> None:
    names: dict[str, object] = {}
    exec("from doorstep import *", names)
    assert set(doorstep.__all__) <= names.keys()


@pytest.mark.parametrize("module", ["doorstep", "doorstep.cli.main", "doorstep.testing", "doorstep.measure"])
def test_importing_loads_no_engine_and_nothing_heavy(module: str) -> None:
    assert loaded_by(f"import {module}") & HEAVY == set()


def test_everything_public_says_what_it_is() -> None:
    public = [getattr(doorstep, name) for name in doorstep.__all__ if name != "__version__"]
    assert all(inspect.getdoc(thing) for thing in public)


def drawn() -> list[tuple[str, str]]:
    """Return (parent, child) for every line of the drawing in errors.py."""
    found, path = [], ["DoorstepError"]
    for line in inspect.getdoc(errors).splitlines():
        if match := re.match(r"([│ ]*)[├└]── (\w+)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            found.append((path[depth - 1], match[2]))
    return found


def test_the_drawing_of_the_errors_is_the_tree() -> None:
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and kind is not DoorstepError]
    assert sorted(drawn()) == sorted((kind.__base__.__name__, kind.__name__) for kind in kinds)
    assert all(issubclass(kind, DoorstepError) for kind in kinds)


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_every_runtime_has_its_adapter(runtime: object) -> None:
    __import__(runtime.module)  # type: ignore[attr-defined]
    assert callable(sys.modules[runtime.module].open_graph)  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", TASKS.values(), ids=TASKS)
def test_every_task_has_its_module(module: str) -> None:
    __import__(module)
    assert callable(sys.modules[module].load)
