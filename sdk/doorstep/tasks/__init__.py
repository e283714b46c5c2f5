"""What a model is for: items to feeds, fetches to results. One file a task."""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from doorstep.bundle import Bundle
from doorstep.errors import IncompatibleError
from doorstep.tensors import Feeds, Fetches, TensorSpec

TASKS: dict[str, str] = {
    "text-classification": "doorstep.tasks.text_classification",
    "token-classification": "doorstep.tasks.token_classification",
    "sentence-similarity": "doorstep.tasks.sentence_similarity",
    "search": "doorstep.tasks.search",
    "text-ranking": "doorstep.tasks.text_ranking",
    "next-item": "doorstep.tasks.next_item",
    "tabular-classification": "doorstep.tasks.tabular_classification",
    "image-classification": "doorstep.tasks.image_classification",
    "image-feature-extraction": "doorstep.tasks.image_feature_extraction",
    "audio-classification": "doorstep.tasks.audio_classification",
    "automatic-speech-recognition": "doorstep.tasks.automatic_speech_recognition",
    "tensors": "doorstep.tasks.raw",
}
"""Task name to the module whose `load(bundle, inputs, overrides)` returns a `Task`."""


class Task(Protocol):
    """Items to feeds, fetches to results. `prepare` may be called from several threads."""

    def prepare(self, items: Sequence[Any]) -> Sequence[Any]:
        """Turn items into rows of this task's own making.

        Raises:
            InputError: an item has the wrong type, size or content.
        """

    def length(self, row: Any) -> int:
        """Return the work a row makes, in the unit batches are padded by; rows of like length share a batch."""

    def collate(self, rows: Sequence[Any]) -> Feeds:
        """Stack rows into feeds."""

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Any]:
        """Turn fetches into one result a row; `rows` are those that were collated into the feeds."""


def load_task(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> Task:
    """Load the bundle's task for a variant with these `inputs`.

    Args:
        overrides: options that replace those of the manifest, for example `{"top_k": 3}`.

    Raises:
        IncompatibleError: this doorstep does not know the task.
        FormatError: the options do not fit the task.
    """
    name = bundle.manifest.task
    if name not in TASKS:
        raise IncompatibleError(
            f"this doorstep knows no task {name!r} (known: {', '.join(TASKS)}); upgrade with: pip install -U doorstep"
        )
    task: Task = importlib.import_module(TASKS[name]).load(bundle, inputs, overrides)
    return task


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return probabilities along the last axis; `logits` [..., classes] float32."""
    shifted = np.exp(logits - np.maximum.reduce(logits, axis=-1, keepdims=True))
    probabilities: np.ndarray[Any, Any] = shifted / np.add.reduce(shifted, axis=-1, keepdims=True)
    return probabilities
