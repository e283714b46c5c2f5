"""What each transform brings: a fast student learns with and without it, over several seeds.

The student is a linear softmax classifier over hashed n-grams of words and characters, averaged stochastic gradient
descent: seconds to train, and no neural network. What it gains from a transform is a hint for other students, no
promise.
"""

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

from doorstep.tensors import Array
from doorstep_converters.augment.noise import NOISE

SEEDS = 3
Pairs = Sequence[tuple[str, str]]
"""Texts with their labels."""


def ablate(train: Pairs, made: Mapping[str, Pairs], dev: Pairs, seed: int) -> dict[str, Any]:
    """Return dev accuracies in percent, means over three seeds, and their standard deviations.

    Args:
        made: transform to the texts it made.

    Returns:
        `{"rows": [{"learnt": …, "texts": …, "accuracy": …, "deviation": …, "noisy": …}…]}`: `nothing`, each transform
        alone (`typo`), all of them (`all`), and all but each (`all but typo`). `noisy` is the mean accuracy on dev
        under every noise transform.
    """
    noisy = [change(text, Random(f"{seed}/{name}/{text}")) for name, change in NOISE.items() for text, _ in dev]
    tests = _Tests(_features([text for text, _ in dev]), _features(noisy), np.array([label for _, label in dev]))
    base = _features([text for text, _ in train])
    parts = {name: _features([text for text, _ in pairs]) for name, pairs in made.items() if pairs}
    sets: dict[str, list[str]] = {"nothing": [], **{name: [name] for name in parts}}
    if len(parts) > 1:
        sets["all"] = list(parts)
        sets |= {f"all but {name}": [other for other in parts if other != name] for name in parts}
    rows = []
    for learnt, names in sets.items():
        labels = [label for _, label in train] + [label for name in names for _, label in made[name]]
        features = csr_matrix(_stack([base, *(parts[name] for name in names)]))
        rows.append({"learnt": learnt, "texts": len(labels), **_score(features, labels, tests, seed)})
    return {"rows": rows, "seeds": SEEDS}


def ablation_table(counts: Mapping[str, Mapping[str, int]], ablation: Mapping[str, Any] | None) -> str:
    """Return what became of the made texts and, where it was measured, what they bring, for people."""
    lines = [f"{'transform':<20}{'kept':>8}{'repeated':>10}{'leaking':>9}{'unsure':>8}"]
    for name, fates in counts.items():
        figures = f"{fates['kept']:>8}{fates['repeated']:>10}{fates['leaking']:>9}{fates['unsure']:>8}"
        lines.append(f"{name:<20}{figures}")
    if ablation is None:
        return "\n".join(lines)
    nothing = ablation["rows"][0]
    lines += ["", f"{'learnt besides':<24}{'texts':>8}{'dev':>8}{'±':>6}{'gain':>7}{'under noise':>13}{'gain':>7}"]
    for row in ablation["rows"]:
        gain, noisy = row["accuracy"] - nothing["accuracy"], row["noisy"] - nothing["noisy"]
        lines.append(
            f"{row['learnt']:<24}{row['texts']:>8}{row['accuracy']:>8.2f}{row['deviation']:>6.2f}{gain:>+7.2f}"
            f"{row['noisy']:>13.2f}{noisy:>+7.2f}"
        )
    return "\n".join(lines)


def plain_ablation(found: Mapping[str, Any]) -> str:
    """Return the report as JSON."""
    return json.dumps(found, indent=1) + "\n"


class _Tests:
    def __init__(self, dev: csr_matrix, noisy: csr_matrix, labels: Array) -> None:
        self.dev = dev
        self.noisy = noisy
        self.labels = labels


def _score(features: csr_matrix, labels: Sequence[str], tests: _Tests, seed: int) -> dict[str, float]:
    plain, noisy = [], []
    for number in range(SEEDS):
        student = SGDClassifier(
            loss="log_loss", alpha=1e-6, average=True, max_iter=12, tol=None, random_state=seed + number
        )
        student.fit(features, labels)
        plain.append(100 * float((student.predict(tests.dev) == tests.labels).mean()))
        repeated = np.tile(tests.labels, len(NOISE))
        noisy.append(100 * float((student.predict(tests.noisy) == repeated).mean()))
    return {
        "accuracy": round(float(np.mean(plain)), 2),
        "deviation": round(float(np.std(plain)), 2),
        "noisy": round(float(np.mean(noisy)), 2),
    }


def _features(texts: Sequence[str]) -> csr_matrix:
    """Return hashed features [texts, 2 ** 18 + 2 ** 18]: words and pairs of words, and runs of 1 to 4 characters."""
    words = HashingVectorizer(ngram_range=(1, 2), n_features=1 << 18, alternate_sign=False)
    characters = HashingVectorizer(analyzer="char_wb", ngram_range=(1, 4), n_features=1 << 18, alternate_sign=False)
    return csr_matrix(hstack([words.transform(texts), characters.transform(texts)]))


def _stack(parts: list[csr_matrix]) -> csr_matrix:
    from scipy.sparse import vstack

    return csr_matrix(vstack(parts))
