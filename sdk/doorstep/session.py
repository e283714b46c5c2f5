"""The port to an engine, and the table of the adapters that implement it."""

import importlib
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from doorstep.errors import EngineError, MissingExtraError, UsageError
from doorstep.record import Record
from doorstep.tensors import Feeds, Fetches, TensorSpec


class Session(Protocol):
    """A model loaded in an engine. `run` may be called from several threads."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What `run` takes."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """What `run` returns."""

    def run(self, feeds: Feeds) -> Fetches:
        """Run the model once.

        Raises:
            EngineError: the engine failed, or the session is closed.
        """

    def close(self) -> None:
        """Give the engine's memory back; a second call does nothing."""


class SessionOptions(Record):
    """How an engine shall run.

    Attributes:
        threads: number of threads one `run` may use.
        lanes: runs that may go at the same time, each with `threads` of its own.
        cache_dir: where an engine may keep compiled models; None for nowhere.
        engine_options: raw options in the engine's own words, passed through.
    """

    threads: int = 1
    cache_dir: str | os.PathLike[str] | None = None
    engine_options: dict[str, Any] = {}
    lanes: int = 1


class Graph(Record):
    """What an adapter must know to open a file: its place, and the declared inputs and outputs."""

    path: str | os.PathLike[str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Runtime(NamedTuple):
    """One adapter.

    Attributes:
        module: imported by name; has `open_graph(graph, options) -> Session`.
        extra: the pip extra that installs the engine; "" where doorstep itself does.
        distributions: distribution name to import name, any one of which is enough, best first.
        is_last_resort: stands behind every engine, unless it was measured to be clearly quicker.
    """

    module: str
    extra: str
    distributions: dict[str, str]
    is_last_resort: bool = False


RUNTIMES: dict[str, Runtime] = {
    "onnx": Runtime("doorstep_runtimes.onnx", "onnx", {"onnxruntime": "onnxruntime"}),
    "openvino": Runtime("doorstep_runtimes.openvino", "openvino", {"openvino": "openvino"}),
    "tflite": Runtime(
        "doorstep_runtimes.tflite",
        "tflite",
        {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"},
    ),
    "numpy": Runtime("doorstep_runtimes.numpy", "", {"numpy": "numpy"}, is_last_resort=True),
}


def open_session(runtime: str, graph: Graph, options: SessionOptions | None = None) -> Session:
    """Open `graph` in the engine named `runtime`, a key of `RUNTIMES`.

    Raises:
        EngineError: the engine refuses the file.
        MissingExtraError, EngineError, UsageError: as `import_adapter`.
    """
    session: Session = import_adapter(runtime).open_graph(graph, options or SessionOptions())
    return session


def import_adapter(runtime: str) -> Any:
    """Import the adapter named `runtime`, and with it its engine.

    Raises:
        MissingExtraError: the engine is not installed.
        EngineError: the engine is installed and cannot be imported.
        UsageError: no such runtime.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"runtime: expected one of {', '.join(RUNTIMES)}, got {runtime!r}")
    entry = RUNTIMES[runtime]
    if not any(find_module(name) for name in entry.distributions.values()):
        raise MissingExtraError.of(next(iter(entry.distributions)), entry.extra)
    try:
        return importlib.import_module(entry.module)
    except ImportError as error:  # a system library is missing, or made for another CPU
        raise EngineError(f"{runtime}: installed, but cannot be imported ({error!s:.200})") from error


def find_module(name: str) -> importlib.machinery.ModuleSpec | None:
    """Return where a top-level module would be imported from, without importing it; None where it is not installed.

    `importlib.util.find_spec` does the same and brings modules that a start does without.
    """
    if name in sys.modules:  # None there forbids the import
        return getattr(sys.modules[name], "__spec__", None)
    for finder in sys.meta_path:
        if spec := finder.find_spec(name, None):
            return spec
    return None
