"""One served name: the predictor that answers now, and how the next one takes its place."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from doorstep.predictor import Predictor
from doorstep.serve.batching import Batcher
from doorstep.serve.options import Bounds

Watch = Callable[[str, str, int, float], None]
"""Told of every run: model, variant, rows, seconds."""


class Loaded:
    """A predictor with its queue, and how many requests use it."""

    def __init__(self, name: str, predictor: Predictor, bounds: Bounds, watch: Watch) -> None:
        variant = predictor.variant.name
        self.predictor = predictor
        self.batcher = Batcher(predictor, bounds, lambda rows, seconds: watch(name, variant, rows, seconds))
        self.users = 0
        self.is_retired = False


class Served:
    """A name under which a bundle is served. `is_owned`: predictors that are replaced are closed."""

    def __init__(self, name: str, predictor: Predictor, bounds: Bounds, watch: Watch, *, is_owned: bool) -> None:
        self.name = name
        self._bounds = bounds
        self._watch = watch
        self._is_owned = is_owned
        self._lock = threading.Lock()
        self._now = Loaded(name, predictor, bounds, watch)

    @property
    def now(self) -> Loaded:
        """What answers now; for reading its manifest, not for predictions: those take `lease`."""
        return self._now

    @contextmanager
    def lease(self) -> Iterator[Loaded]:
        """Keep what answers now open until the block ends."""
        with self._lock:
            loaded = self._now
            loaded.users += 1
        try:
            yield loaded
        finally:
            with self._lock:
                loaded.users -= 1
                is_last = loaded.is_retired and loaded.users == 0
            if is_last and self._is_owned:
                loaded.predictor.close()

    def replace(self, predictor: Predictor) -> None:
        """Let `predictor` answer from now on; the one before it is closed when its last request is answered."""
        fresh = Loaded(self.name, predictor, self._bounds, self._watch)
        with self._lock:
            old, self._now = self._now, fresh
            old.is_retired = True
            is_idle = old.users == 0
        if is_idle and self._is_owned:
            old.predictor.close()

    def close(self) -> None:
        """Close the predictor if it is owned."""
        if self._is_owned:
            self._now.predictor.close()
