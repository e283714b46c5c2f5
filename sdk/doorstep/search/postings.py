"""Which document holds which term: inverted lists as flat arrays, good for being memory-mapped.

`bm25`: Robertson & Zaragoza 2009, k1 1.2, b 0.75. `tfidf`: cosine of vectors
(1 + ln tf) · (ln((1 + n) / (1 + df)) + 1).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from doorstep.errors import FormatError
from doorstep.search.terms import ANALYZERS
from doorstep.tensors import Array

PARTS = ("keys", "starts", "docs", "weights", "rarity")
BUDGET = 150_000
"""Entries one query may add up; the commonest terms beyond it are left out, so that time stays bounded."""

_K1, _B = 1.2, 0.75


class Statistics(NamedTuple):
    """What weights depend on beyond one document: documents, mean length in terms, key to documents that hold it."""

    documents: int
    mean_length: float
    holders: Callable[[int], int]


class Postings(NamedTuple):
    """Inverted lists of one analyzer.

    Attributes:
        kind: `bm25` or `tfidf`.
        documents: how many there are.
        keys: [terms] uint32, rising.
        starts: [terms + 1] int64, where each term's entries begin.
        docs: [entries] int32, document numbers.
        weights: [entries] float16.
        rarity: [terms] float32, the weight of a term in a query.
    """

    kind: str
    analyzer: str
    documents: int
    keys: Array
    starts: Array
    docs: Array
    weights: Array
    rarity: Array

    def scores(self, text: str, budget: int = BUDGET) -> Array:
        """Return the score of every document, [documents] float64; cosines for `tfidf`."""
        return self.look_up(text, budget).scores()

    def look_up(self, text: str, budget: int = BUDGET) -> "Matches":
        """Find the entries of a query's terms, rare terms first."""
        terms = ANALYZERS[self.analyzer](text)
        wanted = np.fromiter(terms.keys(), np.uint32, len(terms))
        every = np.fromiter(terms.values(), np.float32, len(terms))
        places = np.searchsorted(self.keys, wanted)
        places[places == len(self.keys)] = 0
        known = self.keys[places] == wanted if len(self.keys) else np.zeros(len(wanted), bool)
        if not known.any():
            return Matches.none(self.documents)
        places, counts = places[known], every[known]
        weights: Array = (
            (1 + np.log(counts)) * self.rarity[places] if self.kind == "tfidf" else np.ones_like(counts)
        )  # [terms]
        missing = 0.0
        if self.kind == "tfidf":
            unknown = 1 + np.log(every[~known])
            missing = float(np.square(unknown).sum()) * _unseen(self.documents)
            whole = float(np.square(weights).sum()) + missing
            weights, missing = weights / np.sqrt(whole), missing / whole
        lengths = self.starts[places + 1] - self.starts[places]
        order = np.argsort(lengths, kind="stable")  # rare terms say most and cost least
        order = order[: max(1, int(np.searchsorted(np.cumsum(lengths[order]), budget, side="right")))]
        found = [slice(int(self.starts[place]), int(self.starts[place + 1])) for place in places[order]]
        docs = np.concatenate([self.docs[part] for part in found])
        entries = np.concatenate([self.weights[part] for part in found]).astype(np.float32)
        return Matches(self.documents, docs, entries, weights[order], lengths[order], missing)

    def statistics(self) -> Statistics:
        """Return what the weights of documents that are added later depend on."""

        def holders(key: int) -> int:
            place = int(np.searchsorted(self.keys, np.uint32(key)))
            is_known = place < len(self.keys) and int(self.keys[place]) == key
            return int(self.starts[place + 1] - self.starts[place]) if is_known else 0

        return Statistics(self.documents, 0.0, holders)


class Matches(NamedTuple):
    """Entries of a query's terms, term after term.

    Attributes:
        docs, entries: [entries] int32 and float32, documents and the weights of the term in them.
        weights, lengths: [terms], the weight of each term in the query, and how many entries it has.
        missing: share of the query that no document holds (0 to 1), for `tfidf`.
    """

    documents: int
    docs: Array
    entries: Array
    weights: Array
    lengths: Array
    missing: float

    @classmethod
    def none(cls, documents: int) -> "Matches":
        """Return what a query has of which no term is known."""
        nothing = np.zeros(0, np.float32)
        return cls(documents, np.zeros(0, np.int32), nothing, nothing, nothing, 1.0)

    def scores(self) -> Array:
        """Return the score of every document, [documents] float64."""
        return np.bincount(self.docs, self.entries * self._of_each(self.weights), minlength=self.documents)

    def shares(self) -> Array:
        """Return how much of the query each document covers, by the squares of its weights: [documents], 0 to 1."""
        squares = np.square(self.weights)
        whole = float(squares.sum()) + self.missing
        return np.bincount(self.docs, self._of_each(squares / max(whole, 1e-9)), minlength=self.documents)

    def _of_each(self, values: Array) -> Array:
        return np.repeat(values, self.lengths.astype(np.int64))


def build_postings(kind: str, analyzer: str, texts: Sequence[str], like: Postings | None = None) -> Postings:
    """Index `texts`; `like` gives the statistics of a larger catalogue that they are added to."""
    if kind not in ("bm25", "tfidf"):
        raise FormatError(f"postings: expected bm25 or tfidf, got {kind!r}")
    found = [ANALYZERS[analyzer](text) for text in texts]
    lengths = np.array([counts.total() for counts in found], np.float32)
    own = Counter(key for counts in found for key in counts)
    larger = like.statistics() if like is not None else None
    total = len(texts) + (larger.documents if larger else 0)
    keys = np.fromiter(own, np.uint32, len(own))
    keys.sort()
    held = np.array([own[int(key)] + (larger.holders(int(key)) if larger else 0) for key in keys], np.float32)
    if kind == "bm25":
        rarity = np.log1p((total - held + 0.5) / (held + 0.5))
    else:
        rarity = np.log((1 + total) / (1 + held)) + 1
    docs = np.repeat(np.arange(len(texts), dtype=np.int32), [len(counts) for counts in found])
    entries = np.fromiter((key for counts in found for key in counts), np.uint32, len(docs))
    tf = np.fromiter((n for counts in found for n in counts.values()), np.float32, len(docs))
    places = np.searchsorted(keys, entries)
    if kind == "bm25":
        mean = float(lengths.mean()) if len(lengths) else 1.0
        norm = _K1 * (1 - _B + _B * lengths[docs] / max(mean, 1e-9))
        weights = rarity[places] * tf * (_K1 + 1) / (tf + norm)
    else:
        weights = (1 + np.log(tf)) * rarity[places]
        norms = np.sqrt(np.bincount(docs, np.square(weights), minlength=len(texts)))
        weights = weights / np.maximum(norms[docs], 1e-9)
    order = np.argsort(places, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=len(keys)))]).astype(np.int64)
    return Postings(
        kind=kind,
        analyzer=analyzer,
        documents=len(texts),
        keys=keys,
        starts=starts,
        docs=docs[order],
        weights=weights[order].astype(np.float16),
        rarity=rarity.astype(np.float32),
    )


def _unseen(documents: int) -> float:
    """Return the squared rarity of a term that no document holds."""
    return float((np.log(1 + documents) + 1) ** 2)
