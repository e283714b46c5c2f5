"""LiteRT, and tflite-runtime where only that is installed.

Both run fixed shapes. A file holds one signature for each shape; `FixedShapes` pads, splits and cuts, so that a
caller sees any batch and any length up to the longest.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from doorstep.errors import EngineError
from doorstep.session import Graph, Session, SessionOptions
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec, check_feeds
from doorstep_runtimes.fixed_shapes import Shape, fill, plan_batches, varying_axes, with_any_batch
from doorstep_runtimes.lanes import Lanes

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter


def open_graph(graph: Graph, options: SessionOptions) -> Session:
    """Open a `.tflite` file, with or without signatures.

    `engine_options`: keyword arguments of `Interpreter`.

    Raises:
        EngineError: LiteRT refuses the file.
    """
    try:
        settings = {"num_threads": options.threads, **options.engine_options}
        sessions = [
            TfliteSession(Interpreter(model_path=str(graph.path), **settings), graph)
            for _ in range(max(1, options.lanes))
        ]
        return with_any_batch(sessions[0] if len(sessions) == 1 else Lanes(sessions))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{graph.path}: LiteRT cannot open it ({error!s:.300})") from error


class TfliteSession:
    """A model in LiteRT. Calls from several threads take turns: an interpreter has one set of buffers."""

    def __init__(self, interpreter: Any, graph: Graph) -> None:
        self._interpreter: Any | None = interpreter
        self._inputs = graph.inputs
        self._outputs = graph.outputs
        self._axes = varying_axes(graph.inputs)
        self._lock = threading.Lock()
        self._runners: dict[str, Any] = {}
        self._shapes: dict[str, Shape] = {}
        if self._axes:
            for key in interpreter.get_signature_list():
                self._runners[key] = interpreter.get_signature_runner(key)
                self._shapes[key] = self._signature_shape(self._runners[key])
            if not self._shapes:
                raise ValueError("no signatures in it, so its shapes cannot vary")
        else:
            interpreter.allocate_tensors()

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._outputs

    def run(self, feeds: Feeds) -> Fetches:
        check_feeds(self._inputs, feeds)
        with self._lock:
            if self._interpreter is None:
                raise EngineError("the session is closed")
            try:
                return self._run_padded(feeds) if self._axes else self._run_fixed(feeds)
            except (RuntimeError, ValueError, TypeError, KeyError) as error:
                raise EngineError(f"LiteRT failed: {error!s:.300}") from error

    def close(self) -> None:
        with self._lock:
            self._interpreter = None
            self._runners.clear()

    def _signature_shape(self, runner: Any) -> Shape:
        """Read the lengths a signature gives to the axes that vary; runs and allocates nothing."""
        details = runner.get_input_details()
        lengths: Shape = {}
        for spec in self._inputs:
            shape = details[spec.source or spec.name]["shape"]
            lengths.update({a: int(n) for a, n in zip(spec.shape, shape, strict=True) if isinstance(a, str)})
        return lengths

    def _run_padded(self, feeds: Feeds) -> Fetches:
        wanted = {axis: feeds[name].shape[place] for axis, (name, place) in self._axes.items()}
        parts: list[list[Array]] = [[] for _ in self._outputs]
        for start, key in plan_batches(self._shapes, wanted):
            shape = self._shapes[key]
            stop = min(start + shape.get("batch", 1), wanted.get("batch", 1))
            padded = {spec.source or spec.name: self._slice(spec, feeds, shape, start, stop) for spec in self._inputs}
            fetched = self._runners[key](**padded)
            for spec, rows in zip(self._outputs, parts, strict=True):
                lengths = {**wanted, "batch": stop - start}
                cut = tuple(slice(0, lengths.get(a) if isinstance(a, str) else None) for a in spec.shape)
                rows.append(fetched[spec.source or spec.name][cut])
        return {
            spec.name: rows[0] if len(rows) == 1 else np.concatenate(rows)
            for spec, rows in zip(self._outputs, parts, strict=True)
        }

    def _slice(self, spec: TensorSpec, feeds: Feeds, shape: Shape, start: int, stop: int) -> Array:
        array = feeds[spec.name]
        if "batch" in spec.shape and len(array) != stop - start:
            array = array[start:stop]
        return fill(array, tuple(shape[a] if isinstance(a, str) else a for a in spec.shape), spec.pad)

    def _run_fixed(self, feeds: Feeds) -> Fetches:
        assert self._interpreter is not None  # noqa: S101 -- checked by run
        places = {detail["name"]: detail["index"] for detail in self._interpreter.get_input_details()}
        for spec in self._inputs:
            self._interpreter.set_tensor(places[spec.source or spec.name], feeds[spec.name])
        self._interpreter.invoke()
        places = {detail["name"]: detail["index"] for detail in self._interpreter.get_output_details()}
        return {
            spec.name: np.array(self._interpreter.get_tensor(places[spec.source or spec.name]))
            for spec in self._outputs
        }
