"""Made texts through the filter, in batches, with a count of what was dropped and why."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from doorstep.tensors import Array
from doorstep_converters.augment.filter import Leaks, is_sure, plain
from doorstep_converters.augment.make import Augmented

_BATCH = 2048
FATES = ("kept", "repeated", "leaking", "unsure")


@dataclass(frozen=True, slots=True)
class Judge:
    """A teacher that is asked what it makes of texts.

    Attributes:
        labels: names of its classes, in order.
        ask: texts to probabilities [texts, classes].
        sure: least probability of its best class.
    """

    labels: Sequence[str]
    ask: Callable[[Sequence[str]], Array]
    sure: float


@dataclass(frozen=True, slots=True)
class Sieve:
    """Keeps what is new, held out nowhere, and clear to the teacher.

    Attributes:
        seen: texts there are already, after `filter.plain`.
        leaks: knows the held-out texts.
        judge: None where no teacher is at hand; then nothing is dropped as unsure.
        counts: transform to fate to texts; filled while sifting.
    """

    seen: set[str]
    leaks: Leaks
    judge: Judge | None = None
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def sift(self, made: Iterable[Augmented]) -> Iterator[Augmented]:
        """Yield what passes; a text without a label gets the teacher's."""
        rest = iter(made)
        while batch := list(islice(rest, _BATCH)):
            batch = [row for row in batch if self._is_new(row)]
            leaking = self.leaks.find([row.text for row in batch])
            self._count((row for row, leaks in zip(batch, leaking, strict=True) if leaks), "leaking")
            clean = [row for row, leaks in zip(batch, leaking, strict=True) if not leaks]
            kept = self._judged(clean) if self.judge and clean else clean
            self._count(kept, "kept")
            yield from kept

    def _is_new(self, row: Augmented) -> bool:
        text = plain(row.text)
        if text in self.seen:
            self.counts[row.transform]["repeated"] += 1
            return False
        self.seen.add(text)
        return True

    def _judged(self, rows: list[Augmented]) -> list[Augmented]:
        assert self.judge is not None  # noqa: S101 -- asked for by the caller
        places = {label: place for place, label in enumerate(self.judge.labels)}
        probabilities = self.judge.ask([row.text for row in rows])  # [texts, classes]
        meant = [None if row.label is None else places[row.label] for row in rows]
        sure = is_sure(probabilities, meant, self.judge.sure)
        self._count((row for row, good in zip(rows, sure, strict=True) if not good), "unsure")
        best = probabilities.argmax(axis=1)
        return [
            replace(row, label=self.judge.labels[place])
            for row, place, good in zip(rows, best, sure, strict=True)
            if good
        ]

    def _count(self, rows: Iterable[Augmented], fate: str) -> None:
        for row in rows:
            self.counts[row.transform][fate] += 1


def plain_counts(counts: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    """Return counts as plain JSON, every fate in every row."""
    return {name: {fate: fates[fate] for fate in FATES} for name, fates in counts.items()}
