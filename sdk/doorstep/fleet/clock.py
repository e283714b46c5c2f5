"""The port to time, so that a test can spend a year in a millisecond."""

import time
from datetime import UTC, datetime
from typing import Protocol

_FORM = "%Y-%m-%dT%H:%M:%SZ"


class Clock(Protocol):
    """What time it is, and waiting."""

    def now(self) -> datetime:
        """Return the time of day, UTC. It may be wrong, and it may jump."""

    def monotonic(self) -> float:
        """Return seconds that only ever grow."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """This machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def to_text(moment: datetime) -> str:
    """Return a UTC time as ISO 8601 with whole seconds: `2026-01-31T08:00:00Z`."""
    return moment.astimezone(UTC).strftime(_FORM)


def from_text(text: str) -> datetime:
    """Read what `to_text` writes.

    Raises:
        ValueError: another form.
    """
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC)
