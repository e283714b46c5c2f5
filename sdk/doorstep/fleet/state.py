"""What a device holds, and what it is about to do: one small record, changed in whole steps."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from doorstep.decoding import decode_json

FORMAT = 1
IDLE, SHADOW, TRIAL = "idle", "shadow", "trial"
MOST_CRASHES = 3
_MOST_DENIED = 32
_STAT_START = 19  # field 22 of /proc/PID/stat, counted after the name in parentheses


@dataclass(frozen=True, slots=True)
class Held:
    """A release on this device: its id, seq, the bundle's version, and when it was published (ISO 8601)."""

    id: str
    seq: int
    version: str
    created: str


@dataclass(frozen=True, slots=True)
class Denied:
    """A release that failed here and is never tried again, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Start:
    """A process that serves a release on trial and has not proven it yet: pid, start time (ticks), boot id."""

    pid: int
    ticks: int
    boot: str


@dataclass(frozen=True, slots=True)
class State:
    """The record.

    Attributes:
        phase: `idle`; `shadow` while `candidate` answers beside `current` and only that one's answers count; `trial`
            while `candidate` is served and may still go back to `current`.
        previous: what was current before; the next resort when current is damaged.
        began: when the trial began (UTC, ISO 8601).
        crashes: processes that died on trial before they had proven the candidate.
        damaged: releases whose bytes on this disk are wrong; to be fetched again, not denied.
        min_seq: releases below it are not even a fallback.
        note: what happened last, for people.
    """

    format: int = FORMAT
    phase: str = IDLE
    current: Held | None = None
    previous: Held | None = None
    candidate: Held | None = None
    began: str = ""
    crashes: int = 0
    starts: tuple[Start, ...] = ()
    denied: tuple[Denied, ...] = ()
    damaged: tuple[str, ...] = ()
    min_seq: int = 0
    note: str = ""

    @property
    def serving(self) -> Held | None:
        """The release that should be served."""
        return self.candidate if self.phase == TRIAL else self.current

    def resorts(self) -> list[Held]:
        """Return what may be served, best first."""
        fallbacks = [held for held in (self.current, self.previous) if held and held.seq >= self.min_seq]
        first = [self.serving] if self.serving else []
        return list({held.id: held for held in (*first, *fallbacks)}.values())

    def held(self) -> set[str]:
        """Return the ids that must stay on the disk."""
        return {held.id for held in (self.current, self.previous, self.candidate) if held}

    def why_denied(self, id_: str) -> str | None:
        """Return why a release is never tried again; None where it may be."""
        return next((denied.reason for denied in self.denied if denied.id == id_), None)


def decode_state(body: bytes) -> State:
    """Decode a record.

    Raises:
        FormatError: malformed.
    """
    return decode_json(body, State, "store state", FORMAT)


def encode_state(state: State) -> bytes:
    """Encode a record."""
    return json.dumps(asdict(state), ensure_ascii=False, sort_keys=True).encode()


def on_trial(state: State, candidate: Held, now: str) -> State:
    """Return the state in which `candidate` is served on trial; `current` stays what it goes back to."""
    return replace(
        repaired(state, candidate.id), phase=TRIAL, candidate=candidate, began=now, crashes=0, starts=(),
        note=f"release {candidate.id} is on trial",
    )  # fmt: skip


def on_shadow(state: State, candidate: Held, now: str) -> State:
    """Return the state in which `candidate` answers a share of the requests beside `current`, unseen."""
    note = f"release {candidate.id} answers beside the current one"
    return replace(on_trial(state, candidate, now), phase=SHADOW, note=note)


def repaired(state: State, id_: str) -> State:
    """Return the state after a release was staged again."""
    return replace(state, damaged=tuple(known for known in state.damaged if known != id_))


def refused(state: State, id_: str, reason: str) -> State:
    """Return the state after a release failed its self-test; it is never tried again here."""
    denied = (*state.denied, Denied(id_, reason))[-_MOST_DENIED:]
    return replace(state, denied=denied, note=f"release {id_} was refused: {reason}")


def committed(state: State, id_: str) -> State:
    """Return the state after the trial of `id_` ended well; unchanged where it is not on trial (any more)."""
    if state.phase != TRIAL or state.candidate is None or state.candidate.id != id_:
        return state
    previous = state.current if state.current and state.current.id != id_ else state.previous
    return replace(
        state, phase=IDLE, current=state.candidate, previous=previous, candidate=None, began="", crashes=0, starts=(),
        note=f"release {id_} is committed",
    )  # fmt: skip


def rolled_back(state: State, id_: str, reason: str, *, is_denied: bool) -> State:
    """Return the state after the trial of `id_` was given up; unchanged where it is no candidate (any more)."""
    if state.phase == IDLE or state.candidate is None or state.candidate.id != id_:
        return state
    denied = (*state.denied, Denied(id_, reason))[-_MOST_DENIED:] if is_denied else state.denied
    return replace(
        state, phase=IDLE, candidate=None, began="", crashes=0, starts=(), denied=denied,
        note=f"release {id_} was rolled back: {reason}",
    )  # fmt: skip


def gone_back(state: State, reason: str) -> State:
    """Return the state after somebody asked for the release before; that one is never current again by itself."""
    if state.candidate is not None:
        return rolled_back(state, state.candidate.id, reason, is_denied=True)
    if state.current is None or state.previous is None:
        return state
    denied = (*state.denied, Denied(state.current.id, reason))[-_MOST_DENIED:]
    note = f"release {state.current.id} was rolled back: {reason}"
    return replace(state, current=state.previous, previous=None, denied=denied, note=note)


def entered(state: State, start: Start) -> State:
    """Return the state after a process starts to serve: on trial, dead ones before it count against the candidate."""
    if state.phase != TRIAL or state.candidate is None:
        return state
    alive = tuple(known for known in state.starts if is_alive(known) and known != start)
    crashes = state.crashes + len([known for known in state.starts if not is_alive(known)])
    if crashes >= MOST_CRASHES:
        reason = f"{crashes} processes died while they served it"
        return rolled_back(state, state.candidate.id, reason, is_denied=True)
    return replace(state, crashes=crashes, starts=(*alive, start))


def left(state: State, start: Start) -> State:
    """Return the state after a process proved its release, or ended in order."""
    return replace(state, starts=tuple(known for known in state.starts if known != start))


def this_start() -> Start:
    """Return this process, as it is told from others."""
    return Start(os.getpid(), _ticks(os.getpid()), _boot_id())


def is_alive(start: Start) -> bool:
    """Tell whether the process still runs: same pid, same start time, same boot."""
    return start.boot == _boot_id() and start.ticks == _ticks(start.pid) != -1


def _ticks(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return -1
    fields = text.rpartition(")")[2].split()
    return int(fields[_STAT_START]) if len(fields) > _STAT_START and fields[0] not in "ZX" else -1


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
