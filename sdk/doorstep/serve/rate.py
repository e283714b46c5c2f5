"""How often one address may ask: token buckets, of which only so many are kept."""

import math
import threading
import time
from collections import OrderedDict

_MOST_ADDRESSES = 10_000


class RateLimit:
    """A bucket of `burst` tokens an address, filled at `per_second`; 0 lets everything through."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(max(1, burst))
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Take a token; return 0, or in how many seconds there will be one."""
        if self._per_second <= 0:
            return 0
        now = time.monotonic()
        with self._lock:
            tokens, then = self._buckets.pop(address, (self._burst, now))
            tokens = min(self._burst, tokens + (now - then) * self._per_second)
            is_let = tokens >= 1
            self._buckets[address] = (tokens - 1 if is_let else tokens, now)
            if len(self._buckets) > _MOST_ADDRESSES:
                self._buckets.popitem(last=False)
        return 0 if is_let else max(1, math.ceil((1 - tokens) / self._per_second))
