"""Is the release on trial well? Counted in the process that serves it; nothing of a request is kept but its time."""

import math
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from doorstep.errors import InputError
from doorstep.fleet.channel import Health
from doorstep.measure import percentile

_MOST_TIMES = 1000


class Verdicts(Enum):
    """What the counts say so far."""

    OPEN = "open"
    PROVEN = "proven"
    GOOD = "good"
    BAD = "bad"


class Judge:
    """Counts the answers of one release."""

    def __init__(self, release: str, health: Health) -> None:
        self.release = release
        self._health = health
        self._lock = threading.Lock()
        self._answers = self._errors = 0
        self._times_ms: list[float] = []
        self._last = ""

    def ask(self, answer: Callable[[], Any]) -> Any:
        """Answer one request and count it.

        An error counts, unless it is the fault of what was asked; an answer that is no number is an error; a request
        all of whose items were refused counts for nothing.
        """
        start = time.perf_counter()
        try:
            result = answer()
        except InputError:
            raise
        except Exception as error:
            with self._lock:
                self._errors += 1
                self._last = f"{type(error).__name__}: {error!s:.200}"
            raise
        self._count(result, 1e3 * (time.perf_counter() - start))
        return result

    def _count(self, result: Any, took_ms: float) -> None:
        answers = result if isinstance(result, list) else [result]
        if answers and all(isinstance(one, InputError) for one in answers):
            return
        with self._lock:
            self._answers += 1
            if len(self._times_ms) < _MOST_TIMES:
                self._times_ms.append(took_ms)
            for one in answers:
                score = getattr(one, "score", 0.0)
                if isinstance(score, float) and not math.isfinite(score):
                    self._errors += 1
                    self._last = f"a score that is {score}"

    def verdict(self) -> Verdicts:
        """Return what the counts say."""
        with self._lock:
            return Verdicts.BAD if self._problem() else self._progress()

    def reason(self) -> str:
        """Return what is bad; empty where nothing is."""
        with self._lock:
            return self._problem()

    def _progress(self) -> Verdicts:
        if self._answers >= self._health.confirm_requests and self._answers > 0:
            return Verdicts.GOOD
        return Verdicts.PROVEN if self._answers else Verdicts.OPEN

    def _problem(self) -> str:
        health, asked = self._health, self._answers + self._errors
        # A bound on a share needs as many requests as confirm; that it can no longer be met is known earlier.
        allowed = health.max_error_rate * max(asked, health.confirm_requests)
        if self._errors > allowed:
            return f"{self._errors} of {asked} requests failed, the last with {self._last}"
        if health.max_p95_ms is not None and self._answers >= max(1, health.confirm_requests):
            p95 = percentile(sorted(self._times_ms), 95)
            if p95 > health.max_p95_ms:
                return f"p95 is {p95:.1f} ms, {health.max_p95_ms:.1f} are allowed"
        return ""
