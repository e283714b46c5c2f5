"""What each part brings to a logit, in models that add up what their parts bring: exact, and through any engine.

Of an average of token vectors with one linear layer, the logit of a single token is its row of weights times its
vector, plus the bias; the logit of no token is the bias. So a model is asked for what its weights hold, however they
are stored. What it then must fulfil, that the parts and the bias add up to the logit, is looked at for every item: an
engine that rounds activations to int8 does not, and is explained by leaving out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from doorstep.explain import ROWS, Run, Shares
from doorstep.pieces.fields import FieldPieces
from doorstep.pieces.texts import TextPieces
from doorstep.tensors import Array, Feeds, Fetches

TOLERANCE = 1e-3
"""Of the logit's size, or of 1 where it is smaller: how far parts and bias may be from it."""


class Judge(Protocol):
    """A task of labels."""

    def collate(self, rows: Sequence[Any]) -> Feeds: ...

    def best(self, fetches: Fetches, rows: Sequence[Any]) -> str: ...

    def scores(self, fetches: Fetches, rows: Sequence[Any], label: str) -> list[float]: ...

    def logits(self, fetches: Fetches, label: str) -> Array:
        """Return a label's logit for each row: [batch]."""


class _Lone(NamedTuple):
    """A token on its own as an `Encoding` has it; `attention_mask` 0 takes even it away."""

    ids: tuple[int, ...]
    attention_mask: tuple[int, ...]
    type_ids: tuple[int, ...]

    def __len__(self) -> int:
        return 1


class _Asked(NamedTuple):
    label: str
    score: float
    logits: Array


def token_shares(task: Judge, pieces: TextPieces, label: str | None, run: Run) -> Shares | None:
    """Return what the words of a text bring; special tokens and what is no word count to the bias."""
    whole = pieces.without(())
    ids: list[int] = whole.ids
    kinds = list(dict.fromkeys(ids))
    lone = [_Lone((id_,), (1,), (0,)) for id_ in kinds]
    asked = _ask(task, [whole, _Lone((0,), (0,), (0,)), *lone], label, run)
    logit, bias, *alone = asked.logits.tolist()
    brought = {id_: (number - bias) / max(1, len(ids)) for id_, number in zip(kinds, alone, strict=True)}
    weights, rest = [0.0] * len(pieces), bias
    for id_, place in zip(ids, _parts_of(whole.offsets, pieces.spans), strict=True):
        if place is None:
            rest += brought[id_]
        else:
            weights[place] += brought[id_]
    return _checked(asked, weights, logit, rest)


def field_shares(task: Judge, pieces: FieldPieces, label: str | None, run: Run) -> Shares | None:
    """Return what the values of fields bring; the bias is the logit where all of them are missing."""
    places = range(len(pieces))
    gone: list[Sequence[int]] = [(), places, *((place,) for place in places)]
    asked = _ask(task, [pieces.without(group) for group in gone], label, run)
    logit, bias, *others = asked.logits.tolist()
    return _checked(asked, [logit - other for other in others], logit, bias)


def _ask(task: Judge, rows: Sequence[Any], label: str | None, run: Run) -> _Asked:
    """Return the label's logits of rows, and its score for the first."""
    score, found = 0.0, []
    for start in range(0, len(rows), ROWS):
        batch = rows[start : start + ROWS]
        fetches = run(task.collate(batch))
        if start == 0:
            first = {name: array[:1] for name, array in fetches.items()}
            label = task.best(first, batch[:1]) if label is None else label
            score = task.scores(first, batch[:1], label)[0]
        found.append(task.logits(fetches, label or ""))
    return _Asked(label or "", score, np.concatenate(found))


def _checked(asked: _Asked, weights: list[float], logit: float, bias: float) -> Shares | None:
    if not abs(sum(weights) + bias - logit) <= TOLERANCE * max(1.0, abs(logit)):
        return None
    return Shares(asked.label, asked.score, weights, logit, bias)


def _parts_of(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return the part that each token has most characters in, None where it has none."""
    found: list[int | None] = []
    for start, end in offsets:
        common = [min(end, last) - max(start, first) for first, last in spans]
        most = max(common, default=0)
        found.append(common.index(most) if most > 0 else None)
    return found
