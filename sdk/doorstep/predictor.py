"""`Predictor`: a bundle, the variant that fits this device, one item in, one result out."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from doorstep.bundle import Bundle
from doorstep.device import Device
from doorstep.errors import EngineError, IncompatibleError, InputError, MissingExtraError, UsageError
from doorstep.manifest import Manifest, Variant
from doorstep.preparing import check_batch_size, check_on_error, prepared
from doorstep.record import Record
from doorstep.selection import Ranking, Why, rank
from doorstep.session import Graph, Session, SessionOptions, import_adapter, open_session
from doorstep.signing import TrustKey
from doorstep.tasks import Task, load_task

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from doorstep.explain import Explanation, Faithfulness
    from doorstep.fleet.follow import Follower, FollowOptions


class LoadOptions(Record):
    """The settings of `Predictor.load` that few callers need.

    Attributes:
        trust: public key the bundle must be signed with; None takes the configured one
            (DOORSTEP_TRUST_KEY, then `TrustKey.configured`'s files), and without any accepts every bundle.
        is_raced: time the best variants once on this device (0.2 s each) and remember the winner in `cache_dir`.
        cache_dir: where races and engines' compiled models are kept; None takes DOORSTEP_CACHE, else nowhere.
        engine_options: raw options in the engine's own words.
        task_options: replace options of the bundle's task, for example `{"top_k": 3, "abstain_below": 0.6}`.
        lanes: predictions that may run at the same time, each with `threads` of its own. More answers a second where
            many threads ask; one caller alone waits longer, since each lane has fewer cores.
    """

    trust: TrustKey | None = None
    is_raced: bool = False
    cache_dir: str | Path | None = None
    engine_options: dict[str, Any] = {}
    task_options: dict[str, Any] = {}
    lanes: int = 1


class Predictor:
    """A model ready to answer. Made by `Predictor.load`; safe to use from several threads."""

    def __init__(self, bundle: Bundle, variant: Variant, session: Session, task: Task, why: Why) -> None:
        self.bundle = bundle
        self.variant = variant
        self.why = why
        """Which variant and engine were chosen, and why not the others; `str()` of it is a table."""
        self._session = session
        self._task = task

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        variant: str | None = None,
        threads: int | None = None,
        strict: bool = False,
        options: LoadOptions | None = None,
    ) -> Predictor:
        """Open a bundle, verify it, choose the variant that fits this device, and load it. Never touches the network.

        Args:
            source: a bundle folder, or its single-file form.
            variant: the name of a variant (`onnx-int8`) or of a runtime (`onnx`); None chooses.
                DOORSTEP_VARIANT says the same.
            threads: threads one prediction may use; None takes DOORSTEP_THREADS, else the cores that affinity
                and cgroup grant this process.
            strict: raise where the best variant cannot be loaded, instead of taking the next one.

        Raises:
            BundleError: not a bundle, altered, or not signed by the trusted key.
            IncompatibleError: no variant fits, or `strict` and the best one fails.
            UsageError: an argument is misspelt or out of range.
        """
        options = options or LoadOptions()
        cache_dir = options.cache_dir or os.environ.get("DOORSTEP_CACHE") or None
        trust = options.trust or TrustKey.configured()
        folder = os.fspath(source)
        if os.path.isfile(folder):
            from doorstep.single_file import unpack_cached  # a ZIP reader most devices never need

            folder = os.fspath(unpack_cached(folder, cache_dir, trust))
        bundle = Bundle.open(folder, trust=trust, is_lazy=True)
        device = Device.detect()
        wanted = variant or os.environ.get("DOORSTEP_VARIANT") or None
        ranking = rank(bundle.manifest.variants, device, wanted, bundle.has)
        session_options = SessionOptions(_threads(threads, device), cache_dir, options.engine_options, options.lanes)
        opener = _Opener(bundle, session_options, options.task_options)
        is_raced = options.is_raced or os.environ.get("DOORSTEP_RACE") == "1"
        if is_raced and len(ranking.usable) > 1:
            from doorstep.race import race

            ranking = race(ranking, bundle, device, opener.open, cache_dir)
        return opener.first(ranking, strict or os.environ.get("DOORSTEP_STRICT") == "1")

    @classmethod
    def follow(cls, product: str, *, store: str | Path, options: FollowOptions | None = None) -> Follower:
        """Serve what `doorstep agent` keeps in `store`, and change to a new release without dropping a request.

        Never touches the network. See `sdk/docs/fleet.md`.

        Raises:
            StoreError: nothing there can be served.
        """
        from doorstep.fleet.follow import Follower, FollowOptions

        return Follower.open(product, store, options or FollowOptions())

    def predict(self, item: Any) -> Any:
        """Answer one item.

        Raises:
            InputError: the item has the wrong type, size or content.
            EngineError: the engine failed.
        """
        return self.answer(self._task.prepare((item,)))[0]

    def predict_many(
        self, items: Sequence[Any], *, batch_size: int = 32, on_error: str = "raise", first: int = 0
    ) -> list[Any]:
        """Answer items in the order given; items of like length share a batch.

        Args:
            on_error: `raise`, or `return` to get the `InputError` of a wrong item in its place and answer the others.
            first: place of the first item, for errors, where these are a part of more.

        Raises:
            InputError: an item is wrong (its place is named); nothing was computed.
        """
        if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
            raise InputError(f"items: expected a list of items, got {type(items).__name__}; use predict for one")
        check_batch_size(batch_size)
        check_on_error(on_error)
        return self._answers(prepared(self._task, list(items), on_error, first), batch_size)

    def _answers(self, rows: list[Any], batch_size: int) -> list[Any]:
        task = self._task
        usable = [place for place, row in enumerate(rows) if not isinstance(row, InputError)]
        order = sorted(usable, key=lambda place: task.length(rows[place]))
        results: list[Any] = list(rows) if len(usable) < len(rows) else [None] * len(rows)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = [rows[place] for place in places]
            for place, result in zip(places, self.answer(batch), strict=True):
                results[place] = result
        return results

    def stream(self, items: Iterable[Any], *, batch_size: int = 1, on_error: str = "raise") -> Iterator[Any]:
        """Answer items as they come, in order. `batch_size` items are awaited before the first answer.

        For a task that listens, items are chunks of one long recording, of any size; what is answered are the
        utterances in it, each as soon as it ends.

        Args:
            on_error: `raise`, or `return` to get the `InputError` of a wrong item in its place and go on with the next;
                of a wrong chunk as it comes, and what is heard goes on as if it had not been there.

        Raises:
            InputError: an item is wrong; its place in the stream is named.
        """
        check_batch_size(batch_size)
        check_on_error(on_error)
        if listen := getattr(self._task, "listen", None):
            yield from listen(items, self.predict, on_error)
            return
        pending, taken = iter(items), 0
        while chunk := list(islice(pending, batch_size)):
            yield from self.predict_many(chunk, batch_size=batch_size, on_error=on_error, first=taken)
            taken += len(chunk)

    def prepare(self, items: Sequence[Any]) -> Sequence[Any]:
        """Turn items into rows for `answer`, for callers that batch by themselves.

        Raises:
            InputError: an item is wrong; its place is named.
        """
        return self._task.prepare(items)

    def length(self, row: Any) -> int:
        """Return the work a prepared row makes; rows of like length share a batch."""
        return self._task.length(row)

    def answer(self, rows: Sequence[Any]) -> list[Any]:
        """Answer prepared rows as one batch, in the order given; of a task with `most_rows`, that many at a time.

        A task may have an `answer(rows, run)` of its own, which runs the engine as often as it needs to.

        Raises:
            InputError: the rows cannot share a batch.
            EngineError: the engine failed.
        """
        task = self._task
        if in_parts := getattr(task, "answer", None):
            results: list[Any] = in_parts(rows, self._session.run)
            return results
        most = getattr(task, "most_rows", len(rows))
        if len(rows) <= most:
            return task.results(self._session.run(task.collate(rows)), rows)
        return [result for start in range(0, len(rows), most) for result in self.answer(rows[start : start + most])]

    def explain(
        self, item: Any, *, label: str | None = None, max_parts: int = 64, reference: Any = None
    ) -> Explanation:
        """Say what in the item speaks for a label, the best one where none is named: see `doorstep.explain`.

        Args:
            label: what a task calls so is told in `sdk/docs/explain.md`: a class, a ranked id, a span, a word heard.
            reference: of a task of vectors, another item or its vector: what makes the two alike?

        Raises:
            InputError: the item is wrong, or the model has no such label.
            UsageError: this task cannot be explained so, or `max_parts` is out of range.
            EngineError: the engine failed.
        """
        from doorstep.explain import explain

        return explain(self._session, self._task, item, label, max_parts, reference)

    def faithfulness(self, items: Sequence[Any], *, max_parts: int = 64) -> Faithfulness:
        """Say whether explanations tell the truth: deleting what they rank highest must cost more than deleting any.

        Raises:
            UsageError: this task cannot be explained, or no item has two parts.
            InputError, EngineError: as `explain`.
        """
        from doorstep.explain import faithfulness

        return faithfulness(self._session, self._task, items, max_parts)

    @property
    def task(self) -> Task:
        """The task's own side, for example `predictor.task.catalogue` of a search."""
        return self._task

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    def close(self) -> None:
        """Give the engine's memory back."""
        self._session.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Opener(NamedTuple):
    """Opens a variant of one bundle."""

    bundle: Bundle
    session_options: SessionOptions
    task_options: dict[str, Any]

    def open(self, variant: Variant, why: Why) -> Predictor:
        """Hash the variant's files on another core, while this one imports the engine and parses the tokenizer.

        The engine opens nothing before its files are verified.
        """
        with _Background(lambda: self.bundle.verify(variant.files)) as verified:
            import_adapter(variant.runtime)
            task = load_task(self.bundle, variant.inputs, self.task_options)
        verified.result()
        graph = Graph(self.bundle.file(variant.entry), variant.inputs, variant.outputs)
        session = open_session(variant.runtime, graph, self.session_options)
        return Predictor(self.bundle, variant, session, task, why)

    def first(self, ranking: Ranking, is_strict: bool) -> Predictor:
        """Open the best variant that an engine accepts."""
        fallbacks: list[str] = []
        for variant in ranking.usable:
            try:
                return self.open(variant, ranking.why(variant, fallbacks=fallbacks))
            except (EngineError, MissingExtraError) as error:
                if is_strict:
                    raise IncompatibleError(f"{variant.name} failed and strict forbids a fallback: {error}") from error
                fallbacks.append(f"{variant.name} failed: {error}")
        raise IncompatibleError(f"every variant failed: {'; '.join(fallbacks)}")


class _Background:
    """One call in a thread of its own; leaving the context waits for it."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._is_running = _thread.allocate_lock()  # importing threading costs a start 1 ms

    def __enter__(self) -> _Background:
        self._is_running.acquire()
        _thread.start_new_thread(self._run, ())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._is_running:
            pass

    def result(self) -> None:
        """Raise what the call raised."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 -- raised again by result, in the caller's thread
            self._error = error
        finally:
            self._is_running.release()


def _threads(threads: int | None, device: Device) -> int:
    text = os.environ.get("DOORSTEP_THREADS")
    if threads is None and text:
        if not text.isdecimal():
            raise UsageError(f"DOORSTEP_THREADS: expected a whole number, got {text!r}")
        threads = int(text)
    if threads is None:
        return device.cores
    if not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise UsageError(f"threads: expected 1 to 1024, got {threads!r}")
    return threads
