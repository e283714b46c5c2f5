"""The loop that small models learn in: its curves; and the text that latency is taken on."""

from io import StringIO
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from doorstep.errors import ConversionError
from doorstep_converters.placement import device_of
from doorstep_converters.tasks.loop import Course, fit
from doorstep_converters.tasks.text_classification import _beginning
from doorstep_converters.worker import Channel


def _loss(model: torch.nn.Module, rows: list[float]) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([rows], device=device_of(model)).T).square().mean()
    return found


@pytest.mark.parametrize("part", ["", "again"])
def test_a_training_writes_its_curves(tmp_path: Path, part: str) -> None:
    model = torch.nn.Linear(1, 1)
    channel = Channel(StringIO(), logs=tmp_path)
    figures = iter((0.25, 0.5))
    course = Course(epochs=2, batch=2, part=part)
    fit(
        model,
        [1.0] * 8,
        lambda rows: _loss(model, rows),
        lambda: next(figures),
        course,
        channel,
    )
    read = EventAccumulator(str(tmp_path / part)).Reload()
    assert [(event.step, event.value) for event in read.Scalars("eval/figure")] == [(4, 0.25), (8, 0.5)]
    assert [event.step for event in read.Scalars("train/loss")] == list(range(1, 9))
    assert read.Scalars("train/learning_rate")[-1].value < read.Scalars("train/learning_rate")[1].value


def test_a_training_that_nobody_watches_writes_none(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    course = Course(epochs=1, batch=2)
    fit(
        model,
        [1.0] * 4,
        lambda rows: _loss(model, rows),
        lambda: 1.0,
        course,
        Channel(StringIO()),
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["loss", "gradients", "judging"])
def test_a_gpu_that_is_too_small_is_named(place: str) -> None:
    model = torch.nn.Linear(1, 1)

    def short(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def loss_of(rows: list[float]) -> torch.Tensor:
        if place == "loss":
            short()
        found = _loss(model, rows)
        if place == "gradients":
            found.register_hook(short)
        return found

    with pytest.raises(ConversionError, match=r"the GPU has no room .*CUDA out of memory\); .*CUDA_VISIBLE_DEVICES="):
        fit(model, [1.0], loss_of, short if place == "judging" else lambda: 1.0, Course(epochs=1))


@pytest.mark.parametrize(
    ("text", "most"), [("stock " * 2000, 1000), ("recommendations " * 2000, 1000), ("质量太差了" * 2000, 300)]
)
def test_latency_is_taken_on_enough_words_and_not_many_times_more(text: str, most: int) -> None:
    found = _beginning(text, 64)
    assert len(found) <= most
    assert len(found.split()) >= 40 or len(found) >= 4 * 64
    assert _beginning("tea", 64) == "tea"
