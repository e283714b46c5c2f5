"""OpenVINO."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov

from doorstep.errors import EngineError
from doorstep.session import Graph, Session, SessionOptions
from doorstep.tensors import Feeds, Fetches, TensorSpec, check_feeds
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
        "INFERENCE_NUM_THREADS": options.threads * options.lanes,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if options.lanes > 1:
        config["NUM_STREAMS"] = options.lanes
    if options.cache_dir is not None:
        config["CACHE_DIR"] = os.path.join(options.cache_dir, "openvino")
    config.update(options.engine_options)
    try:
        compiled = ov.Core().compile_model(str(graph.path), config.pop("DEVICE", "CPU"), config)
        return with_any_batch(OpenvinoSession(compiled, graph))
    except (RuntimeError, TypeError) as error:
        raise EngineError(f"{graph.path}: OpenVINO cannot open it ({error!s:.300})") from error


class OpenvinoSession:
    """A model in OpenVINO; any batch and any length. Each thread borrows an infer request."""

    def __init__(self, compiled: ov.CompiledModel, graph: Graph) -> None:
        self._compiled: ov.CompiledModel | None = compiled
        self._inputs = graph.inputs
        self._outputs = graph.outputs
        self._ports = [(spec.name, compiled.input(spec.source or spec.name)) for spec in graph.inputs]
        self._fetch = [(spec.name, compiled.output(spec.source or spec.name)) for spec in graph.outputs]
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._idle: list[Any] = []
        self._made = 0

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._outputs

    def run(self, feeds: Feeds) -> Fetches:
        check_feeds(self._inputs, feeds)  # OpenVINO itself reads past the end of a tensor that is too short
        request = self._borrow()
        try:
            request.infer({port: feeds[name] for name, port in self._ports}, share_inputs=True)
            return {name: np.array(request.get_tensor(port).data) for name, port in self._fetch}
        except (RuntimeError, TypeError, ValueError) as error:
            raise EngineError(f"OpenVINO failed: {error!s:.300}") from error
        finally:
            self._give_back(request)

    def close(self) -> None:
        with self._changed:
            self._compiled = None
            self._idle.clear()  # an idle request would keep the model in memory
            self._changed.notify_all()

    def _borrow(self) -> Any:
        with self._changed:
            ticket = object()
            self._waiting.append(ticket)  # first come, first served: a busy thread must not starve the others
            self._changed.wait_for(lambda: self._compiled is None or (self._waiting[0] is ticket and self._is_free()))
            self._waiting.remove(ticket)
            self._changed.notify_all()
            if self._compiled is None:
                raise EngineError("the session is closed")
            if self._idle:
                return self._idle.pop()
            request = self._compiled.create_infer_request()
            self._made += 1
            return request

    def _give_back(self, request: Any) -> None:
        with self._changed:
            if self._compiled is not None:
                self._idle.append(request)
            self._changed.notify_all()

    def _is_free(self) -> bool:
        return bool(self._idle) or self._made < _REQUESTS
