"""Rows in, more rows out: each transform of a plan in turn, seeded so that one does not change what another makes."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from random import Random
from typing import Protocol

from doorstep.errors import DataError
from doorstep_converters.augment.lexicon import load_lexicon
from doorstep_converters.augment.mixing import splice
from doorstep_converters.augment.noise import NOISE, Change
from doorstep_converters.augment.plan import AugmentPlan, check_plan
from doorstep_converters.augment.shop import Brands
from doorstep_converters.augment.words import Synonyms
from doorstep_converters.memory import to_log

_FEWEST = 10  # texts of a class that a writer can learn from
_MOST_BRANDS = 1 << 20  # bytes of the file


class Row(Protocol):
    """A text and its label; None where nobody gave one. `data.Row` is one."""

    @property
    def text(self) -> str:
        """Return the text."""

    @property
    def label(self) -> str | None:
        """Return its label."""


@dataclass(frozen=True, slots=True)
class Augmented:
    """A made text.

    Attributes:
        label: what the transform believes it to be; the teacher has the last word.
        transform: what made it, as the plan names it.
        source: the text it was made of; "" where there were several.
    """

    text: str
    label: str | None
    transform: str
    source: str


def augment(
    rows: Sequence[Row], plan: AugmentPlan, seed: int, say: Callable[[str], None] = to_log
) -> Iterator[Augmented]:
    """Yield what every transform of `plan` makes of `rows`, unfiltered; see `augment.sift`.

    The same rows, plan and seed give the same texts, and a transform makes the same texts whatever stands beside it.

    Args:
        say: called with what the user should know, such as that memory was short.

    Raises:
        UsageError: the plan is wrong. DataError, CheckpointError: a file or checkpoint it names cannot be used.
        ConversionError: one text does not fit into the memory of a checkpoint that the plan names.
    """
    check_plan(plan)
    for chain in plan.transforms:
        draws = _draws(rows, plan.copies, f"{seed}/{chain}")
        if chain == "splice":
            yield from _splice(rows, draws, f"{seed}/{chain}")
        elif chain == "generate" and plan.generator is None:
            yield from _write(rows, draws, f"{seed}/{chain}")
        elif chain == "generate":
            yield from _prompt(rows, draws, plan, f"{seed}/{chain}", say)
        elif chain == "translate":
            yield from _translate(draws, plan, f"{seed}/{chain}", say)
        else:
            yield from _change(draws, chain, changes_of(chain, plan, rows), seed)


def changes_of(chain: str, plan: AugmentPlan, rows: Sequence[Row]) -> list[Change]:
    """Return the functions that a chain such as `typo+case` calls, in turn."""
    return [_change_called(name, plan, rows) for name in chain.split("+")]


def _change_called(name: str, plan: AugmentPlan, rows: Sequence[Row]) -> Change:
    if name == "lexicon":
        return Synonyms(load_lexicon(Path(plan.lexicon or "")))
    if name == "neighbours":
        from doorstep_converters.augment.neighbours import neighbour_lexicon

        return Synonyms(neighbour_lexicon(Path(plan.teacher or ""), [row.text for row in rows]))
    if name == "vocabulary":
        from doorstep_converters.augment.neighbours import vocabulary_lexicon

        return Synonyms(vocabulary_lexicon(Path(plan.teacher or ""), [row.text for row in rows]))
    if name == "brand" and plan.brands is not None:
        return Brands(_read_brands(Path(plan.brands)))
    return NOISE[name]


def _draws(rows: Sequence[Row], copies: float, seed: str) -> list[Row]:
    """Return the rows to start from: each the same number of times, or one more, in a seeded order."""
    order = list(rows)
    Random(f"{seed}/order").shuffle(order)
    wanted = round(copies * len(order))
    return [order[number % len(order)] for number in range(wanted)] if order else []


def _change(draws: Sequence[Row], chain: str, changes: Sequence[Change], seed: int) -> Iterator[Augmented]:
    for number, row in enumerate(draws):
        rng = Random(f"{seed}/{chain}/{number}")
        text = reduce(lambda text, change: change(text, rng), changes, row.text)
        if text != row.text and text.strip():
            yield Augmented(text, row.label, chain, row.text)


def _splice(rows: Sequence[Row], draws: Sequence[Row], seed: str) -> Iterator[Augmented]:
    of_label = _by_label(rows)
    for number, row in enumerate(draws):
        rng = Random(f"{seed}/{number}")
        text = splice(row.text, rng.choice(of_label[row.label]), rng)
        if text:
            yield Augmented(text, row.label, "splice", "")


def _write(rows: Sequence[Row], draws: Sequence[Row], seed: str) -> Iterator[Augmented]:
    from doorstep_converters.augment.writer import NgramWriter

    writers = {label: NgramWriter(texts) for label, texts in _by_label(rows).items() if len(texts) >= _FEWEST}
    for number, row in enumerate(draws):
        text = writers[row.label].write(Random(f"{seed}/{number}")) if row.label in writers else None
        if text is not None:
            yield Augmented(text, row.label, "generate", "")


def _prompt(
    rows: Sequence[Row], draws: Sequence[Row], plan: AugmentPlan, seed: str, say: Callable[[str], None]
) -> Iterator[Augmented]:
    from doorstep_converters.augment.writer import LanguageModel
    from doorstep_converters.checkpoint import find_folder

    model = LanguageModel(find_folder(plan.generator or ""), say)
    of_label, wanted = _by_label(rows), _by_label(draws)
    for label, texts in of_label.items():
        rng = Random(f"{seed}/{label}")
        for text in model.write(texts, len(wanted.get(label, ())), rng):
            yield Augmented(text, label, "generate", "")


def _translate(draws: Sequence[Row], plan: AugmentPlan, seed: str, say: Callable[[str], None]) -> Iterator[Augmented]:
    from doorstep_converters.augment.translation import Translators
    from doorstep_converters.checkpoint import find_folder

    translators = Translators(find_folder(plan.there or ""), find_folder(plan.back or ""), say)
    back = translators.translate([row.text for row in draws], Random(seed))
    for row, text in zip(draws, back, strict=True):
        if text.strip() and text != row.text:
            yield Augmented(text, row.label, "translate", row.text)


def _by_label(rows: Sequence[Row]) -> dict[str | None, list[str]]:
    of_label: dict[str | None, list[str]] = defaultdict(list)
    for row in rows:
        of_label[row.label].append(row.text)
    return dict(of_label)


def _read_brands(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.strip() for line in file.read(_MOST_BRANDS).splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a brand a line in UTF-8 ({error!s:.80})") from error
    if len(names) < 2:
        raise DataError(f"{path}: expected two or more brands, one a line, got {len(names)}")
    return names
