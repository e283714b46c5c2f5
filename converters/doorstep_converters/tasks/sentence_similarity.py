"""sentence-similarity: a sentence-transformers folder, its pooling inside the graph, vectors that agree by cosine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.tensors import Array, TensorSpec
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.parity import Bound, Parity
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.sentence_similarity_recipe import load_dense, read_prompts, read_recipe
from doorstep_converters.tasks.sentence_similarity_students import Texts, find_student, learn_student, told
from doorstep_converters.tasks.text import TextCraft, text_evaluation
from doorstep_converters.tasks.vectors import compare_vectors, flat_vectors, vector_failure

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench

_TEXTS = ("text", "sentence", "query", "name", "review", "content")


class SentenceCraft(TextCraft):
    """Answers are vectors, number by number."""

    task = "sentence-similarity"
    metric = "cosine"
    is_scored = False
    head = "Model"
    auto = "AutoModel"
    output = TensorSpec("vectors", "float32", ("batch", "dimensions"))
    reads_default_prompt = True
    """Whether an item that names no prompt is read with the default one."""

    def find(self, job: "Job") -> Checkpoint:
        return find_student(job) if job.checkpoint.startswith("new:") else super().find(job)

    def check_training(self, job: "Job") -> None:
        """Allow a teacher to students alone: a finished encoder learns nothing."""
        is_student = job.checkpoint.startswith("new:")
        super().check_training(replace(job, training=replace(job.training, teacher=None)) if is_student else job)

    def learn(self, job: "Job", source: Checkpoint, data: Any, bench: "Workbench") -> Checkpoint:
        if not source.is_new:
            return source
        folder = learn_student(job, self.lessons(data), self.reads_default_prompt, bench)
        return replace(self.find(replace(job, checkpoint=str(folder))), source=source.source)

    def lessons(self, data: Any) -> Texts:
        """Return the texts that a student learns from and is judged on."""
        return Texts.of(data.source, *([_text(row) for row in rows] for rows in (data.train, data.dev, data.test)))

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        played = faithfulness_note(bench, trial, survivors, "words", "the likeness to the whole text")
        return {**told(trial.checkpoint.folder), **played}

    def plan(self, job: "Job", data: Any, checkpoint: Checkpoint) -> Evaluation:
        splits: list[tuple[list[str], list[Any]]] = []
        if data is not None:
            splits = [([_text(row) for row in rows], []) for rows in (data.dev, data.test)]
        return text_evaluation(splits, [_text(row) for row in data.train] if data else [], job.eval_limit)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        folder = checkpoint.folder
        is_normalized = read_recipe(folder).is_normalized
        return {**super().options(job, checkpoint), "is_normalized": is_normalized, **read_prompts(folder)}

    def texts_of(self, items: Sequence[Any]) -> list[str]:
        return [item if isinstance(item, str) else str(item.get("text", "")) for item in items]

    def load(self, folder: Path, is_pickle_allowed: bool) -> Exportable:
        from doorstep_converters.export.classifier import choose_mask
        from doorstep_converters.tasks.sentence_similarity_pooling import Pooled

        model = self.load_model(folder, is_pickle_allowed)
        model.set_attn_implementation("eager")
        recipe = read_recipe(folder)
        layers = [load_dense(folder / path) for path in recipe.dense]
        return Exportable(choose_mask(model, Pooled.of(recipe.pooling, layers)), *self.specs(folder))

    def answer_texts(
        self, folder: Path, tokenizer: Any, items: Sequence[Any], plan: dict[str, Any]
    ) -> list[dict[str, float]]:
        texts = [self.text_read(item, plan["options"]) for item in items]
        kept = {**plan, "max_length": plan["options"]["max_length"]}  # else long probes would fail short product names
        return flat_vectors(self.encode(folder, tokenizer, texts, kept))

    def encode(self, folder: Path, tokenizer: Any, texts: Sequence[str], plan: dict[str, Any]) -> Array:
        """Return the checkpoint's vectors [texts, dimensions] float32 (worker)."""
        import torch

        from doorstep_converters.tasks.sentence_similarity_pooling import Pooled

        recipe = read_recipe(folder)
        model = self.load_model(folder, plan["is_pickle_allowed"])
        pooled = Pooled.of(recipe.pooling, [load_dense(folder / path) for path in recipe.dense])(model, False).eval()
        rows = []
        for place, text in enumerate(texts):
            encoded = tokenizer(text, truncation=True, max_length=plan["max_length"], return_tensors="pt")
            with torch.no_grad():
                rows.append(pooled(encoded["input_ids"], encoded["attention_mask"])[0].numpy())
            plan["progress"]((place + 1) / len(texts))
        vectors = np.array(rows, np.float32)  # [texts, dimensions]
        if plan["options"]["is_normalized"]:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def compare(self, expected: Any, got: Any, truth: Sequence[Any] | None) -> Parity:
        return compare_vectors(expected, got, self.metric)

    def failure(self, plan: VariantPlan, parity: Parity, bound: Bound) -> str:
        return vector_failure(plan, parity, bound)

    def figure(self, answers: Sequence[dict[str, float]], truth: Sequence[Any]) -> float:
        return 0.0  # `compare` has no truth to judge by

    def text_read(self, item: Any, options: dict[str, Any]) -> str:
        before = options.get("prompts", {}).get(options.get("default_prompt", ""), "")
        return before + self.texts_of([item])[0]


def _text(row: dict[str, Any]) -> str:
    return next((row[name] for name in _TEXTS if isinstance(row.get(name), str)), "")


CRAFT = SentenceCraft()
