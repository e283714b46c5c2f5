"""What was taken after what, counted: rows of a sparse matrix as flat arrays, good for being memory-mapped."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from doorstep.errors import FormatError
from doorstep.tensors import Array

PARTS = ("starts", "items", "weights")
MOST = 100
"""Followers kept of each item, the most frequent ones, so that one answer's work is bounded."""


class Followers(NamedTuple):
    """Items that followed: numbers [followers] int64, rising, and their shares [followers] float32."""

    numbers: Array
    shares: Array


class Transitions(NamedTuple):
    """Followers of each item.

    Attributes:
        starts: [items + 1] int64, where each item's followers begin.
        items: [entries] int32, numbers of the followers.
        weights: [entries] float16, the share of each among what was counted after the item (0 to 1).
    """

    starts: Array
    items: Array
    weights: Array

    def check(self, count: int) -> "Transitions":
        """Return this table, which must belong to `count` items.

        Raises:
            FormatError: it does not, or its parts contradict each other.
        """
        fits = len(self.starts) == count + 1 and len(self.items) == len(self.weights) == int(self.starts[-1])
        if not fits or int(self.starts[0]) != 0 or bool((np.diff(self.starts) < 0).any()):
            raise FormatError(
                f"transitions: expected rows for {count} items, got {len(self.starts) - 1} or broken ones"
            )
        if len(self.items) and not 0 <= int(self.items.min()) <= int(self.items.max()) < count:
            raise FormatError(f"transitions: expected numbers below {count}")
        return self

    def after(self, history: Sequence[int], decay: float) -> Followers:
        """Return what followed the items of a history, newest first; numbers without a row say nothing.

        Args:
            decay: what an item counts beside the one after it (0 to 1).
        """
        rows = [
            (slice(int(self.starts[number]), int(self.starts[number + 1])), decay**age)
            for age, number in enumerate(history)
            if 0 <= number < len(self.starts) - 1
        ]
        if not rows:
            return Followers(np.zeros(0, np.int64), np.zeros(0, np.float32))
        items = np.concatenate([self.items[part] for part, _ in rows])
        shares = np.concatenate([self.weights[part].astype(np.float32) * share for part, share in rows])
        numbers, places = np.unique(items, return_inverse=True)
        return Followers(numbers.astype(np.int64), np.bincount(places, shares, len(numbers)).astype(np.float32))


class Counting(NamedTuple):
    """How transitions are counted.

    Attributes:
        window: items behind an item that still count as following it; one at a distance of d counts 1 / d.
        backward: what an item counts as the follower of one that comes after it, beside the other way round.
        smoothing: added to what was counted after an item before shares are taken.
    """

    window: int = 5
    backward: float = 0.0
    smoothing: float = 1.0


class Pairs(NamedTuple):
    """Items that stand near each other: numbers of the earlier and the later one, and 1 / distance."""

    sources: Array
    targets: Array
    weights: Array


def pairs_of(sequences: Sequence[Sequence[int]], window: int) -> Pairs:
    """Return every pair of items at most `window` apart; for the workshop."""
    flat = np.concatenate([np.asarray(sequence, np.int64) for sequence in sequences] or [np.zeros(0, np.int64)])
    owner = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    found = []
    for distance in range(1, window + 1):
        together = owner[:-distance] == owner[distance:]
        before, behind = flat[:-distance][together], flat[distance:][together]
        found.append(Pairs(before, behind, np.full(len(before), 1 / distance)))
    return Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def count_transitions(sequences: Sequence[Sequence[int]], items: int, counting: Counting) -> Transitions:
    """Count what follows what in sequences of item numbers; for the workshop."""
    pairs = pairs_of(sequences, counting.window)
    keys = np.concatenate([pairs.sources * items + pairs.targets, pairs.targets * items + pairs.sources])
    weights = np.concatenate([pairs.weights, counting.backward * pairs.weights])
    distinct, places = np.unique(keys[weights > 0], return_inverse=True)
    counted = np.bincount(places, weights[weights > 0], len(distinct))
    return _rows(distinct, counted, items, counting.smoothing)


def _rows(pairs: Array, weights: Array, items: int, smoothing: float) -> Transitions:
    """Lay counted pairs out row by row, without an item's own, the most frequent of each row."""
    source, target = np.divmod(pairs, items)
    is_other = source != target
    source, target, weights = source[is_other], target[is_other], weights[is_other]
    totals = np.bincount(source, weights, items)
    shares = weights / (totals[source] + smoothing)
    order = np.lexsort((target, -shares, source))
    source, target, shares = source[order], target[order], shares[order]
    first = np.searchsorted(source, np.arange(items))
    is_kept = np.arange(len(source)) - first[source] < MOST
    counts = np.bincount(source[is_kept], minlength=items)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Transitions(starts, target[is_kept].astype(np.int32), shares[is_kept].astype(np.float16))
