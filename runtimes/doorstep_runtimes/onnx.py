"""ONNX Runtime."""

import os
from collections.abc import Sequence
from typing import Any

# Its wheels from 1.29 on report to their maker over the network, unless this is set before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

from doorstep.errors import EngineError
from doorstep.session import Graph, Session, SessionOptions
from doorstep.tensors import Feeds, Fetches, TensorSpec
from doorstep_runtimes.fixed_shapes import with_any_batch

_PROVIDERS = frozenset(ort.get_available_providers())
_STATE = ort.capi.onnxruntime_pybind11_state
# AVX2 without VNNI adds pairs of int8 products in 16 bits, which overflows: one layer was seen to be wrong by half. So
# weights become unsigned there, MiniLM-L6 6 to 12 % slower; no other CPU is touched. `config` may set it to "0".
_NO_OVERFLOW = ("session.x64quantprecision", "1")
_Failure: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_STATE).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    AttributeError,
    RuntimeError,
    TypeError,
    ValueError,
)


def open_graph(graph: Graph, options: SessionOptions) -> Session:
    """Open an `.onnx` or `.ort` file.

    `engine_options`: attributes of `onnxruntime.SessionOptions`; `config` holds its string entries and
    `providers` the execution providers.

    Raises:
        EngineError: ONNX Runtime refuses the file or an option.
    """
    raw = dict(options.engine_options)
    providers = raw.pop("providers", ["CPUExecutionProvider"])
    settings = _settings(options.threads, raw)
    # ONNX Runtime would warn of an unknown provider, and quietly use another.
    if unknown := {name if isinstance(name, str) else name[0] for name in providers} - _PROVIDERS:
        raise EngineError(f"providers: expected some of {', '.join(sorted(_PROVIDERS))}, got {', '.join(unknown)}")
    try:
        session = ort.InferenceSession(str(graph.path), settings, providers=providers)
    except _Failure as error:
        raise EngineError(f"{graph.path}: ONNX Runtime cannot open it ({error!s:.300})") from error
    return with_any_batch(OnnxSession(session, graph))


def _settings(threads: int, raw: dict[str, Any]) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry(*_NO_OVERFLOW)
    for key, value in raw.items():
        try:
            if key == "config":
                for entry, text in value.items():
                    settings.add_session_config_entry(entry, str(text))
            elif not hasattr(settings, key):
                raise AttributeError("SessionOptions has no such attribute")
            else:
                setattr(settings, key, value)
        except _Failure as error:
            raise EngineError(f"engine option {key}={value!r:.60}: {error!s:.200}") from error
    return settings


class OnnxSession:
    """A model in ONNX Runtime; any batch and any length."""

    def __init__(self, session: Any, graph: Graph) -> None:
        self._session = session
        self._inputs = graph.inputs
        self._outputs = graph.outputs
        self._sources = {spec.name: spec.source or spec.name for spec in graph.inputs}
        self._fetch = [spec.source or spec.name for spec in graph.outputs]

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        return self._outputs

    def run(self, feeds: Feeds) -> Fetches:
        session = self._session
        if session is None:
            raise EngineError("the session is closed")
        try:
            named = {source: feeds[name] for name, source in self._sources.items()}
            arrays = session.run(self._fetch, named)
        except KeyError as error:
            raise EngineError(f"feeds: {error} is missing") from error
        except _Failure as error:
            raise EngineError(f"ONNX Runtime failed: {error!s:.300}") from error
        return {spec.name: array for spec, array in zip(self._outputs, arrays, strict=True)}

    def close(self) -> None:
        self._session = None
