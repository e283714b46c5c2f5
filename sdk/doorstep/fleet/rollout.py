"""Who updates when: decided on the device, from signed data alone, and told in words.

Waves as in Bottlerocket's updog: a device's place is a hash, so it needs no server and no coordination; inside a wave
it starts at its own place in time, so that a wave is a ramp and no cliff.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from doorstep.errors import UsageError
from doorstep.fleet.channel import HALTED, PAUSED, WHOLE, Channel, Rollout, Wave
from doorstep.fleet.clock import from_text, to_text

_WAVE = re.compile(r"(\d{1,3}(?:\.\d{1,2})?)%(?: after (\d{1,5})([mhd]))?")
_UNIT = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


@dataclass(frozen=True, slots=True)
class Subject:
    """The device that decides: its id, and its labels (cohorts, hardware revision)."""

    device: str
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decision:
    """What a device should run.

    Attributes:
        seq: the release; 0 for none yet.
        reason: why, as a sentence for people.
        due: when a later wave reaches this device; None where nothing is known to come.
    """

    seq: int
    reason: str
    due: datetime | None = None


def decide(channel: Channel, subject: Subject, now: datetime) -> Decision:
    """Choose the release of `channel` that `subject` should run at `now`."""
    rollout = channel.rollout
    if rollout is None:
        return Decision(channel.default, f"release {channel.default} is the channel's default for every device")
    name = f"rollout {rollout.id} of release {rollout.seq}"
    stay = channel.default
    if rollout.state == HALTED:
        return Decision(stay, f"{name} is halted")
    if denied := sorted(subject.labels & set(rollout.deny)):
        return Decision(stay, f"{name} leaves out devices labelled {denied[0]!r}, as this one is")
    if rollout.state == PAUSED:
        return Decision(stay, f"{name} is paused; devices that do not run it yet wait")
    if chosen := sorted(subject.labels & set(rollout.cohorts)):
        return Decision(rollout.seq, f"{name} goes to the cohort {chosen[0]!r} at once, and this device is in it")
    if hashlib.sha256(subject.device.encode()).hexdigest() in rollout.devices:
        return Decision(rollout.seq, f"{name} names this device")
    place = place_of(rollout.salt, subject.device)
    due = start_of(rollout, place)
    if due is None:
        widest = rollout.waves[-1].share / 100 if rollout.waves else 0
        return Decision(stay, f"{name} goes to {widest:g} % of the devices and this one is at {place / 100:.2f} %")
    if now < due:
        return Decision(stay, f"{name}: this device is at {place / 100:.2f} %, its turn is at {to_text(due)}", due)
    return Decision(rollout.seq, f"{name}: this device is at {place / 100:.2f} %, its turn was at {to_text(due)}", due)


def place_of(salt: str, device: str) -> float:
    """Return a device's place in a rollout, evenly spread over 0 (first) to 10 000 (last)."""
    digest = hashlib.sha256(f"{salt}\n{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * WHOLE


def start_of(rollout: Rollout, place: float) -> datetime | None:
    """Return when the device at `place` starts: at its own distance into its wave; None where no wave reaches it."""
    before = 0
    for number, wave in enumerate(rollout.waves):
        if place < wave.share:
            start = from_text(wave.at)
            length = timedelta(minutes=rollout.spread_minutes)
            if number + 1 < len(rollout.waves):
                length = min(length, from_text(rollout.waves[number + 1].at) - start)
            return start + length * ((place - before) / (wave.share - before))
        before = wave.share
    return None


def is_complete(rollout: Rollout, now: datetime) -> bool:
    """Tell whether the last wave takes in every device and has had its time."""
    if rollout.state in (HALTED, PAUSED) or not rollout.waves or rollout.waves[-1].share < WHOLE:
        return False
    last = start_of(rollout, WHOLE - 1e-9)
    return last is not None and now >= last


def parse_waves(text: str, now: datetime) -> tuple[Wave, ...]:
    """Read `1%, 10% after 2h, 100% after 1d`; times count from `now`.

    Raises:
        UsageError: another form, or shares or times that do not rise.
    """
    waves: list[Wave] = []
    for part in text.split(","):
        match = _WAVE.fullmatch(part.strip())
        if match is None:
            raise UsageError(f'rollout: expected such as "1%, 10% after 2h, 100% after 1d", got {part.strip()[:40]!r}')
        share = round(float(match[1]) * 100)
        after = int(match[2]) * _UNIT[match[3]] if match[2] else timedelta()
        wave = Wave(share, to_text(now + after))
        if not 0 < share <= WHOLE or (waves and (wave.share <= waves[-1].share or wave.at < waves[-1].at)):
            raise UsageError(f"rollout: {part.strip()!r}: shares rise up to 100 %, and times do not fall")
        waves.append(wave)
    return tuple(waves)


def opens_at(windows: Sequence[str], local: datetime) -> datetime | None:
    """Return when the next window opens; None inside one, or where there is none: a release may be activated now."""
    if not windows or any(_is_inside(window, local.time()) for window in windows):
        return None
    openings = [
        local.replace(hour=_times(window)[0].hour, minute=_times(window)[0].minute, second=0) for window in windows
    ]
    return min(opening if opening > local else opening + timedelta(days=1) for opening in openings)


def _is_inside(window: str, moment: time) -> bool:
    first, last = _times(window)
    return first <= moment < last if first <= last else moment >= first or moment < last


def _times(window: str) -> tuple[time, time]:
    first, _, last = window.partition("-")
    return time.fromisoformat(first), time.fromisoformat(last)
