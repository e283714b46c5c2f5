"""OpenVINO."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov

from doorstep.errors import EngineError
from doorstep.session import Graph, Session, SessionOptions
from doorstep.tensors import Feeds, Fetches, TensorSpec
from doorstep_runtimes.fixed_shapes import with_any_batch

_REQUESTS = 4  # infer requests made at most; further threads wait for one


def open_graph(graph: Graph, options: SessionOptions) -> Session:
    """Open an OpenVINO IR (`.xml`, its `.bin` beside it).

    Weights stored in fp16 are computed in fp32 unless `engine_options` says `INFERENCE_PRECISION_HINT: bf16`;
    every entry of `engine_options` is a property of `compile_model`.

    Raises:
        EngineError: OpenVINO refuses the file or a property.
    """
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if options.cache_dir is not None:
        config["CACHE_DIR"] = str(options.cache_dir / "openvino")
    config.update(options.engine_options)
    try:
        compiled = ov.Core().compile_model(str(graph.path), config.pop("DEVICE", "CPU"), config)
    except (RuntimeError, TypeError) as error:
        raise EngineError(f"{graph.path}: OpenVINO cannot open it ({error!s:.300})") from error
    return with_any_batch(OpenvinoSession(compiled, graph))


class OpenvinoSession:
    """A model in OpenVINO; any batch and any length. Each thread borrows an infer request."""

    def __init__(self, compiled: ov.CompiledModel, graph: Graph) -> None:
        self._compiled: ov.CompiledModel | None = compiled
        self._inputs = graph.inputs
        self._outputs = graph.outputs
        self._ports = [(spec.name, compiled.input(spec.source or spec.name)) for spec in graph.inputs]
        self._fetch = [(spec.name, compiled.output(spec.source or spec.name)) for spec in graph.outputs]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._made = 0

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._outputs

    def run(self, feeds: Feeds) -> Fetches:
        request = self._borrow()
        try:
            request.infer({port: feeds[name] for name, port in self._ports}, share_inputs=True)
            return {name: np.array(request.get_tensor(port).data) for name, port in self._fetch}
        except KeyError as error:
            raise EngineError(f"feeds: {error} is missing") from error
        except (RuntimeError, TypeError, ValueError) as error:
            raise EngineError(f"OpenVINO failed: {error!s:.300}") from error
        finally:
            self._idle.put(request)

    def close(self) -> None:
        self._compiled = None

    def _borrow(self) -> Any:
        if self._compiled is None:
            raise EngineError("the session is closed")
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            if self._made >= _REQUESTS:
                return self._idle.get()
            self._made += 1
            return self._compiled.create_infer_request()
