"""What made texts must not be: copies of what is trained on, leaks of what is held out, or riddles to the teacher."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer

from doorstep.tensors import Array

NEAR = 0.8
SURE = 0.5
_SHINGLE = 4  # characters
_ROWS = 1024
_SPACE = re.compile(r"\s+")


def plain(text: str) -> str:
    """Return a text without what does not make it another one: case, width, spacing."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


class Leaks:
    """Knows held-out texts, and which other texts are the same or nearly so.

    Two texts are near where the sets of their runs of four characters overlap by `near` of their union (Jaccard,
    exact: no sketches), after `plain`.
    """

    def __init__(self, held_out: Sequence[str], near: float = NEAR) -> None:
        self._near = near
        self._plain = {plain(text) for text in held_out}
        self._vectorizer = HashingVectorizer(
            analyzer="char", ngram_range=(_SHINGLE, _SHINGLE), lowercase=False, binary=True, norm=None,
            n_features=1 << 20, alternate_sign=False, dtype=np.float32,
        )  # fmt: skip
        shingles = self._shingles(sorted(self._plain))
        self._sizes = np.asarray(shingles.sum(axis=1)).ravel()  # [held out]
        self._columns: csr_matrix = shingles.T.tocsr()

    def find(self, texts: Sequence[str]) -> Array:
        """Return for each text whether it leaks, [texts] bool."""
        shown = [plain(text) for text in texts]
        leaking = np.array([text in self._plain for text in shown], dtype=bool)
        if not self._plain:
            return leaking
        for start in range(0, len(shown), _ROWS):
            rows = self._shingles(shown[start : start + _ROWS])
            leaking[start : start + _ROWS] |= self._near_any(rows)
        return leaking

    def _near_any(self, rows: csr_matrix) -> Array:
        shared = (rows @ self._columns).tocoo()  # [texts, held out], counts
        sizes = np.asarray(rows.sum(axis=1)).ravel()
        union = sizes[shared.row] + self._sizes[shared.col] - shared.data
        near = np.zeros(rows.shape[0], dtype=bool)
        near[shared.row[shared.data >= self._near * union]] = True
        return near

    def _shingles(self, texts: Sequence[str]) -> csr_matrix:
        return csr_matrix(self._vectorizer.transform(texts)) if texts else csr_matrix((0, 1 << 20), dtype=np.float32)


def is_sure(probabilities: Array, labels: Sequence[int | None], at_least: float = SURE) -> Array:
    """Return for each text whether the teacher is sure of it, [texts] bool.

    Args:
        probabilities: the teacher's [texts, classes].
        labels: the class each text is meant to have; None where nobody says. The teacher must agree with it.
        at_least: probability of its best class.
    """
    best = probabilities.argmax(axis=1)
    meant = np.array([place if label is None else label for place, label in zip(best, labels, strict=True)])
    sure: Array = (probabilities.max(axis=1) >= at_least) & (best == meant)
    return sure
