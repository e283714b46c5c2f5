"""How much each head, neuron and layer matters, asked on labelled texts.

Heads and neurons by the first-order change of the loss when one is zeroed (Michel et al., Are Sixteen Heads Really
Better than One, https://arxiv.org/abs/1905.10650; Molchanov et al., https://arxiv.org/abs/1611.06440), or, without a
gradient, by activation times the weights that read it. Layers by how far they turn their input (Men et al., ShortGPT,
https://arxiv.org/abs/2403.03853).
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from doorstep.errors import UsageError
from doorstep.tensors import Array
from doorstep_converters.prune.layout import Layout, head_size, layers_of

KINDS = ("gradient", "activation")
_BATCH = 16


def input_importance(
    model: Any, layout: Layout, reader: str, batches: Sequence[dict[str, torch.Tensor]], kind: str
) -> list[Array]:
    """Return, for each layer, the importance of every input [inputs] float64 of its linear layer `reader`.

    Raises:
        UsageError: `kind` is none of `KINDS`.
    """
    if kind not in KINDS:
        raise UsageError(f"importance: expected {' or '.join(KINDS)}, got {kind!r}")
    modules = [layer.get_submodule(reader) for layer in layers_of(model, layout)]
    sums = [np.zeros(module.in_features) for module in modules]
    for batch in batches:
        with _watched(modules) as seen:
            loss = model(**batch).loss
            if kind == "gradient":
                loss.backward()
        mask = batch["attention_mask"][..., None]  # [batch, sequence, 1]
        for place, (module, x) in enumerate(zip(modules, seen, strict=True)):
            sums[place] += _batch_importance(module, x, mask, kind)
        model.zero_grad(set_to_none=True)
    return sums


def head_importance(model: Any, layout: Layout, batches: Sequence[dict[str, torch.Tensor]], kind: str) -> list[Array]:
    """Return the importance of every head of each layer, each layer's scaled to length 1 as in Michel et al."""
    size = head_size(model.config, layout)
    found = input_importance(model, layout, layout.attended, batches, kind)
    by_head = [row.reshape(-1, size).sum(axis=1) for row in found]
    return [row / max(float(np.linalg.norm(row)), 1e-30) for row in by_head]


@torch.no_grad()
def layer_importance(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> list[float]:
    """Return 1 − cosine between each layer's input and output, averaged over tokens."""
    sums: Array | None = None
    tokens = 0.0
    for batch in batches:
        states = model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"].float()
        turned = [
            float(((1 - nn.functional.cosine_similarity(before, after, dim=-1)) * mask).sum())
            for before, after in itertools.pairwise(states)
        ]
        sums = np.array(turned) if sums is None else sums + np.array(turned)
        tokens += float(mask.sum())
    return [] if sums is None else (sums / tokens).tolist()


def labelled_batches(
    model: Any, tokenizer: Any, pairs: Sequence[Sequence[str]], max_length: int
) -> list[dict[str, torch.Tensor]]:
    """Return texts and labels as feeds of the model: ids, mask [batch, sequence], labels [batch]."""
    places = {str(label): int(place) for place, label in model.config.id2label.items()}
    rows = sorted(pairs, key=lambda pair: len(pair[0]))
    batches = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        encoded = tokenizer(
            [text for text, _ in part], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
        )
        labels = torch.tensor([places[label] for _, label in part])
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


@contextmanager
def _watched(modules: Sequence[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Collect what goes into `modules`, in their order, with its gradient."""
    seen: list[torch.Tensor] = []

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            inputs[0].retain_grad()
        seen.append(inputs[0])

    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _batch_importance(module: Any, x: torch.Tensor, mask: torch.Tensor, kind: str) -> Array:
    """Return the importance of each input over one batch; `x` is [batch, sequence, inputs]."""
    if kind == "gradient":
        assert x.grad is not None  # noqa: S101 -- retained by the hook, filled by backward
        per_text = (x * x.grad * mask).sum(dim=1).abs()  # [batch, inputs]
        return per_text.sum(dim=0).detach().numpy().astype(np.float64)
    reads = module.weight.norm(dim=0)  # [inputs]
    return ((x.abs() * mask).sum(dim=(0, 1)) * reads).detach().numpy().astype(np.float64)


def keep_largest(scores: Sequence[Array], count: int, least: int, step: int = 1) -> list[list[int]]:
    """Choose about `count` places over all rows by score, at least `least` in each row, multiples of `step` a row.

    Returns:
        The places kept in each row, in their order.
    """
    kept = [set(np.argsort(-values, kind="stable")[:least].tolist()) for values in scores]
    ranked = sorted(
        ((float(value), row, place) for row, values in enumerate(scores) for place, value in enumerate(values)),
        reverse=True,
    )
    left = count - sum(map(len, kept))
    for _, row, place in ranked:
        if left <= 0:
            break
        if place not in kept[row]:
            kept[row].add(place)
            left -= 1
    return [_rounded(values, len(places), step) for values, places in zip(scores, kept, strict=True)]


def _rounded(values: Array, count: int, step: int) -> list[int]:
    """Return the places of the largest values, their number rounded up to a multiple of `step`."""
    rounded = min(len(values), -(-count // step) * step)
    return sorted(np.argsort(-values, kind="stable")[:rounded].tolist())
