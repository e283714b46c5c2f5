"""image-feature-extraction: a picture's vector, pooled inside the graph, that agrees by cosine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.golden import Example
from doorstep.tensors import Array, TensorSpec
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.parity import Bound, Parity
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.images import ImageCraft
from doorstep_converters.tasks.vectors import compare_vectors, flat_vectors, vector_failure

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench

_SHOWN = 64  # numbers of a golden example


class ImageFeatureCraft(ImageCraft):
    """Answers are vectors, number by number; their length is 1 unless the bundle's options say otherwise."""

    task = "image-feature-extraction"
    metric = "cosine"
    auto = "AutoModel"
    output = TensorSpec("vectors", "float32", ("batch", "dimensions"))

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        return {**super().options(job, checkpoint), "is_normalized": True}

    def module(self, folder: Path, is_pickle_allowed: bool) -> Any:
        from doorstep_converters.tasks.images_model import Features, load_model

        return Features(load_model(folder, self.auto, is_pickle_allowed)).eval()

    def answers_of(self, rows: Array, options: Mapping[str, Any]) -> list[dict[str, float]]:
        return flat_vectors(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))

    def compare(self, expected: Any, got: Any, truth: Sequence[Any] | None) -> Parity:
        return compare_vectors(expected, got, self.metric)

    def failure(self, plan: VariantPlan, parity: Parity, bound: Bound) -> str:
        return vector_failure(plan, parity, bound)

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "tiles", "the likeness to the whole picture")

    def example(self, item: Any, expected: Mapping[str, float], place: int) -> Example:
        return super().example(item, dict(list(expected.items())[:_SHOWN]), place)


CRAFT = ImageFeatureCraft()
