"""torch → ONNX, then the graph optimisations of ONNX Runtime that hold on every CPU."""

import ast
import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from doorstep_converters.export.classifier import example_feeds, load_classifier
from doorstep_converters.export.exportable import Exportable, load_exportable
from doorstep_converters.worker import Channel

OPSET = 18  # the lowest that torch's exporter writes without a conversion; ONNX Runtime reads it since 1.14
_SMALLEST = 128  # bytes of a weight that is moved beside the graph
_ALIGNMENT = 64  # bytes, as engines like their weights
_NAMES = ["input_ids", "attention_mask"]
_SCOPES = "pkg.torch.onnx.name_scopes"  # of the modules a node came from, as torch's exporter writes them


def export(out: Path, channel: Channel, checkpoint: str, is_pickle_allowed: bool, task: str = "") -> dict[str, Any]:
    """Write fp32 graphs with any batch and any sequence length; a job of `stages`.

    `portable.onnx` has standard operators only, for OpenVINO; `model.onnx` has ONNX Runtime's fusions; `modules.json`
    tells which of the checkpoint's modules each node came from.
    """
    if task:
        export_any(load_exportable(task, Path(checkpoint), is_pickle_allowed), out / "portable.onnx")
    else:
        export_graph(load_classifier(Path(checkpoint), is_pickle_allowed), out / "portable.onnx")
    channel.progress(0.8)
    optimize(out / "portable.onnx", out / "model.onnx")
    (out / "modules.json").write_text(json.dumps(module_names(out / "portable.onnx")), encoding="utf-8")
    return describe(out / "model.onnx")


def export_graph(classifier: torch.nn.Module, path: Path) -> None:
    """Export with torch's own exporter."""
    feeds = example_feeds(2, 16, torch.long)
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    axes = {0: batch, 1: sequence}
    torch.onnx.export(
        classifier,
        (feeds["input_ids"], feeds["attention_mask"]),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=_NAMES,
        output_names=["logits"],
        dynamic_shapes=(axes, axes),
        external_data=False,
        verbose=False,
    )


def export_any(model: Exportable, path: Path) -> None:
    """Export a model of any task; every named axis stays open."""
    if model.onnx:
        path.write_bytes(model.onnx)
        return
    dims = {axis: torch.export.Dim(axis) for spec in model.inputs for axis in spec.shape if isinstance(axis, str)}
    axes = tuple({n: dims[axis] for n, axis in enumerate(spec.shape) if isinstance(axis, str)} for spec in model.inputs)
    torch.onnx.export(
        model.module,
        tuple(model.example(2, model.shortest, is_narrow=False).values()),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=[spec.name for spec in model.inputs],
        output_names=[spec.name for spec in model.outputs],
        dynamic_shapes=axes,
        external_data=False,
        verbose=False,
    )


def module_names(portable: Path) -> dict[str, str]:
    """Return which module each node was exported from, as far as the exporter says."""
    names = {}
    for node in onnx.load(portable, load_external_data=False).graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
        parts = [str(part) for part in ast.literal_eval(scopes)]
        if len(parts) > 1:
            module = parts[-2].removeprefix("model.")
            names[node.name] = f"{module}/{parts[-1]}" if parts[-1].startswith("matmul") else module
    return names


def optimize(source: Path, target: Path) -> None:
    """Write `source` with ONNX Runtime's extended fusions; layouts that fit one CPU only are left to the device."""
    _rewrite(source, target, ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED)


def fold(source: Path, target: Path) -> None:
    """Write `source` with what only depends on weights computed, in standard operators; norms go into convolutions."""
    _rewrite(source, target, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)


def _rewrite(source: Path, target: Path, level: ort.GraphOptimizationLevel) -> None:
    settings = ort.SessionOptions()
    settings.graph_optimization_level = level
    settings.optimized_model_filepath = str(target)
    settings.log_severity_level = 3
    ort.InferenceSession(str(source), settings, providers=["CPUExecutionProvider"])


def move_weights(path: Path) -> None:
    """Move the weights of a graph to `NAME.data` beside it, which ONNX Runtime maps instead of copying.

    Constants of a few elements stay in the graph, where shape inference can read them.
    """
    model = onnx.load(path)
    with open(path.with_name(f"{path.name}.data"), "wb") as file:
        for tensor in model.graph.initializer:
            if not tensor.HasField("raw_data"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
            data = tensor.raw_data
            if len(data) < _SMALLEST:
                continue
            file.write(bytes(-file.tell() % _ALIGNMENT))
            set_external_data(tensor, f"{path.name}.data", file.tell(), len(data))
            file.write(data)
            tensor.ClearField("raw_data")
    onnx.save(model, path)


def describe(path: Path) -> dict[str, Any]:
    """Return what a manifest must say about an ONNX file."""
    model = onnx.load(path, load_external_data=False)
    opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    shown = ", ".join(f"{name} {opsets[name]}" for name in sorted(used & opsets.keys()))
    return {"opset": shown, "ir_version": model.ir_version}
