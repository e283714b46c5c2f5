"""A second teacher, which counts words, joins the first: students learn from what both say together.

It errs elsewhere than an encoder does, and knows labelled texts, and texts made of one of them, from a fit that has
seen neither; the first teacher has learnt their labels. Sources: Hinton et al., Distilling the Knowledge in a Neural
Network (ensembles), https://arxiv.org/abs/1503.02531; Wang and Manning, Baselines and Bigrams, ACL 2012.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from doorstep.errors import DataError
from doorstep.tensors import Array
from doorstep_converters.ask import ask
from doorstep_converters.calibration_error import fit_temperature, tempered
from doorstep_converters.students.vocabulary import is_dense
from doorstep_converters.taught import open_taught, read_index, write_answers, write_index
from doorstep_converters.teach import SHARD
from doorstep_converters.worker import Channel

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Of the second teacher's log probabilities; the first is the better one, so it has at least half."""
_FOLDS = 5
_INVERSE_PENALTY = 10.0
_MOST_NUMBERS = 6_000_000  # features times classes of one fit, which takes twenty times their bytes
_MOST_FEATURES = 200_000
_MOST_TEXTS = 50_000  # that are fitted
_TINY = 1e-9


def join(
    out: Path,
    channel: Channel,
    checkpoint: str,
    taught: str,
    data: str,
    max_length: int,
    seed: int,
    made: str = "",
    precision: str = "fp32",
) -> dict[str, Any]:
    """Write a taught corpus whose logits are both teachers' log probabilities, averaged; a job of `stages`.

    How much the second one counts is chosen on dev, by the log loss after the best temperature; it is nothing where
    that is best, and where the texts do not suffice for a second teacher, of which the user is told.

    Args:
        checkpoint: the first teacher, which answered the corpus.
        taught: folder that `teach.answer` wrote.
        data: JSON file `{"train": [[text, label]…], "dev": [[text, label]…]}`.
        max_length: tokens the first teacher reads of a text.
        seed: of the folds.
        made: the `corpus.jsonl` of an augmentation of the training texts, which tells what each was made of.
        precision: of the first teacher's matrix products, as `precision.is_bf16` reads it.

    Raises:
        DataError: a label that the first teacher lacks.
    """
    index, corpus = read_index(Path(taught)), open_taught(Path(taught))
    content = json.loads(Path(data).read_text(encoding="utf-8"))
    pairs = {split: ([text for text, _ in content[split]], _places(content[split], index.labels)) for split in content}
    counts = _second_teacher(pairs["train"], len(index.labels), seed, channel)
    share, figures = 0.0, dict[str, float]()
    if counts is not None:
        counts.follow(_sources(Path(made)) if made else {})
        texts, truth = pairs["dev"]
        first = ask(Path(checkpoint), texts, max_length, lambda share: None, say=channel.note, precision=precision)
        share, figures = _choose(np.log(np.maximum(first, _TINY)), counts.answer(texts), truth)
        channel.note(
            f"a second teacher, which counts words, makes {share:.0%} of the lessons: on dev the first has "
            f"{figures['first']:.4f} right, it has {figures['second']:.4f}, both together {figures['both']:.4f}"
        )
    read = corpus.select_columns(["text", "logits"])
    for number, start in enumerate(range(0, len(corpus), SHARD)):
        rows = read[start : start + SHARD]
        answers = log_softmax(np.asarray(rows["logits"], np.float32), axis=1)  # [rows, classes]
        if counts is not None and share > 0.0:
            answers = both(answers, counts.answer(rows["text"]), share)
        write_answers(out / f"{number:05}.arrow", corpus, start, answers)
        channel.progress(0.7 + 0.3 * (start + len(answers)) / len(corpus))
    write_index(out, index)
    return {"rows": len(corpus), "labels": list(index.labels), "share": share, **figures}


class Counts:
    """Counts of words and of pieces of words, weighted by how rare they are, and a linear classifier for each fold."""

    def __init__(self, features: Any, models: Sequence[Any], folds: dict[str, int], classes: int) -> None:
        self._features = features
        self._models = models
        self._folds = folds
        self._classes = classes

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        truth: Sequence[int],
        classes: int,
        seed: int,
        report: Callable[[float], None] = lambda share: None,
    ) -> "Counts":
        """Fit one classifier without each fold of the texts, of which every class is spread over the folds.

        Raises:
            DataError: too few texts, texts without words, or one class alone where a fold is left out.
        """
        from sklearn.linear_model import LogisticRegression

        label_of = dict(zip(texts, truth, strict=True))  # a text twice is in one fold
        if len(label_of) < 2 * _FOLDS:
            raise DataError(f"expected {2 * _FOLDS} different labelled texts or more, got {len(label_of)}")
        chosen = _spread(label_of, seed)
        known = list(chosen)
        right, fold_of = np.array([label_of[text] for text in known]), np.array([chosen[text] for text in known])
        if any(len(set(right[fold_of != fold])) < 2 for fold in range(_FOLDS)):
            raise DataError("expected two classes with two texts or more")
        features = _features(known, min(_MOST_FEATURES, _MOST_NUMBERS // classes))
        try:
            matrix = features.fit_transform(known)  # [texts, features]
        except ValueError as error:  # an empty vocabulary
            raise DataError(f"expected texts with words in them ({error!s:.80})") from error
        models = []
        for fold in range(_FOLDS):
            seen = fold_of != fold
            models.append(LogisticRegression(C=_INVERSE_PENALTY, max_iter=200).fit(matrix[seen], right[seen]))
            report((fold + 1) / _FOLDS)
        return cls(features, models, chosen, classes)

    def follow(self, sources: Mapping[str, str]) -> None:
        """Let texts be answered by the fit that has not seen what they were made of."""
        self._folds |= {text: self._folds[source] for text, source in sources.items() if source in self._folds}

    def answer(self, texts: Sequence[str]) -> Array:
        """Return log probabilities [texts, classes] float64; NaN for classes of which no text was there.

        A text of a fold is answered by the fit that has not seen it, others by all. A class that is new to a fit is
        answered by those that know it.
        """
        matrix = self._features.transform(texts)
        folds = np.array([self._folds.get(text, -1) for text in texts])
        total, known = np.zeros((len(texts), self._classes)), np.zeros(self._classes)  # of all fits
        own = np.full((len(texts), self._classes), np.nan)
        for fold, model in enumerate(self._models):
            answers = np.maximum(model.predict_log_proba(matrix), np.log(_TINY))  # [texts, classes of this fit]
            total[:, model.classes_] += answers
            known[model.classes_] += 1
            rows = np.flatnonzero(folds == fold)
            own[np.ix_(rows, model.classes_)] = answers[rows]
        every = np.where(known > 0, total / np.maximum(known, 1), np.nan)
        return np.where(np.isnan(own), every, own)


def both(first: Array, second: Array, share: float) -> Array:
    """Return the average of log probabilities [rows, classes]; of classes the second does not know, the first's."""
    averaged = np.where(np.isnan(second), first, (1 - share) * first + share * second)
    found: Array = log_softmax(averaged, axis=1)
    return found


def _second_teacher(
    rows: tuple[Sequence[str], Sequence[int]], classes: int, seed: int, channel: Channel
) -> Counts | None:
    try:
        return Counts.fit(*rows, classes, seed, lambda share: channel.progress(0.6 * share))
    except DataError as error:
        channel.note(f"no second teacher, which counts words: {error}")
        return None


def _spread(label_of: Mapping[str, int], seed: int) -> dict[str, int]:
    """Return the fold of each text that is fitted, of every class as many in each as can be."""
    texts = list(label_of)
    order = [texts[place] for place in np.random.default_rng(seed).permutation(len(texts))][:_MOST_TEXTS]
    order.sort(key=lambda text: label_of[text])
    return {text: place % _FOLDS for place, text in enumerate(order)}


def _features(texts: Sequence[str], most: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    if is_dense(texts):  # written without spaces
        return TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, max_features=most)
    options = {"sublinear_tf": True, "max_features": -(-most // 2)}
    return make_union(
        TfidfVectorizer(ngram_range=(1, 2), **options),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **options),
    )


def _choose(first: Array, second: Array, truth: Sequence[int]) -> tuple[float, dict[str, float]]:
    """Return the second teacher's share, and what each teacher and both have right on dev."""
    losses = {share: _log_loss(both(first, second, share), truth) for share in SHARES}
    share = min(losses, key=lambda one: losses[one])
    right = np.asarray(truth)

    def accuracy(answers: Array) -> float:
        return round(float((np.nan_to_num(answers, nan=-np.inf).argmax(axis=1) == right).mean()), 4)

    figures = {"first": accuracy(first), "second": accuracy(second), "both": accuracy(both(first, second, share))}
    return share, figures


def _log_loss(answers: Array, truth: Sequence[int]) -> float:
    from sklearn.metrics import log_loss

    probabilities = np.exp(answers)  # [texts, classes]
    scaled = tempered(probabilities, fit_temperature(probabilities, truth))
    return float(log_loss(truth, scaled / scaled.sum(axis=1, keepdims=True), labels=range(scaled.shape[1])))


def _sources(corpus: Path) -> dict[str, str]:
    """Return what each made text was made of, where that was one text."""
    with open(corpus, encoding="utf-8") as file:
        return {row["text"]: row["source"] for row in map(json.loads, file) if row["source"]}


def _places(rows: Sequence[tuple[str, str]], labels: Sequence[str]) -> list[int]:
    places = {label: place for place, label in enumerate(labels)}
    if unknown := {label for _, label in rows} - set(places):
        raise DataError(f"second teacher: the first one lacks the label {min(unknown)!r:.60}")
    return [places[label] for _, label in rows]
