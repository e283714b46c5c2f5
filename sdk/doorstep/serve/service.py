"""What all ways in share: names, queues, metrics, and one road from items to results."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import BoundedSemaphore, Event
from typing import Any

from doorstep.errors import UsageError
from doorstep.explain import Explanation
from doorstep.predictor import Predictor
from doorstep.results import Classification
from doorstep.serve.batching import Call
from doorstep.serve.items import decode_items
from doorstep.serve.metrics import Metrics
from doorstep.serve.narrowing import Narrowing
from doorstep.serve.options import ServeOptions
from doorstep.serve.refusals import BusyError, RefusalError
from doorstep.serve.served import Loaded, Served

_EXPLANATIONS_AT_ONCE = 2
_TOP_K = 5  # of LabellingOptions


@dataclass(frozen=True, slots=True)
class Answer:
    """Results with where they come from.

    Attributes:
        results: one an item, in order.
        ms: time from items to results.
    """

    model: str
    version: str
    variant: str
    runtime: str
    results: list[Any]
    ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for JSON."""
        return {
            "model": self.model,
            "version": self.version,
            "variant": self.variant,
            "runtime": self.runtime,
            "ms": round(self.ms, 3),
            "results": [result.to_dict() for result in self.results],
        }


class Service:
    """The served bundles. `is_draining` is set when the process is about to stop."""

    def __init__(
        self, predictors: Mapping[str, Predictor], options: ServeOptions | None = None, *, is_owned: bool = False
    ) -> None:
        if not predictors:
            raise UsageError("serve: expected one bundle or more, got none")
        self.options = options or ServeOptions()
        self.metrics = Metrics()
        self.models = {
            name: Served(name, predictor, self.options.bounds, self.metrics.ran, is_owned=is_owned)
            for name, predictor in predictors.items()
        }
        self.is_draining = Event()
        self._explaining = BoundedSemaphore(_EXPLANATIONS_AT_ONCE)
        self.metrics.watch_queue(lambda: {name: served.now.batcher.queued for name, served in self.models.items()})

    def model(self, name: str) -> Served:
        """Return a served model.

        Raises:
            RefusalError: 404, there is none of that name.
        """
        if name not in self.models:
            raise RefusalError(404, f"model: expected one of {', '.join(self.models):.300}, got {name!r:.100}")
        return self.models[name]

    def predict(self, name: str, items: Sequence[Any], narrowing: Narrowing, call: Call) -> Answer:
        """Answer raw items, as they came in a request.

        Raises:
            RefusalError, InputError, EngineError: the request's fault, or the engine's.
        """
        start = time.perf_counter()
        with self.model(name).lease() as loaded:
            results = self._results(loaded, items, narrowing, call)
            return self._answer(name, loaded, results, start)

    def explain(self, name: str, items: Sequence[Any], label: str | None, call: Call) -> Answer:
        """Explain raw items; one answer needs as many runs' worth of rows as an item has parts.

        Raises:
            RefusalError, InputError, EngineError: as `predict`.
        """
        start = time.perf_counter()
        limits = self.options.limits
        with self.model(name).lease() as loaded:
            ready = decode_items(loaded.predictor.manifest.task, items, limits)
            if len(ready) > limits.items // limits.parts:
                raise RefusalError(400, f"items: expected at most {limits.items // limits.parts} to explain at once")
            if not self._explaining.acquire(timeout=max(0.0, call.deadline - time.monotonic())):
                raise BusyError("explain: other explanations are being made; try again later", 1)
            try:
                results: list[Explanation] = [
                    loaded.predictor.explain(item, label=label, max_parts=limits.parts) for item in ready
                ]
            finally:
                self._explaining.release()
            return self._answer(name, loaded, results, start)

    def close(self) -> None:
        """Close the predictors that are owned."""
        for served in self.models.values():
            served.close()

    def _results(self, loaded: Loaded, items: Sequence[Any], narrowing: Narrowing, call: Call) -> list[Any]:
        predictor = loaded.predictor
        narrowing.check(predictor.manifest)
        ready = decode_items(predictor.manifest.task, items, self.options.limits)
        results = loaded.batcher.answer(predictor.prepare(ready), call)
        top_k = predictor.manifest.options.get("top_k", _TOP_K)
        return [narrowing.apply(result, top_k) for result in results]

    def _answer(self, name: str, loaded: Loaded, results: list[Any], start: float) -> Answer:
        seconds = time.perf_counter() - start
        predictor = loaded.predictor
        variant = predictor.variant
        self.metrics.model_seconds.labels(name, variant.name).observe(seconds)
        for result in results:
            if isinstance(result, Classification):
                self.metrics.labels.labels(name, result.label or "").inc()
        return Answer(name, predictor.manifest.version, variant.name, variant.runtime, results, seconds * 1000)


def call_of(options: ServeOptions, wanted_ms: str | None, is_gone: Callable[[], bool], arrived: float) -> Call:
    """Return a caller's deadline: its own, as far as it is sooner than the server's.

    Raises:
        RefusalError: 400, `wanted_ms` is no time.
    """
    allowed = options.bounds.deadline_ms
    if wanted_ms is not None:
        if not wanted_ms.isdecimal() or len(wanted_ms) > 9 or int(wanted_ms) < 1:
            raise RefusalError(400, f"X-Deadline-Ms: expected a whole number of milliseconds, got {wanted_ms!r:.40}")
        allowed = min(allowed, float(wanted_ms))
    return Call(arrived + allowed / 1000, allowed, is_gone)
