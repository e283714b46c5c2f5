"""Serving what a store holds: a predictor that follows the store and never drops a request.

The new bundle is loaded and warmed beside the old one, then one pointer is turned; the old one closes when its last
request ends. While a release is on trial its answers are counted, and it is committed, or the one before is back at
once. Where memory does not hold two models, `mode="drain"` waits for the requests under way, and holds new ones, while
one is closed and the other loaded.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from doorstep.errors import DoorstepError, EngineError, UsageError
from doorstep.fleet.channel import Health
from doorstep.fleet.health import Judge, Verdicts
from doorstep.fleet.kept import last_channel
from doorstep.fleet.shadow import Shadow
from doorstep.fleet.state import SHADOW, TRIAL, Held, State, committed, entered, on_trial, rolled_back, this_start
from doorstep.fleet.store import FACTORY, Store
from doorstep.golden import item_of, load_golden
from doorstep.predictor import LoadOptions, Predictor
from doorstep.preparing import check_batch_size, check_on_error

SWAP, DRAIN = "swap", "drain"
_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class FollowOptions:
    """How to follow.

    Attributes:
        mode: `swap` holds two models for the time of a swap, and of a trial; `drain` never more than one.
        poll_s: how often the store is looked at; one `stat` of two files.
        factory: a bundle shipped with the device, the last resort.
        load: as for `Predictor.load`.
    """

    mode: str = SWAP
    poll_s: float = _POLL_S
    factory: Path | None = None
    variant: str | None = None
    threads: int | None = None
    load: LoadOptions | None = None


class Follower:
    """A predictor whose bundle changes under it. Made by `Predictor.follow`; safe to use from several threads.

    Each request is answered as a whole by one release.
    """

    def __init__(self, store: Store, options: FollowOptions) -> None:
        self._store = store
        self._options = options
        self._turn = threading.Condition()
        self._handle: _Handle | None = None
        self._standby: _Handle | None = None
        self._judge: Judge | None = None
        self._shadow: Shadow | None = None
        self._is_closed = False
        self._is_draining = False
        self._seen: tuple[int, ...] = ()
        self._wake = threading.Event()
        self._reload = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="doorstep-follow", daemon=True)
        self.swaps = 0
        """How often the bundle was changed."""
        self.last_problem = ""
        """Why the newest release could not be taken; empty where it could."""

    @classmethod
    def open(cls, product: str, store: str | Path, options: FollowOptions) -> "Follower":
        """Open the best release of `product` in `store`, and follow.

        Raises:
            StoreError: nothing there can be served.
            UsageError: an option is misspelt.
        """
        if options.mode not in (SWAP, DRAIN):
            raise UsageError(f"mode: expected {SWAP} or {DRAIN}, got {options.mode!r}")
        follower = cls(Store.open(Path(store), product, options.factory), options)
        follower._seen = follower._mark()
        booted = follower._store.boot(follower._load)
        follower._handle = _Handle(booted.held, booted.opened, follower._store)
        follower._enter(follower._store.state())
        follower._watcher.start()
        return follower

    def predict(self, item: Any) -> Any:
        """Answer one item, as `Predictor.predict` does."""
        with self._using() as handle:
            return self._count(handle, lambda: handle.predictor.predict(item), (item,))

    def predict_many(
        self, items: Sequence[Any], *, batch_size: int = 32, on_error: str = "raise", first: int = 0
    ) -> list[Any]:
        """Answer items in the order given, all by one release, as `Predictor.predict_many` does."""
        with self._using() as handle:
            many = partial(handle.predictor.predict_many, batch_size=batch_size, on_error=on_error, first=first)
            found: list[Any] = self._count(handle, lambda: many(items), items)
            return found

    def stream(self, items: Iterable[Any], *, batch_size: int = 1, on_error: str = "raise") -> Iterator[Any]:
        """Answer items as they come, as `Predictor.stream` does; a new release takes over between two batches.

        Raises:
            InputError: an item is wrong; its place in the stream is named.
        """
        check_batch_size(batch_size)
        check_on_error(on_error)
        if listen := getattr(self.predictor.task, "listen", None):
            yield from listen(items, self.predict, on_error)
            return
        pending, taken = iter(items), 0
        while chunk := list(islice(pending, batch_size)):
            yield from self.predict_many(chunk, batch_size=batch_size, on_error=on_error, first=taken)
            taken += len(chunk)

    @property
    def release(self) -> str:
        """The id of the release that answers now; `factory` for the factory's bundle."""
        return self._current().held.id

    @property
    def predictor(self) -> Predictor:
        """The predictor that answers now; it may be closed after the next swap."""
        return self._current().predictor

    def poke(self) -> None:
        """Look at the store now, and take what it holds before this returns."""
        self._take_up()

    def close(self) -> None:
        """Stop following and give the engines' memory back when the requests under way have ended."""
        with self._turn:
            if self._is_closed:
                return
            self._is_closed = True
            handles = [handle for handle in (self._handle, self._standby) if handle is not None]
            self._turn.notify_all()
        self._wake.set()
        self._watcher.join()
        self._end_shadow()
        for handle in handles:
            self._retire(handle)
        self._store.leave()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _count(self, handle: "_Handle", answer: Callable[[], Any], items: Sequence[Any]) -> Any:
        """Answer, and count it where the release is on trial or another one runs beside it."""
        judge, shadow = self._judge, self._shadow
        if judge is not None and judge.release == handle.held.id:
            try:
                return judge.ask(answer)
            finally:
                self._act_on(judge)
        result = answer()
        if shadow is not None:
            shadow.offer(items, result)
        return result

    def _act_on(self, judge: Judge) -> None:
        verdict = judge.verdict()
        if verdict == Verdicts.PROVEN:
            self._store.leave()
        if verdict in (Verdicts.GOOD, Verdicts.BAD):
            self._wake.set()

    def _watch(self) -> None:
        while not self._is_closed:
            self._wake.wait(self._options.poll_s)
            self._wake.clear()
            if self._is_closed:
                return
            try:
                self._end_trial()
                if self._mark() != self._seen:
                    self._take_up()
            except (DoorstepError, OSError) as error:  # a full disk, a store being repaired: what serves goes on
                self.last_problem = str(error)

    def _end_trial(self) -> None:
        """Commit the release on trial, give it up, or promote the shadowed one, where enough was counted."""
        judge, shadow = self._judge, self._shadow
        if judge is not None and judge.verdict() == Verdicts.GOOD:
            self._judge = None
            self._store.change(lambda state: committed(state, judge.release))
        elif judge is not None and judge.verdict() == Verdicts.BAD:
            self._judge = None
            self._store.change(lambda state: rolled_back(state, judge.release, judge.reason(), is_denied=True))
        elif shadow is not None and shadow.verdict() != Verdicts.OPEN:
            self._end_shadow()
            if shadow.verdict() == Verdicts.GOOD:
                self._store.change(lambda state: _promoted(state, shadow.release))
            else:
                self._store.change(lambda state: rolled_back(state, shadow.release, shadow.reason(), is_denied=True))

    def _take_up(self) -> None:
        """Serve what the store holds now."""
        with self._reload:
            self._seen = self._mark()
            state = self._store.state()
            handle, serving = self._current(), state.serving
            if serving is not None and serving.id != handle.held.id:
                self._change_to(state)
                state = self._store.state()
            self._enter(state)
            if state.phase != TRIAL:
                self._drop_standby()

    def _change_to(self, state: State) -> None:
        standby = self._standby
        if standby is not None and state.serving is not None and standby.held.id == state.serving.id:
            self._standby = None
            self._swap(standby, keeps_old=False)
            return
        if self._options.mode == DRAIN:
            self._drain()
            return
        booted = self._store.boot(self._load_and_warm)
        self.last_problem = "; ".join(booted.passed_over)
        if booted.held.id == self._current().held.id:
            booted.opened.close()
            return
        self._swap(_Handle(booted.held, booted.opened, self._store), keeps_old=self._store.state().phase == TRIAL)

    def _swap(self, new: "_Handle", *, keeps_old: bool) -> None:
        with self._turn:
            old, self._handle = self._handle, new
            self.swaps += 1
        if old is not None and keeps_old:
            self._drop_standby()
            self._standby = old
        elif old is not None:
            self._retire(old)

    def _drain(self) -> None:
        """Close the old one before the new one is loaded; requests wait meanwhile."""
        with self._turn:
            self._is_draining = True
            old = self._handle
            self._turn.wait_for(lambda: old is None or old.uses == 0)
        try:
            if old is not None:
                old.close()
            booted = self._store.boot(self._load_and_warm)
            self.last_problem = "; ".join(booted.passed_over)
            with self._turn:
                self._handle = _Handle(booted.held, booted.opened, self._store)
                self.swaps += 1
        finally:
            with self._turn:
                self._is_draining = False
                self._turn.notify_all()

    def _enter(self, state: State) -> None:
        """Begin to count, where the store says so."""
        held = self._current().held
        health = self._health()
        if state.phase == TRIAL and state.candidate == held:
            if self._judge is None or self._judge.release != held.id:
                start = this_start()
                if start not in state.starts:
                    self._store.change(lambda known: entered(known, start))
                self._judge = Judge(held.id, health)
        else:
            self._judge = None
        if state.phase == SHADOW and state.candidate is not None and self._options.mode == SWAP:
            if self._shadow is None or self._shadow.release != state.candidate.id:
                self._end_shadow()
                self._begin_shadow(state.candidate, health)
        else:
            self._end_shadow()

    def _begin_shadow(self, candidate: Held, health: Health) -> None:
        try:
            predictor = self._load_and_warm(self._store.place(candidate))
        except DoorstepError as error:
            reason = str(error)
            self._store.change(lambda state: rolled_back(state, candidate.id, reason, is_denied=True))
            return
        self._shadow = Shadow(candidate.id, predictor, health, self._store.folder / "shadow", self._wake.set)

    def _end_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            shadow.close()

    def _health(self) -> Health:
        channel = last_channel(self._store)
        return channel.health if channel else Health()

    def _load(self, folder: Path) -> Predictor:
        options = self._options
        return Predictor.load(folder, variant=options.variant, threads=options.threads, options=options.load)

    def _load_and_warm(self, folder: Path) -> Predictor:
        """Load, and answer the first golden example, so that no user waits for what engines put off."""
        predictor = self._load(folder)
        try:
            for example in load_golden(predictor.bundle).examples[:1]:
                predictor.predict(item_of(predictor.bundle, example))
        except DoorstepError:
            predictor.close()
            raise
        return predictor

    def _current(self) -> "_Handle":
        handle = self._handle
        if handle is None:
            raise EngineError("the predictor is closed")
        return handle

    @contextlib.contextmanager
    def _using(self) -> Iterator["_Handle"]:
        with self._turn:
            self._turn.wait_for(lambda: not self._is_draining)
            if self._is_closed:
                raise EngineError("the predictor is closed")
            handle = self._current()
            handle.uses += 1
        try:
            yield handle
        finally:
            with self._turn:
                handle.uses -= 1
                is_last = handle.uses == 0
                if is_last:
                    self._turn.notify_all()
            if is_last and handle.is_retired:
                handle.close()

    def _retire(self, handle: "_Handle") -> None:
        with self._turn:
            handle.is_retired = True
            is_unused = handle.uses == 0
        if is_unused:
            handle.close()

    def _drop_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is not None:
            self._retire(standby)

    def _mark(self) -> tuple[int, ...]:
        """Return what changes when the store's record does."""
        found = []
        for name in ("state.0", "state.1"):
            try:
                status = (self._store.folder / name).stat()
                found += [status.st_mtime_ns, status.st_size, status.st_ino]
            except OSError:
                found.append(0)
        return tuple(found)


class _Handle:
    """A loaded release, and how many requests are in it."""

    def __init__(self, held: Held, predictor: Predictor, store: Store) -> None:
        self.held = held
        self.predictor = predictor
        self.uses = 0
        self.is_retired = False
        self._closing = threading.Lock()
        self._lease = contextlib.ExitStack()
        if held != FACTORY:
            self._lease.enter_context(store.lease(held))

    def close(self) -> None:
        with self._closing:
            self.predictor.close()
            self._lease.close()


def _promoted(state: State, id_: str) -> State:
    """Return the state in which the shadowed release goes on trial."""
    if state.phase != SHADOW or state.candidate is None or state.candidate.id != id_:
        return state
    return replace(on_trial(state, state.candidate, state.began), note=f"release {id_} agreed, and is on trial")
