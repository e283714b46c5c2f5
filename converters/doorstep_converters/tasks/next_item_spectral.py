"""Where item vectors start: the leading directions of what is taken together.

The positive pointwise mutual information of neighbours, factorized (Levy & Goldberg, "Neural word embedding as implicit
matrix factorization", 2014). On Amazon's Beauty purchases a reader that starts there ranks well before it has learnt.
"""

from collections.abc import Sequence

import numpy as np

from doorstep.recommend.transitions import pairs_of
from doorstep.search.vectors import unit
from doorstep.tensors import Array

_WINDOW, _SMOOTHING = 5, 0.75


def spectral_vectors(sequences: Sequence[Sequence[int]], items: int, dimensions: int, seed: int) -> Array:
    """Return unit vectors [items, dimensions] float32; items that stand beside no other get random ones."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    pairs = pairs_of(sequences, _WINDOW)
    matrix = csr_matrix((pairs.weights, (pairs.sources, pairs.targets)), shape=(items, items))
    matrix = (matrix + matrix.T).tocoo()
    totals = np.asarray(matrix.sum(axis=1)).ravel()
    context = totals**_SMOOTHING / max(1e-9, float((totals**_SMOOTHING).sum()))
    strength = np.log(np.maximum(matrix.data / (totals[matrix.row] * context[matrix.col] + 1e-12), 1e-9))
    kept = strength > 0
    ppmi = csr_matrix((strength[kept], (matrix.row[kept], matrix.col[kept])), shape=(items, items))
    if items <= 2 * dimensions:
        left, values, _ = np.linalg.svd(ppmi.toarray())
    else:
        left, values, _ = svds(ppmi, k=dimensions, random_state=seed)
    width = min(dimensions, len(values))
    found = np.random.default_rng(seed).standard_normal((items, dimensions)) * 1e-3
    found[:, :width] += left[:, :width] * np.sqrt(values[:width])
    return unit(found).astype(np.float32)
