"""Do batches pay on this device, with this engine and these texts? Learnt from the runs themselves."""

import math

_WEIGHT = 0.1  # of the newest run in the running means
_LEAST_RUNS = 5
_PROBE_EVERY = 64
_WORTH = 0.95  # a row in company must cost at most this share of a row alone


class Payoff:
    """Running means of what a unit of work costs alone and in a batch.

    Work is counted as the rows' own lengths, so that padding counts against batches. Called by one leader at a time,
    or by several that may overwrite each other's figure, which does no harm.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._alone = _Mean()
        self._together = _Mean()
        self._run = _Mean()
        self._row = _Mean()
        self._asked = 0

    def limit(self) -> int:
        """Return how many rows the next run shall take: the most, or 1 where batches do not pay."""
        if self._pays():
            return self._most
        self._asked += 1
        return self._most if self._asked % _PROBE_EVERY == 0 else 1

    @property
    def run_seconds(self) -> float:
        """How long a run takes."""
        return self._run.value

    def note(self, rows: int, work: int, seconds: float) -> None:
        """Remember a run."""
        (self._alone if rows == 1 else self._together).add(seconds / work)
        self._run.add(seconds)
        self._row.add(seconds / rows)

    def seconds_for(self, rows: int) -> int:
        """Return in how many whole seconds so many rows will have been run, from 1 to 60."""
        return min(60, max(1, math.ceil(rows * self._row.value)))

    def _pays(self) -> bool:
        if min(self._alone.count, self._together.count) < _LEAST_RUNS:
            return True
        return self._together.value <= _WORTH * self._alone.value


class _Mean:
    """A running mean that forgets."""

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += max(_WEIGHT, 1 / self.count) * (value - self.value)
