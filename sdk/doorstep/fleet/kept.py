"""What an agent's visits leave in a store for others: the channel as last seen, and what the last visit came to.

For information and for health bounds; what is trusted is decided elsewhere.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TypeVar

from doorstep.decoding import decode_json
from doorstep.errors import DoorstepError
from doorstep.files import write_atomic
from doorstep.fleet.channel import MAX_CHANNEL_BYTES, Channel, encode_channel
from doorstep.fleet.store import Store

FORMAT = 1
CURRENT, WAITING, ON_TRIAL, UPDATED, REFUSED, FAILED = "current", "waiting", "on trial", "updated", "refused", "failed"
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one visit came to.

    Attributes:
        kind: `current` (nothing to do), `waiting` (its turn or a window comes later), `on trial`, `updated`
            (committed), `refused` (this release will not be taken), or `failed` (to be tried again).
        text: why, for people; without a full stop.
        decision: what the channel says, and why.
        target: the release it is about; 0 for none.
        received: bytes fetched.
        is_stale: metadata was refused or has expired.
    """

    format: int
    kind: str
    text: str
    time: str
    decision: str = ""
    target: int = 0
    received: int = 0
    is_stale: bool = False


def keep_outcome(store: Store, outcome: Outcome) -> None:
    """Write down what a visit came to; a full disk must not turn a good outcome into none."""
    with suppress(OSError):
        write_atomic(store.folder / "outcome.json", json.dumps(asdict(outcome), ensure_ascii=False).encode())


def last_outcome(store: Store) -> Outcome | None:
    """Return what the last visit came to; None where none ended yet."""
    return _read(store, "outcome.json", Outcome)


def keep_channel(store: Store, channel: Channel) -> None:
    """Write down the channel, where it changed."""
    data, place = encode_channel(channel), store.folder / "channel.json"
    if not place.is_file() or place.read_bytes() != data:
        write_atomic(place, data)


def last_channel(store: Store) -> Channel | None:
    """Return the channel as it was when it was last seen; None where it never was."""
    return _read(store, "channel.json", Channel)


def _read(store: Store, name: str, kind: type[_Kept]) -> _Kept | None:
    try:
        with open(store.folder / name, "rb") as file:
            return decode_json(file.read(MAX_CHANNEL_BYTES), kind, name, FORMAT)
    except (OSError, DoorstepError):
        return None
