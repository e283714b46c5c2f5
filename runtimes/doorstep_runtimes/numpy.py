"""NumPy alone, for devices that no engine has a package for.

A model is `model.json`, a list of nodes, with its weights in `model.safetensors` beside it. The weights are
memory-mapped; fp16 and int8 ones are unpacked where they are used and let go again. Unpacked once instead, MiniLM-L6
takes 39 MiB more, and 64 tokens as long from int8 (22 ms) and 22 ms instead of 25 ms from fp16; 16 tokens take 10 ms
instead of 11 and 16 ms (p50, one thread of a Xeon with AVX-512, NumPy 2.4, OpenBLAS).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.errors import EngineError, FormatError
from doorstep.session import Graph, Session, SessionOptions
from doorstep.tensors import Feeds, Fetches, TensorSpec, check_feeds
from doorstep_runtimes.fixed_shapes import with_any_batch
from doorstep_runtimes.numpy_program import Program, Step, plan, read_model
from doorstep_runtimes.numpy_threads import limit_threads
from doorstep_runtimes.numpy_weights import open_weights

_Failure = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


def open_graph(graph: Graph, options: SessionOptions) -> Session:
    """Open a `model.json`, its `model.safetensors` beside it.

    `threads` sets OpenBLAS for the whole process; another BLAS keeps its own number.
    `engine_options`: `is_unpacked` (false) keeps all weights in memory as fp32.

    Raises:
        EngineError: the files are no such model, or one with an operator that is not known here.
    """
    raw = dict(options.engine_options)
    is_unpacked = raw.pop("is_unpacked", False)
    if raw or type(is_unpacked) is not bool:
        raise EngineError(f"engine options: expected is_unpacked true or false, got {options.engine_options!r:.80}")
    try:
        path = Path(graph.path)
        model = read_model(path)
        program = plan(model, open_weights(path.with_suffix(".safetensors")), is_unpacked)
        session = NumpySession(
            graph, program, program.find(graph.inputs, model.inputs), program.find(graph.outputs, model.outputs)
        )
    except (FormatError, OSError, *_Failure) as error:
        raise EngineError(f"{graph.path}: the NumPy runtime cannot open it ({error!s:.300})") from error
    if unfed := set(model.inputs) - {spec.source or spec.name for spec in graph.inputs}:
        raise EngineError(f"{graph.path}: its input {min(unfed)[:80]!r} is not declared")
    limit_threads(options.threads)
    return with_any_batch(session)


class NumpySession:
    """A model in NumPy; any batch and any length, from any number of threads."""

    def __init__(
        self, graph: Graph, program: Program, feeds: Sequence[tuple[str, int]], fetches: Sequence[tuple[str, int]]
    ) -> None:
        self._inputs = graph.inputs
        self._outputs = graph.outputs
        self._program: Program | None = program
        self._feeds = feeds
        self._fetches = fetches

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._outputs

    def run(self, feeds: Feeds) -> Fetches:
        check_feeds(self._inputs, feeds)
        program = self._program
        if program is None:
            raise EngineError("the session is closed")
        values: list[Any] = list(program.values)
        for name, place in self._feeds:
            values[place] = feeds[name]
        with np.errstate(all="ignore"):
            for step in program.steps:
                try:
                    _run(step, values)
                except _Failure as error:
                    raise EngineError(f"NumPy failed in {step.label}: {error!s:.300}") from error
        return {name: np.array(values[place]) for name, place in self._fetches}

    def close(self) -> None:
        self._program = None


def _run(step: Step, values: list[Any]) -> None:
    got = step.function(*[values[place] for place in step.inputs])
    if isinstance(got, (tuple, list)):
        for place, array in zip(step.outputs, got, strict=False):
            values[place] = array
    else:
        values[step.outputs[0]] = got if type(got) is np.ndarray else np.asarray(got)
    for place in step.dead:
        values[place] = None
