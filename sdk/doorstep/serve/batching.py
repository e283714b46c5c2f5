"""Requests that wait together are answered together.

There is no thread of its own: the first caller leads, runs the rows that wait, and hands the lead to the caller that
waits longest (the leader/followers pattern, Schmidt et al., 2000). A caller alone pays no hand-over; under load a batch
forms by itself while the one before it runs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from doorstep.errors import DoorstepError
from doorstep.serve.options import Bounds
from doorstep.serve.payoff import Payoff
from doorstep.serve.refusals import BusyError, DeadlineError, GoneError

_STRETCH, _SLACK = 2.0, 2  # rows share a run up to so many times the shortest one's length, and so much more


class Answerer(Protocol):
    """What a batcher needs of a predictor."""

    def answer(self, rows: Sequence[Any]) -> list[Any]:
        """Answer rows as one batch."""

    def length(self, row: Any) -> int:
        """Return the work a row makes."""


class Call(NamedTuple):
    """What is known of a caller.

    Attributes:
        deadline: `time.monotonic()` after which nobody waits for the answer.
        allowed_ms: the time the caller was given, for the message.
        is_gone: tells whether the client has hung up.
    """

    deadline: float
    allowed_ms: float
    is_gone: Callable[[], bool]


class _Ticket:
    """One caller's rows."""

    __slots__ = ("call", "done", "error", "is_leader", "results", "rows", "taken", "wake")

    def __init__(self, rows: Sequence[Any], call: Call) -> None:
        self.rows = rows
        self.call = call
        self.results: list[Any] = [None] * len(rows)
        self.taken = 0
        self.done = 0
        self.error: BaseException | None = None
        self.is_leader = False
        self.wake = threading.Event()

    @property
    def is_finished(self) -> bool:
        return self.error is not None or self.done == len(self.rows)

    @property
    def refusal(self) -> BaseException | None:
        """Say why no more of its rows shall be run."""
        if time.monotonic() > self.call.deadline:
            return DeadlineError(self.call.allowed_ms)
        return GoneError() if self.call.is_gone() else None


class _Share(NamedTuple):
    """Rows `start` to `stop` of a ticket, in a batch."""

    ticket: _Ticket
    start: int
    stop: int

    def rows(self) -> Sequence[Any]:
        return self.ticket.rows[self.start : self.stop]


class Batcher:
    """The queue before one predictor. `watch(rows, seconds)` is told of every run."""

    def __init__(self, predictor: Answerer, bounds: Bounds, watch: Callable[[int, float], None]) -> None:
        self._predictor = predictor
        self._bounds = bounds
        self._watch = watch
        self._payoff = Payoff(bounds.batch)
        self._lock = threading.Lock()
        self._more = threading.Event()
        self._waiting: deque[_Ticket] = deque()
        self._leaders = 0
        self._queued = 0
        self._rate = _Rate()

    @property
    def queued(self) -> int:
        """Rows that wait for a run."""
        return self._queued

    def answer(self, rows: Sequence[Any], call: Call) -> list[Any]:
        """Return one result a row, in order.

        Raises:
            BusyError: more rows wait than the queue may hold.
            DeadlineError, GoneError: too late, or nobody is there any more; rows not begun are not run.
            InputError, EngineError: as `Predictor.answer`.
        """
        if not rows:
            return []
        ticket = _Ticket(rows, call)
        with self._lock:
            if self._queued + len(rows) > self._bounds.queue:
                raise BusyError(
                    f"queue: {self._queued} items wait and at most {self._bounds.queue} may; try again later",
                    self._payoff.seconds_for(self._queued),
                )
            self._queued += len(rows)
            self._rate.note(len(rows))
            self._waiting.append(ticket)
            if self._leaders < self._bounds.lanes:
                self._leaders += 1
                ticket.is_leader = True
            else:
                self._more.set()
        while ticket.is_leader or not ticket.is_finished:
            if ticket.is_leader:
                self._lead(ticket)
            elif not ticket.wake.wait(max(0.0, call.deadline - time.monotonic())):
                self._give_up(ticket)
        if ticket.error is not None:
            raise ticket.error
        return ticket.results

    def _lead(self, ticket: _Ticket) -> None:
        """Run one batch, deliver it, and hand the lead on."""
        try:
            self._gather()
            with self._lock:
                shares = self._take()
            if shares:
                self._run(shares)
        finally:
            with self._lock:
                ticket.is_leader = False
                self._hand_on()

    def _gather(self) -> None:
        """Wait a little for more rows, where as many come as make the wait worth while."""
        window = min(self._bounds.wait_ms / 1000, self._payoff.run_seconds / 4)
        if window > 0 and self._queued < self._payoff.limit() and self._rate.per_second * window >= 1:
            end = time.monotonic() + window
            while self._queued < self._payoff.limit() and (left := end - time.monotonic()) > 0:
                self._more.clear()
                self._more.wait(left)

    def _take(self) -> list[_Share]:
        """Take the rows of the next batch, the longest waiting first; a ticket of many rows then queues again."""
        shares: list[_Share] = []
        room = self._payoff.limit()
        for _ in range(len(self._waiting)):
            if room == 0:
                break
            ticket = self._waiting.popleft()
            if refusal := ticket.refusal:
                self._fail(ticket, refusal)
                continue
            share = _Share(ticket, ticket.taken, min(len(ticket.rows), ticket.taken + room))
            ticket.taken = share.stop
            room -= share.stop - share.start
            self._queued -= share.stop - share.start
            shares.append(share)
            if ticket.taken < len(ticket.rows):
                self._waiting.append(ticket)
        return shares

    def _run(self, shares: Sequence[_Share]) -> None:
        rows = [row for share in shares for row in share.rows()]
        results: list[Any] = [None] * len(rows)
        try:
            for places in _alike([self._predictor.length(row) for row in rows]):
                part = [rows[place] for place in places]
                start = time.perf_counter()
                for place, result in zip(places, self._predictor.answer(part), strict=True):
                    results[place] = result
                seconds = time.perf_counter() - start
                self._payoff.note(len(part), sum(map(self._predictor.length, part)) or len(part), seconds)
                self._watch(len(part), seconds)
        except DoorstepError as error:
            if len(shares) > 1:  # one caller's rows must not spoil another's
                for share in shares:
                    self._run([share])
                return
            with self._lock:
                self._fail(shares[0].ticket, error)
            return
        except BaseException as error:
            with self._lock:
                for share in shares:
                    self._fail(share.ticket, error)
            raise
        with self._lock:
            place = 0
            for ticket, first, stop in shares:
                ticket.results[first:stop] = results[place : place + stop - first]
                ticket.done += stop - first
                place += stop - first
                if ticket.done == len(ticket.rows):
                    ticket.wake.set()

    def _fail(self, ticket: _Ticket, error: BaseException) -> None:
        """Give a ticket up; the lock is held."""
        self._queued -= len(ticket.rows) - ticket.taken
        ticket.taken = len(ticket.rows)
        ticket.error = ticket.error or error
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        ticket.wake.set()

    def _hand_on(self) -> None:
        """Make the longest waiting caller the leader; the lock is held."""
        for ticket in self._waiting:
            if not ticket.is_leader:
                ticket.is_leader = True
                ticket.wake.set()
                return
        self._leaders -= 1

    def _give_up(self, ticket: _Ticket) -> None:
        with self._lock:
            if not ticket.is_leader and not ticket.is_finished:
                self._fail(ticket, DeadlineError(ticket.call.allowed_ms))


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """Group places by like length: one long row would have all others padded to it."""
    groups: list[list[int]] = []
    least = 0
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if not groups or lengths[place] > _STRETCH * least + _SLACK:
            groups.append([])
            least = lengths[place]
        groups[-1].append(place)
    return groups


class _Rate:
    """Rows that arrive in a second, the last ones counting most."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.per_second = 0.0

    def note(self, rows: int) -> None:
        now = time.monotonic()
        span = max(now - self._last, 1e-6)
        share = min(1.0, span / 0.1)
        self.per_second += share * (rows / span - self.per_second)
        self._last = now
