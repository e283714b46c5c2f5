"""A network over fields learns: from labels, or from trees that also answer rows made of several others.

What trees know of a few thousand rows a network does not find by itself; asked about as many more made-up rows as are
wanted, they tell it. Source: Bucilă et al., Model Compression, KDD 2006.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.tasks.tabular_classification import FIRST, Field, TabularEncoder
from doorstep.tensors import Array

if TYPE_CHECKING:
    from doorstep_converters.worker import Channel

_WIDTH, _BATCH, _EPOCHS = 96, 128, 30
_COPIES, _SWAPPED = 6, 0.3  # made-up rows for each real one; share of their fields that come from another row
_UNSEEN = 0.02  # share of codes that training makes unseen ones, so that the network has met them


@dataclass(frozen=True, slots=True)
class Table:
    """What a network learns from: rows as the encoder has them and their classes by split, and the rows themselves."""

    fields: Sequence[Field]
    labels: Sequence[str]
    rows: dict[str, list[dict[str, Array]]]
    truth: dict[str, Array]
    items: Sequence[Sequence[Any]]


def load_net(folder: Path) -> Any:
    """Load the network of a checkpoint that `train_net` wrote."""
    from safetensors.torch import load_file

    from doorstep_converters.tasks.tabular_classification_net import FieldsNet

    net = FieldsNet(**json.loads((folder / "config.json").read_text(encoding="utf-8"))["net"])
    net.load_state_dict(load_file(folder / "model.safetensors"))
    return net.eval()


def train_net(
    out: Path, channel: "Channel", table: Table, teacher: Path | None, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a network and write its weights to `out`; returns its shape and what training was like.

    Args:
        teacher: a checkpoint of trees on the same fields, whose probabilities stand in the place of the labels.
    """
    import torch
    from safetensors.torch import save_file
    from sklearn.metrics import roc_auc_score

    from doorstep_converters.placement import feeds_device
    from doorstep_converters.tasks.loop import Course, fit
    from doorstep_converters.tasks.tabular_classification_net import FieldsNet

    torch.manual_seed(options["seed"])
    categories = [len(field.categories) + FIRST for field in table.fields if field.kind == "category"]
    shape: dict[str, Any] = {
        "numbers": max(1, len(table.fields) - len(categories)),
        "categories": categories or [FIRST],
        "classes": len(table.labels),
        "width": _WIDTH,
    }
    net = FieldsNet(**shape)
    rows, wanted = (table.rows["train"], table.truth["train"]) if teacher is None else _taught(table, teacher, options)
    device = feeds_device()
    known, wanted = _tensors(rows, device), torch.from_numpy(wanted).to(device)
    judged = _tensors(table.rows["dev"] or table.rows["train"], device)
    truth = table.truth["dev"] if table.rows["dev"] else table.truth["train"]

    def loss_of(places: list[int]) -> torch.Tensor:
        numbers, missing, codes = (tensor[places] for tensor in known)
        codes = torch.where(torch.rand(codes.shape, device=device) < _UNSEEN, torch.ones_like(codes), codes)
        return torch.nn.functional.cross_entropy(net(numbers, missing, codes), wanted[places])

    def dev_figure() -> float:
        found = net(*judged).softmax(-1).cpu().numpy()
        if len(table.labels) == 2:
            return float(roc_auc_score(truth, found[:, 1]))
        return float((found.argmax(1) == truth).mean())

    course = Course(round(options["epochs"] or _EPOCHS), _BATCH, 2e-3, 0.02, seed=options["seed"], patience=8)
    figures = fit(net, range(len(rows)), loss_of, dev_figure, course, channel)
    save_file(net.state_dict(), out / "model.safetensors")
    return shape, figures


def _tensors(rows: Sequence[dict[str, Array]], device: Any) -> list[Any]:
    """Return numbers and missing [rows, numbers] float32 and codes [rows, categories] int64."""
    import torch

    columns = (np.array([row[name] for row in rows]) for name in ("numbers", "missing", "categories"))
    return [torch.from_numpy(column).to(device) for column in columns]


def _taught(table: Table, teacher: Path, options: dict[str, Any]) -> tuple[list[dict[str, Array]], Array]:
    """Return the training rows and made-up ones beside them, and the teacher's probabilities [rows, classes]."""
    import onnxruntime

    encoder = TabularEncoder(table.fields)
    made = mixed_rows([item for item, _ in table.items], _COPIES * len(table.items), options["seed"])
    rows = table.rows["train"] + [encoder.encode(item, place) for place, item in enumerate(made)]
    session = onnxruntime.InferenceSession(str(teacher / "model.onnx"), providers=["CPUExecutionProvider"])
    features = np.array([row["features"] for row in rows], np.float32)
    answers: Array = session.run(["probabilities"], {"features": features})[0]
    return rows, answers


def mixed_rows(items: Sequence[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Return `count` made-up rows: each is one of `items`, some of whose fields come from another."""
    generator = np.random.default_rng(seed)
    made = []
    for first, second in generator.integers(0, len(items), (count, 2)).tolist():
        swapped = generator.random(len(items[first])) < _SWAPPED
        made.append({
            name: items[second].get(name) if takes else value
            for (name, value), takes in zip(items[first].items(), swapped, strict=True)
        })  # fmt: skip
    return made
