"""Gates beside accuracy: classes, slices, noise, calibration, agreement with the teacher.

Every figure is taken from what a variant of a bundle answers in its own engine.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np

from doorstep.tensors import Array
from doorstep_converters.augment.noise import NOISE
from doorstep_converters.calibration_error import expected_calibration_error, tempered
from doorstep_converters.data import DataSet, Row

_PIPE = "\\|"  # in a table's cell
_LISTED = 30  # rows of a table in the card
_FEWEST = 20  # texts of a slice from which its accuracy says something
_NOISY = 200  # texts that each kind of noise is tried on


@dataclass(frozen=True, slots=True)
class Exam:
    """Texts that variants are judged on, in a fixed order: the split itself, then its noisy copies.

    Attributes:
        texts: clean texts first, then those of each noise.
        truth: class of each clean text.
        slices: slice of each clean text, "" for none; empty where the data has no slices.
        noisy: noise to the places of its texts in `texts` and of the clean texts they were made of.
    """

    texts: tuple[str, ...]
    truth: tuple[int, ...]
    slices: tuple[str, ...] = ()
    noisy: dict[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gates:
    """What one variant is like on one split.

    Attributes:
        classes: label to recall, for labels that occur.
        slices: slice to accuracy; slice_counts: to the number of texts. Slices of fewer than 20 texts are left out.
        slice_gap: points between the best and the worst slice; None where there are not two.
        noise: noise to the points lost under it, on the texts it changes; noise_drop: the most of them.
        ece_before, ece: calibration error as trained, and with `temperature`.
    """

    examples: int
    accuracy: float
    drop: float
    macro_f1: float
    agreement: float
    classes: dict[str, float]
    slices: dict[str, float]
    slice_counts: dict[str, int]
    slice_gap: float | None
    noise: dict[str, float]
    noise_drop: float | None
    ece_before: float
    ece: float
    temperature: float

    @property
    def worst_class(self) -> float:
        """Recall of the class that is found least."""
        return min(self.classes.values())


def plan_exam(rows: Sequence[Row], places: dict[str, int], slices: dict[str, str], seed: int) -> Exam:
    """Choose clean and noisy texts; the same seed makes the same noise.

    Args:
        places: label to its place in the head.
        slices: text to slice; empty where the data has none.
    """
    texts = [row.text for row in rows]
    noisy: dict[str, tuple[tuple[int, int], ...]] = {}
    chosen = range(0, len(rows), max(1, -(-len(rows) // _NOISY)))
    for name, change in NOISE.items():
        pairs = []
        for place in chosen:
            changed = change(rows[place].text, Random(f"{seed}/{name}/{rows[place].text}"))  # noqa: S311
            if changed != rows[place].text:
                pairs.append((len(texts), place))
                texts.append(changed)
        if pairs:
            noisy[name] = tuple(pairs)
    return Exam(
        tuple(texts),
        tuple(places[row.label] for row in rows),
        tuple(slices.get(row.text, "") for row in rows) if slices else (),
        noisy,
    )


def judge(exam: Exam, labels: Sequence[str], got: Array, teacher: Array, temperature: float = 1.0) -> Gates:
    """Judge a variant.

    Args:
        got: its probabilities [exam texts, classes].
        teacher: the teacher's on the clean texts [texts, classes].
    """
    from sklearn.metrics import f1_score

    count = len(exam.truth)
    truth, clean = np.asarray(exam.truth), got[:count]  # [texts], [texts, classes]
    best, taught = got.argmax(axis=1), teacher[:count].argmax(axis=1)
    is_right = best[:count] == truth
    accuracy, reference = float(is_right.mean()), float((taught == truth).mean())
    slices = _slices(exam, is_right)
    noise = {name: _lost(exam, best, pairs) for name, pairs in exam.noisy.items()}
    return Gates(
        examples=count,
        accuracy=accuracy,
        drop=100 * (reference - accuracy),
        macro_f1=float(f1_score(truth, best[:count], average="macro", zero_division=0.0)),
        agreement=float((best[:count] == taught).mean()),
        classes={labels[place]: float(is_right[truth == place].mean()) for place in sorted(set(exam.truth))},
        slices={name: accuracy for name, (accuracy, _) in slices.items()},
        slice_counts={name: number for name, (_, number) in slices.items()},
        slice_gap=_gap([accuracy for accuracy, _ in slices.values()]),
        noise=noise,
        noise_drop=max(noise.values()) if noise else None,
        ece_before=expected_calibration_error(clean, exam.truth),
        ece=expected_calibration_error(tempered(clean, temperature), exam.truth),
        temperature=temperature,
    )


def gates_card(gates: dict[str, Gates]) -> str:
    """Return a part of the model card, variant by variant, as Markdown."""
    if not gates:
        return ""
    titles = (
        "variant",
        "accuracy",
        "drop",
        "agreement",
        "worst class",
        "slice gap",
        "noise drop",
        "ECE before → after",
    )
    lines = ["", "## Gates", "", f"| {' | '.join(titles)} |", "|---" * 8 + "|"]
    for name, g in gates.items():
        worst = min(g.classes, key=lambda label: g.classes[label])
        gap = "–" if g.slice_gap is None else f"{g.slice_gap:.2f}"
        noise = "–" if g.noise_drop is None else f"{g.noise_drop:.2f} ({max(g.noise, key=lambda n: g.noise[n])})"
        lines.append(
            f"| {name} | {g.accuracy:.4f} | {g.drop:.2f} | {g.agreement:.4f} | {g.worst_class:.4f} ({worst}) | {gap} | "
            f"{noise} | {g.ece_before:.4f} → {g.ece:.4f} (T={g.temperature:g}) |"
        )
    first = next(iter(gates.values()))
    lines += [
        "",
        f"On {first.examples} held-out texts. Agreement is with the teacher; drop, gap and noise are in points.",
    ]
    lines += _of_each("Recall of each class", {name: g.classes for name, g in gates.items()}, ".3f")
    lines += _of_each("Accuracy of each slice", {name: g.slices for name, g in gates.items()}, ".3f")
    lost = {name: {kind: 0.0 - points for kind, points in g.noise.items()} for name, g in gates.items()}
    lines += _of_each("Points gained or lost under each noise, on the texts it changes", lost, "+.2f")
    return "\n".join(lines) + "\n"


def _of_each(title: str, found: dict[str, dict[str, float]], shown: str) -> list[str]:
    """Return a table of every variant's figures, the worst first; of many rows the worst ones."""
    names = sorted(next(iter(found.values())), key=lambda name: min(figures[name] for figures in found.values()))
    if not names:
        return []
    rows = []
    for name in names[:_LISTED]:
        figures = " | ".join(format(one[name], shown) for one in found.values())
        rows.append(f"| {name.replace('|', _PIPE)} | {figures} |")
    rest = f" (the {_LISTED} worst of {len(names)})" if len(names) > _LISTED else ""
    return ["", f"{title}{rest}:", "", f"| | {' | '.join(found)} |", "|---" * (1 + len(found)) + "|", *rows]


def exam_rows(data: DataSet, split: str, limit: int) -> list[Row]:
    """Return at most `limit` rows of a split, thinned evenly."""
    rows: Sequence[Row] = getattr(data, split)
    return list(rows[:: max(1, -(-len(rows) // limit))])


def _slices(exam: Exam, is_right: Array) -> dict[str, tuple[float, int]]:
    counts = Counter(name for name in exam.slices if name)
    names = np.asarray(exam.slices)
    return {
        name: (float(is_right[names == name].mean()), count)
        for name, count in sorted(counts.items())
        if count >= _FEWEST
    }


def _lost(exam: Exam, best: Array, pairs: Sequence[tuple[int, int]]) -> float:
    noisy, clean = (list(side) for side in zip(*pairs, strict=True))
    truth = np.asarray(exam.truth)[clean]
    return 100 * float((best[clean] == truth).mean() - (best[noisy] == truth).mean())


def _gap(accuracies: Sequence[float]) -> float | None:
    return 100 * (max(accuracies) - min(accuracies)) if len(accuracies) > 1 else None
