"""Where served bundles come from, and noticing that another one lies there now."""

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from doorstep.bundle import MANIFEST, Bundle
from doorstep.errors import DoorstepError, UsageError
from doorstep.golden import item_of, load_golden
from doorstep.predictor import LoadOptions, Predictor
from doorstep.serve.service import Service
from doorstep.signing import TrustKey

log = logging.getLogger("doorstep.serve")
_WARM_UP_RUNS = 2
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """A bundle to serve.

    Attributes:
        name: under which it answers; empty for the bundle's own.
        path: a bundle folder, its single-file form, or a link that is turned to another one (`…/current`).
        variant, threads: as in `Predictor.load`.
    """

    path: Path
    name: str = ""
    variant: str | None = None
    threads: int | None = None
    options: LoadOptions = field(default_factory=LoadOptions)

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read `PATH` or `NAME=PATH`.

        Raises:
            UsageError: an empty path.
        """
        name, _, path = text.rpartition("=") if "=" in text and "/" not in text.partition("=")[0] else ("", "", text)
        if not path:
            raise UsageError(f"bundle: expected PATH or NAME=PATH, got {text!r:.100}")
        return cls(Path(path), name)

    def load(self) -> Predictor:
        """Load the bundle that lies there now, and run it once, so that the first caller does not wait for that.

        Raises:
            BundleError, IncompatibleError: as `Predictor.load`.
        """
        path = Path(os.path.realpath(self.path))  # a link may be turned while files are read
        options = self.options
        if path.is_dir():
            trust = options.trust or TrustKey.configured()
            labels = Bundle.open(path, trust=trust, is_lazy=True).manifest.options.get("labels")
            if isinstance(labels, (list, tuple)) and "top_k" not in options.task_options:
                # Every label is listed, so that a caller may ask for any; answers are cut to the bundle's own top_k.
                options = replace_task_options(options, {"top_k": max(1, len(labels))})
        predictor = Predictor.load(path, variant=self.variant, threads=self.threads, options=options)
        _warm_up(predictor)
        return predictor

    def identity(self) -> tuple[object, ...]:
        """Return what changes when another bundle lies there."""
        path = os.path.realpath(self.path)
        file = os.path.join(path, MANIFEST) if os.path.isdir(path) else path
        try:
            found = Path(file).stat()
        except OSError:
            return (path,)
        return (path, found.st_ino, found.st_mtime_ns, found.st_size)


def replace_task_options(options: LoadOptions, more: dict[str, object]) -> LoadOptions:
    """Return `options` with more task options."""
    return LoadOptions(
        trust=options.trust,
        is_raced=options.is_raced,
        cache_dir=options.cache_dir,
        engine_options=options.engine_options,
        task_options={**options.task_options, **more},
    )


def load_all(sources: Sequence[Source]) -> dict[str, Predictor]:
    """Load every bundle, each under its name.

    Raises:
        UsageError: two of one name.
        BundleError, IncompatibleError: as `Predictor.load`.
    """
    found: dict[str, Predictor] = {}
    for source in sources:
        predictor = source.load()
        name = source.name or predictor.manifest.name
        if name in found:
            raise UsageError(f"bundle: two are named {name}; name one: NAME={source.path}")
        found[name] = predictor
    return found


class Watcher(threading.Thread):
    """Looks every few seconds whether another bundle lies at a source, and lets it answer once it has loaded.

    A bundle that does not load is told of and tried again after a growing pause; the one before it answers meanwhile.
    """

    def __init__(self, service: Service, sources: Sequence[Source], every_s: float) -> None:
        super().__init__(name="doorstep-reload", daemon=True)
        self._service = service
        self._watched = dict(zip(service.models, sources, strict=True))
        self._known = {name: source.identity() for name, source in self._watched.items()}
        self._pauses: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._every_s = every_s
        self._wake = threading.Event()
        self._is_stopped = False

    def run(self) -> None:
        """Look until stopped; with a period of 0 only when asked."""
        while not self._is_stopped:
            self._wake.wait(self._every_s or None)
            self._wake.clear()
            if not self._is_stopped:
                self.look()

    def ask(self) -> None:
        """Look now; may be called from a signal handler."""
        self._not_before.clear()
        self._wake.set()

    def stop(self) -> None:
        """End the thread."""
        self._is_stopped = True
        self._wake.set()

    def look(self) -> None:
        """Look at every source once."""
        for name, source in self._watched.items():
            seen = source.identity()
            if seen != self._known[name] and time.monotonic() >= self._not_before.get(name, 0.0):
                self._reload(name, source, seen)

    def _reload(self, name: str, source: Source, seen: tuple[object, ...]) -> None:
        served = self._service.models[name]
        try:
            predictor = source.load()
        except (DoorstepError, OSError) as error:
            pause = min(_LONGEST_PAUSE_S, 2 * self._pauses.get(name, 0.5))
            self._pauses[name] = pause
            self._not_before[name] = time.monotonic() + pause
            self._service.metrics.reloads.labels(name, "failed").inc()
            log.error("%s", json.dumps({"event": "reload failed", "model": name, "error": str(error)}))
            return
        old = served.now.predictor
        served.replace(predictor)
        self._known[name] = seen
        self._pauses.pop(name, None)
        self._service.metrics.reloads.labels(name, "loaded").inc()
        told = {"model": name, "digest": predictor.bundle.digest, "before": old.bundle.digest}
        log.info("%s", json.dumps({"event": "reloaded", "variant": predictor.variant.name, **told}))


def _warm_up(predictor: Predictor) -> None:
    examples = load_golden(predictor.bundle).examples
    for _ in range(_WARM_UP_RUNS if examples else 0):
        predictor.predict(item_of(predictor.bundle, examples[0]))
