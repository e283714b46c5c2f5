"""sentence-similarity: a sentence-transformers folder, its pooling inside the graph, vectors that agree by cosine."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.errors import CheckpointError
from doorstep.tensors import Array, TensorSpec
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.parity import Bound, Parity
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.tasks.text import TextCraft, text_evaluation
from doorstep_converters.tasks.vectors import compare_vectors, flat_vectors, vector_failure

if TYPE_CHECKING:
    from doorstep_converters.job import Job

_TEXTS = ("text", "sentence", "query", "name", "review", "content")
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
_VECTOR = "sentence_embedding"
_STEPS = re.compile("(Transformer)?(Pooling)?(Dense)*(Normalize)?")
# In the order in which sentence-transformers sets the vectors side by side, whatever the order in the file.
_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a sentence-transformers folder says of the way from tokens to a vector.

    Attributes:
        pooling: names of poolings whose vectors stand side by side.
        dense: folders of linear layers behind them, in order.
    """

    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[str, ...] = ()
    is_normalized: bool = True


def read_recipe(folder: Path) -> Recipe:
    """Read `modules.json` and what it names; a folder without it is pooled by the mean and normalized.

    Raises:
        CheckpointError: a module, an order of modules or a pooling that doorstep does not know.
    """
    if not (folder / "modules.json").is_file():
        return Recipe()
    modules = [
        (str(module.get("type", "")).rpartition(".")[2], str(module.get("path", "")))
        for module in _json(folder / "modules.json")
    ]
    if unknown := [kind for kind, _ in modules if kind not in _KNOWN]:
        raise CheckpointError(f"{folder}: expected modules {', '.join(_KNOWN)}, got {', '.join(unknown)}")
    if not _STEPS.fullmatch("".join(kind for kind, _ in modules)):
        got = ", ".join(kind for kind, _ in modules)
        raise CheckpointError(f"{folder}: expected one Pooling, then Dense layers, then Normalize, got {got}")
    poolings = [_pooling(folder / path) for kind, path in modules if kind == "Pooling"]
    dense = tuple(path for kind, path in modules if kind == "Dense")
    return Recipe(poolings[0] if poolings else ("mean",), dense, any(kind == "Normalize" for kind, _ in modules))


def _pooling(folder: Path) -> tuple[str, ...]:
    """Read which poolings a folder names: by a flag each, or by a name or a list of names under `pooling_mode`."""
    plain = _json(folder / "config.json")
    names = plain.get("pooling_mode")
    if names is None:
        names = [name for key, name in _POOLING.items() if plain.get(key)]
    listed = [names] if isinstance(names, str) else list(names)
    wanted = tuple(str(name).removesuffix("_tokens") for name in listed)
    if not wanted or not set(wanted) <= set(_POOLING.values()) or plain.get("include_prompt") is False:
        raise CheckpointError(f"{folder}: its pooling is none of {', '.join(_POOLING.values())}, with prompts")
    return wanted


class SentenceCraft(TextCraft):
    """Answers are vectors, number by number."""

    task = "sentence-similarity"
    metric = "cosine"
    is_scored = False
    head = "Model"
    auto = "AutoModel"
    output = TensorSpec("vectors", "float32", ("batch", "dimensions"))

    def plan(self, job: "Job", data: Any, checkpoint: Checkpoint) -> Evaluation:
        splits: list[tuple[list[str], list[Any]]] = []
        if data is not None:
            splits = [([_text(row) for row in rows], []) for rows in (data.dev, data.test)]
        return text_evaluation(splits, [_text(row) for row in data.train] if data else [], job.eval_limit)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        folder = checkpoint.folder
        options = {**super().options(job, checkpoint), "is_normalized": read_recipe(folder).is_normalized}
        path = folder / "config_sentence_transformers.json"
        if path.is_file():
            plain = _json(path)
            prompts = {str(name): str(text) for name, text in (plain.get("prompts") or {}).items() if text}
            options["prompts"] = prompts
            if plain.get("default_prompt_name") in prompts:
                options["default_prompt"] = plain["default_prompt_name"]
        return options

    def texts_of(self, items: Sequence[Any]) -> list[str]:
        return [item if isinstance(item, str) else str(item.get("text", "")) for item in items]

    def load(self, folder: Path, is_pickle_allowed: bool) -> Exportable:
        from doorstep_converters.export.classifier import choose_mask
        from doorstep_converters.tasks.sentence_similarity_pooling import Pooled

        model = self.load_model(folder, is_pickle_allowed)
        model.set_attn_implementation("eager")
        recipe = read_recipe(folder)
        layers = [_dense(folder / path) for path in recipe.dense]
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
        pooled = Pooled.of(recipe.pooling, [_dense(folder / path) for path in recipe.dense])(model, False).eval()
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


def _dense(folder: Path) -> Any:
    """Load one linear layer and its activation."""
    from safetensors.torch import load_file
    from torch import nn

    plain = _json(folder / "config.json")
    if plain.get("use_residual") or plain.get("module_input_name", _VECTOR) != _VECTOR:
        raise CheckpointError(f"{folder}: expected a layer on the {_VECTOR}, without a residual; got {plain!s:.200}")
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"{folder}: no model.safetensors; load and save the folder with sentence-transformers")
    activation = str(plain.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in ("Identity", "Tanh", "ReLU", "GELU"):
        raise CheckpointError(f"{folder}: expected Identity, Tanh, ReLU or GELU behind the layer, got {activation}")
    layer = nn.Linear(plain["in_features"], plain["out_features"], bias=plain.get("bias", True))
    weights = load_file(folder / "model.safetensors")
    layer.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in weights.items()})
    return nn.Sequential(layer, getattr(nn, activation)())


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected JSON ({error!s:.100})") from error


def _text(row: dict[str, Any]) -> str:
    return next((row[name] for name in _TEXTS if isinstance(row.get(name), str)), "")


CRAFT = SentenceCraft()
