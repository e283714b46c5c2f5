"""A candidate beside the active release: a sampled share of the requests is answered twice, and only counted.

What is kept are counts: agreement, times, labels, confidence. No item and no answer is stored or leaves the process.
A request never waits for the candidate: where it cannot keep up, samples are dropped and counted as dropped.
"""

import json
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from doorstep.errors import DoorstepError, InputError
from doorstep.files import write_atomic
from doorstep.fleet.channel import Health
from doorstep.fleet.health import Verdicts
from doorstep.measure import percentile
from doorstep.predictor import Predictor

_QUEUE = 64
_MOST_TIMES = 1000
_MOST_LABELS = 1000
_BINS = 10
_WRITE_EVERY = 50


class Shadow:
    """Runs one candidate in a thread of its own."""

    def __init__(
        self, release: str, predictor: Predictor, health: Health, folder: Path, decided: Callable[[], None]
    ) -> None:
        self.release = release
        self._predictor = predictor
        self._health = health
        self._folder = folder
        self._decided = decided
        self._queue: queue.Queue[tuple[Any, Any] | None] = queue.Queue(_QUEUE)
        self._counts = Counts()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="doorstep-shadow", daemon=True)
        self._thread.start()

    def offer(self, items: Sequence[Any], result: Any) -> None:
        """Take a sample of what was just answered, not refused; never waits."""
        results = result if isinstance(result, list) else [result]
        for item, one in zip(items, results, strict=True):
            if isinstance(one, InputError) or random.random() >= self._health.shadow_share:  # noqa: S311 -- a sample, no secret
                continue
            try:
                self._queue.put_nowait((item, one))
            except queue.Full:
                with self._lock:
                    self._counts.dropped += 1

    def verdict(self) -> Verdicts:
        """Return whether enough was seen, and what it says."""
        with self._lock:
            counts, health = self._counts, self._health
            if counts.asked < max(1, health.confirm_requests):
                return Verdicts.OPEN
            return Verdicts.BAD if self._problem() else Verdicts.GOOD

    def reason(self) -> str:
        """Return what is bad; empty where nothing is."""
        with self._lock:
            return self._problem()

    def counts(self) -> dict[str, Any]:
        """Return the counts as plain data."""
        with self._lock:
            return {"release": self.release, **self._counts.to_dict()}

    def close(self) -> None:
        """Stop, write the counts down, and give the candidate's memory back."""
        while True:
            try:
                self._queue.put_nowait(None)
                break
            except queue.Full:
                self._drop_one()
        self._thread.join()
        self._write()
        self._predictor.close()

    def _drop_one(self) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return
        with self._lock:
            self._counts.dropped += 1

    def _run(self) -> None:
        while (sample := self._queue.get()) is not None:
            item, expected = sample
            start = time.perf_counter()
            try:
                got = self._predictor.predict(item)
            except DoorstepError:
                got = None
            with self._lock:
                self._counts.add(expected, got, 1e3 * (time.perf_counter() - start))
                asked = self._counts.asked
            if asked % _WRITE_EVERY == 0:
                self._write()
            if asked >= max(1, self._health.confirm_requests):
                self._decided()

    def _problem(self) -> str:
        counts, health = self._counts, self._health
        if counts.failed > health.max_error_rate * max(1, counts.asked):
            return f"{counts.failed} of {counts.asked} shadowed requests failed"
        if health.min_agreement is not None and counts.agreement < health.min_agreement:
            return (
                f"agreement is {counts.agreement:.3f} of {counts.asked} requests, {health.min_agreement:.3f} is needed"
            )
        p95 = percentile(sorted(counts.times_ms), 95) if counts.times_ms else 0.0
        if health.max_p95_ms is not None and p95 > health.max_p95_ms:
            return f"p95 is {p95:.1f} ms, {health.max_p95_ms:.1f} are allowed"
        return ""

    def _write(self) -> None:
        data = json.dumps(self.counts(), ensure_ascii=False, indent=1).encode()
        try:
            self._folder.mkdir(exist_ok=True)
            write_atomic(self._folder / f"{self.release}.json", data)
        except OSError:  # counts are worth less than answers
            return


class Counts:
    """Agreement, times, and two histograms each of the active release's answers and of the candidate's."""

    def __init__(self) -> None:
        self.asked = self.agreed = self.failed = self.dropped = 0
        self.times_ms: list[float] = []
        self.labels: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self.confidences = ([0] * _BINS, [0] * _BINS)

    @property
    def agreement(self) -> float:
        """Share of answered samples with the same label (0 to 1)."""
        answered = self.asked - self.failed
        return self.agreed / answered if answered else 0.0

    def add(self, expected: Any, got: Any, took_ms: float) -> None:
        """Count one sample; `got` is None where the candidate failed."""
        self.asked += 1
        if got is None:
            self.failed += 1
            return
        self.agreed += _label(expected) == _label(got)
        if len(self.times_ms) < _MOST_TIMES:
            self.times_ms.append(took_ms)
        for place, one in enumerate((expected, got)):
            label, labels = getattr(one, "label", None), self.labels[place]
            if isinstance(label, str) and (label in labels or len(labels) < _MOST_LABELS):
                labels[label] += 1
            score = getattr(one, "score", None)
            if isinstance(score, float) and 0 <= score <= 1:
                self.confidences[place][min(_BINS - 1, int(score * _BINS))] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `drift` is the total variation distance of the two label histograms (0 to 1)."""
        ordered = sorted(self.times_ms)
        return {
            "asked": self.asked,
            "agreement": round(self.agreement, 4),
            "failed": self.failed,
            "dropped": self.dropped,
            "p50_ms": round(percentile(ordered, 50), 3) if ordered else None,
            "p95_ms": round(percentile(ordered, 95), 3) if ordered else None,
            "labels": [dict(counter.most_common()) for counter in self.labels],
            "confidences": list(self.confidences),
            "drift": round(_distance(*self.labels), 4),
        }


def _label(result: Any) -> str:
    """Return what agreement is about: the best label; for results without one, all of them."""
    return str(result.label) if hasattr(result, "label") else repr(result)


def _distance(one: Counter[str], other: Counter[str]) -> float:
    total, others = sum(one.values()), sum(other.values())
    if not total or not others:
        return 0.0
    return sum(abs(one[label] / total - other[label] / others) for label in one.keys() | other.keys()) / 2
