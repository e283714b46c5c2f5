"""A second teacher, which counts words, joins the first: students learn from what both say together.

It errs elsewhere than an encoder does. A labelled text is answered by a fit that has not seen its label, where the
first teacher has learnt it. Sources: Hinton et al., Distilling the Knowledge in a Neural Network (ensembles),
https://arxiv.org/abs/1503.02531; Wang and Manning, Baselines and Bigrams, ACL 2012, for how well counting does.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.errors import DataError
from doorstep.tensors import Array
from doorstep_converters.ask import ask
from doorstep_converters.calibration_error import fit_temperature, tempered
from doorstep_converters.students.vocabulary import is_dense
from doorstep_converters.taught import open_taught, read_index, write_index, write_shard
from doorstep_converters.teach import SHARD
from doorstep_converters.worker import Channel

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Of the second teacher's log probabilities; the first is the better one, so it has at least half."""
_FOLDS = 5
_INVERSE_PENALTY = 10.0
_MOST_FEATURES = 100_000  # of words, and as many of pieces of words
_TINY = 1e-9


def join(
    out: Path,
    channel: Channel,
    checkpoint: str,
    taught: str,
    data: str,
    max_length: int,
    seed: int,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Write a taught corpus whose logits are both teachers' log probabilities, averaged; a job of `stages`.

    How much the second one counts is chosen on dev, by the log loss after the best temperature; it may be nothing.

    Args:
        checkpoint: the first teacher, which answered the corpus.
        taught: folder that `teach.answer` wrote.
        data: JSON file `{"train": [[text, label]…], "dev": [[text, label]…]}`.
        max_length: tokens the first teacher reads of a text.
        seed: of the folds.
        precision: of the first teacher's matrix products, as `precision.is_bf16` reads it.

    Raises:
        DataError: a label that the first teacher lacks, or too few texts to make folds of.
    """
    index, corpus = read_index(Path(taught)), open_taught(Path(taught))
    content = json.loads(Path(data).read_text(encoding="utf-8"))
    pairs = {split: ([text for text, _ in content[split]], _places(content[split], index.labels)) for split in content}
    counts = Counts.fit(*pairs["train"], len(index.labels), seed)
    channel.progress(0.5)
    texts, truth = pairs["dev"]
    first = np.log(
        np.maximum(ask(Path(checkpoint), texts, max_length, _silent, say=channel.note, precision=precision), _TINY)
    )
    share, figures = _choose(first, counts.answer(texts), truth)
    for number, start in enumerate(range(0, len(corpus), SHARD)):
        rows = corpus[start : start + SHARD]
        own = _log_probabilities(np.asarray(rows["logits"], np.float32))  # [rows, classes]
        both = (1 - share) * own + share * counts.answer(rows["text"]) if share else own
        columns = {**rows, "logits": list(both.astype(np.float32))}
        if "vector" in rows:
            columns["vector"] = [np.asarray(vector, np.float16) for vector in rows["vector"]]
        if "relations" in rows:
            columns["relations"] = [np.asarray(values, np.float16) for values in rows["relations"]]
        write_shard(out / f"{number:05}.arrow", columns, index.extras)
        channel.progress(0.5 + (start + len(own)) / (2 * len(corpus)))
    for path in out.glob("*.sha256"):
        path.unlink()
    write_index(out, index)
    channel.note(
        f"a second teacher, which counts words, makes {share:.0%} of the lessons: on dev the first has "
        f"{figures['first']:.4f} right, it has {figures['second']:.4f}, both together {figures['both']:.4f}"
    )
    return {"rows": len(corpus), "labels": list(index.labels), "share": share, **figures}


class Counts:
    """Counts of words and of pieces of words, weighted by how rare they are, and a linear classifier for each fold."""

    def __init__(self, features: Any, models: Sequence[Any], folds: dict[str, int], classes: int) -> None:
        self._features = features
        self._models = models
        self._folds = folds
        self._classes = classes

    @classmethod
    def fit(cls, texts: Sequence[str], truth: Sequence[int], classes: int, seed: int) -> "Counts":
        """Fit one classifier without each fold of the texts; a text twice is in one fold."""
        from sklearn.linear_model import LogisticRegression

        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if len(places) < 2 * _FOLDS:
            raise DataError(f"second teacher: expected {2 * _FOLDS} texts or more to learn from, got {len(places)}")
        order = np.random.default_rng(seed).permutation(len(places))
        folds = {text: int(order[place]) % _FOLDS for text, place in places.items()}
        features = _features(texts)
        matrix, right = features.fit_transform(texts), np.asarray(truth)  # [texts, features], [texts]
        of_text = np.array([folds[text] for text in texts])
        models = []
        for fold in range(_FOLDS):
            seen = of_text != fold
            models.append(LogisticRegression(C=_INVERSE_PENALTY, max_iter=200).fit(matrix[seen], right[seen]))
        return cls(features, models, folds, classes)

    def answer(self, texts: Sequence[str]) -> Array:
        """Return log probabilities [texts, classes] float64: the fold's that has not seen a text, else all folds'."""
        matrix = self._features.transform(texts)
        every = np.full((_FOLDS, len(texts), self._classes), np.log(_TINY))
        for fold, model in enumerate(self._models):  # one may have seen no text of a class
            every[fold][:, model.classes_] = np.maximum(model.predict_log_proba(matrix), np.log(_TINY))
        found = every.mean(axis=0)  # [texts, classes]
        for place, text in enumerate(texts):
            if text in self._folds:
                found[place] = every[self._folds[text], place]
        return _log_probabilities(found)


def _features(texts: Sequence[str]) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    options = {"sublinear_tf": True, "max_features": _MOST_FEATURES}
    if is_dense(texts):  # written without spaces
        return TfidfVectorizer(analyzer="char", ngram_range=(1, 3), **options)
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), **options),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **options),
    )


def _choose(first: Array, second: Array, truth: Sequence[int]) -> tuple[float, dict[str, float]]:
    """Return the second teacher's share, and what each teacher and both have right on dev."""
    losses = {share: _log_loss((1 - share) * first + share * second, truth) for share in SHARES}
    share = min(losses, key=lambda one: losses[one])
    right = np.asarray(truth)

    def accuracy(logits: Array) -> float:
        return round(float((logits.argmax(axis=1) == right).mean()), 4)

    both = accuracy((1 - share) * first + share * second)
    return share, {"first": accuracy(first), "second": accuracy(second), "both": both}


def _log_loss(logits: Array, truth: Sequence[int]) -> float:
    probabilities = np.exp(_log_probabilities(logits))  # [texts, classes]
    scaled = tempered(probabilities, fit_temperature(probabilities, truth))
    return float(-np.log(np.maximum(scaled[np.arange(len(truth)), np.asarray(truth)], _TINY)).mean())


def _log_probabilities(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def _places(rows: Sequence[tuple[str, str]], labels: Sequence[str]) -> list[int]:
    places = {label: place for place, label in enumerate(labels)}
    if unknown := {label for _, label in rows} - set(places):
        raise DataError(f"second teacher: the first one lacks the label {min(unknown)!r:.60}")
    return [places[label] for _, label in rows]


def _silent(share: float) -> None:
    pass
