"""A reader of histories learns, by sampled softmax and from a teacher; then the blend with counts is chosen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from doorstep.recommend.items import Blend
from doorstep.recommend.transitions import Counting, Transitions, count_transitions
from doorstep.search.vectors import unit
from doorstep.tensors import Array
from doorstep_converters.augment.mixing import splice_sequences
from doorstep_converters.evaluation import thin
from doorstep_converters.placement import device_of, feeds_device
from doorstep_converters.tasks.loop import Course, fit
from doorstep_converters.tasks.next_item_judging import Case, Figures, best_blend, cases_of, figures, followers_of
from doorstep_converters.tasks.next_item_model import SHAPES, NextItemConfig, NextItemModel
from doorstep_converters.tasks.next_item_spectral import spectral_vectors
from doorstep_converters.worker import Channel

COUNTING = Counting(window=10, backward=0.3)
_EPOCHS, _AGAIN = 6, 2  # passes over train, and over train with dev's targets
_BATCH, _JUDGED = 256, 2000
_NEGATIVES = 512  # items drawn for each step beside the batch's own targets
_TEMPERATURE = 0.07
_TAUGHT = 0.5  # share of the loss that is the teacher's


@dataclass(frozen=True, slots=True)
class Lessons:
    """Sequences of item numbers, oldest first.

    Attributes:
        dev: pairs of a history and what came next.
        learnt: sequences with dev's targets.
    """

    train: list[list[int]]
    dev: list[tuple[list[int], int]]
    learnt: list[list[int]]
    items: int


@dataclass(frozen=True, slots=True)
class Learnt:
    """A trained model, what was counted, and how the two are blended; `figures` are on dev."""

    model: NextItemModel
    transitions: Transitions
    blend: Blend
    figures: dict[str, Any]


def learn(lessons: Lessons, options: dict[str, Any], teacher: NextItemModel | None, channel: Channel) -> Learnt:
    """Train on train, choose epoch and blend on dev, then learn dev's targets too.

    Args:
        options: `kind`, `seed`, `epochs`, `learning_rate`, `max_length`; `spliced`, histories made of two users' each
            time, as a multiple of those there are (0 where it is missing).
    """
    torch.manual_seed(options["seed"])
    shape = SHAPES[options["kind"]]
    config = NextItemConfig(kind=options["kind"], items=lessons.items, max_length=options["max_length"], **shape)
    if teacher is not None:
        config.dropout = config.item_dropout = 0.1  # a teacher's ranking is noise enough
    model = NextItemModel(config)
    started = _start(lessons, teacher, config, options["seed"])
    model.items.weight.data = torch.from_numpy(started)
    counted = count_transitions(lessons.train, lessons.items, COUNTING)
    held_out = thin(lessons.dev, _JUDGED)
    epochs = round(options["epochs"] or _EPOCHS)
    course = Course(epochs, 1, options["learning_rate"] or 1e-3, 0.01, 0.03, options["seed"], patience=3)
    train = _with_spliced(lessons.train, options)
    first = fit(model, *_lesson(model, train, teacher), _judge(model, held_out, counted), course, channel)
    cases = _cases(model, held_out)
    blend = best_blend(cases, counted, config.max_length) if cases else Blend()
    found = {
        "alone": _figures(cases, counted, Blend(0.0), config.max_length)._asdict(),
        "counts": _figures(_blind(cases), counted, blend._replace(counted=1.0), config.max_length)._asdict(),
        "blended": _figures(cases, counted, blend, config.max_length)._asdict(),
    }
    if lessons.dev:
        again = Course(_AGAIN, 1, (options["learning_rate"] or 1e-3) / 4, 0.01, 0.03, options["seed"], part="again")
        passes = iter(range(1, 1 + again.epochs))
        learnt = _with_spliced(lessons.learnt, options)
        fit(model, *_lesson(model, learnt, teacher), lambda: float(next(passes)), again, channel)
        counted = count_transitions(lessons.learnt, lessons.items, COUNTING)
    return Learnt(model, counted, blend, {**first, **found})


def interests(model: NextItemModel, histories: Sequence[Sequence[int]]) -> Array:
    """Return what a model makes of histories (item numbers, oldest first): unit vectors [histories, dimensions]."""
    found = []
    with torch.no_grad():
        table = model.table()
        for start in range(0, len(histories), 512):
            newest = [history[::-1] for history in histories[start : start + 512]]
            places, mask = _padded(newest, model.config.max_length, table.device)
            found.append(model(table[places], mask).cpu().numpy())
    return unit(np.concatenate(found)) if found else np.zeros((0, model.config.dimensions), np.float32)


def _with_spliced(sequences: list[list[int]], options: dict[str, Any]) -> list[list[int]]:
    """Add histories that begin as one user's and end as another's; what follows what is counted without them."""
    count = round(options.get("spliced", 0.0) * len(sequences))
    return [*sequences, *splice_sequences(sequences, count, options["seed"])]


def _start(lessons: Lessons, teacher: NextItemModel | None, config: NextItemConfig, seed: int) -> Array:
    """Return the first item vectors: of what is taken together, or the leading directions of the teacher's."""
    if teacher is None:
        return spectral_vectors(lessons.train, lessons.items, config.dimensions, seed)
    with torch.no_grad():
        table = teacher.table().cpu().numpy()
    if table.shape[1] == config.dimensions:
        return np.array(table)
    _, _, directions = np.linalg.svd(table.T @ table)
    return unit(table @ directions[: config.dimensions].T).astype(np.float32)


def _lesson(model: NextItemModel, sequences: list[list[int]], teacher: NextItemModel | None) -> tuple[Any, Any]:
    """Return the batches of an epoch, sequences of like length together, and the loss of one."""
    length = model.config.max_length
    usable = sorted((sequence[-length - 1 :] for sequence in sequences if len(sequence) > 1), key=len)
    batches = [usable[start : start + _BATCH] for start in range(0, len(usable), _BATCH)]
    counts = np.bincount([item for sequence in usable for item in sequence[1:]], minlength=model.config.items)
    popularity = torch.from_numpy((counts / max(1, counts.sum())).astype(np.float32)).to(feeds_device())  # [items]
    if teacher is not None:
        teacher.to(feeds_device())

    def loss_of(rows: list[list[list[int]]]) -> torch.Tensor:
        newest = [sequence[::-1] for sequence in rows[0]]
        device = device_of(model)
        places, mask = _padded([sequence[1:] for sequence in newest], length, device)
        right, _ = _padded([sequence[:-1] for sequence in newest], length, device)
        is_real = mask > 0
        table, targets = model.table(), right[is_real]  # [items, dimensions], [steps]
        others = torch.randint(model.config.items, (_NEGATIVES,)).to(device)
        drawn = torch.unique(torch.cat([targets, others]))
        expected = len(targets) * popularity[drawn] + _NEGATIVES / model.config.items
        correction = torch.log(-torch.expm1(-expected))  # of a share drawn: Bengio & Senécal 2008
        logits = _logits(model.encode(table[places], mask)[is_real], table[drawn])  # [steps, drawn]
        loss = torch.nn.functional.cross_entropy(logits - correction, torch.searchsorted(drawn, targets))
        if teacher is None:
            return loss
        with torch.no_grad():
            known = teacher.table()
            wanted = _logits(teacher.encode(known[places], mask)[is_real], known[drawn])
        divergence = torch.nn.functional.kl_div(
            logits.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean"
        )
        return (1 - _TAUGHT) * loss + _TAUGHT * divergence

    return batches, loss_of


def _logits(found: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(found, dim=-1) @ table.transpose(0, 1) / _TEMPERATURE


def _judge(model: NextItemModel, held_out: Sequence[tuple[list[int], int]], counted: Transitions) -> Any:
    """Return a function that gives nDCG@10 of the model with counts, on dev."""

    def dev_figure() -> float:
        return _figures(_cases(model, held_out), counted, Blend(), model.config.max_length).ndcg

    return dev_figure


def _cases(model: NextItemModel, held_out: Sequence[tuple[list[int], int]]) -> list[Case]:
    with torch.no_grad():
        table = model.table().cpu().numpy()
    return cases_of(interests(model, [history for history, _ in held_out]), table, held_out)


def _figures(cases: Sequence[Case], counted: Transitions, blend: Blend, length: int) -> Figures:
    return figures(cases, followers_of(cases, counted, blend.decay, length), blend)


def _blind(cases: Sequence[Case]) -> list[Case]:
    """Return cases in which the model says nothing."""
    return [case._replace(cosines=np.zeros_like(case.cosines), ordered=np.zeros_like(case.ordered)) for case in cases]


def _padded(rows: Sequence[Sequence[int]], length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return item numbers and mask [rows, sequence]; each row begins with its newest item."""
    width = max(1, min(length, max(map(len, rows))))
    places, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for place, row in enumerate(rows):
        read = min(len(row), width)
        places[place, :read], mask[place, :read] = row[:read], 1
    return torch.from_numpy(places).to(device), torch.from_numpy(mask).to(device)
