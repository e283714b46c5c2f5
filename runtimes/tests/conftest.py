"""Small real models, one a format, that all compute the same: embed, mean over the mask, classify."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from doorstep.session import Graph
from doorstep.tensors import Fetches, TensorSpec
from doorstep.testing import GraphCase
from doorstep_converters.export.numpy import read_onnx, write_network

VOCABULARY, WIDTH, CLASSES = 32, 8, 3
SHAPES = ((1, 16), (1, 32), (4, 16))
"""(batch, sequence) of the signatures in the TFLite file."""

_RANDOM = np.random.default_rng(7)
TABLE = _RANDOM.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
HEAD = _RANDOM.normal(size=(WIDTH, CLASSES)).astype(np.float32)


def answer(ids: np.ndarray, mask: np.ndarray) -> Fetches:
    """Compute in NumPy what the models compute; ids and mask [batch, sequence]."""
    weights = mask[..., None].astype(np.float32)
    pooled = (TABLE[ids] * weights).sum(1) / weights.sum(1)  # [batch, WIDTH]
    return {"logits": pooled @ HEAD}


def specs(dtype: str, batch: int | str = "batch", sequence: int | str = "sequence") -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, (batch, sequence)) for name in ("input_ids", "attention_mask"))


def case(graph: Graph, shapes: tuple[tuple[int, int], ...]) -> GraphCase:
    """Give `graph` batches of these (rows, length), with masks of every length up to it."""
    dtype = graph.inputs[0].dtype
    random = np.random.default_rng(1)
    feeds = []
    for rows, length in shapes:
        kept = np.maximum(length - np.arange(rows), 1)  # [rows]
        mask = (np.arange(length) < kept[:, None]).astype(dtype)  # [rows, length]
        feeds.append(
            {"input_ids": random.integers(1, VOCABULARY, (rows, length)).astype(dtype), "attention_mask": mask}
        )
    expected = tuple(answer(feed["input_ids"], feed["attention_mask"]) for feed in feeds)
    return GraphCase(graph, tuple(feeds), expected)


def onnx_model(batch: int | str, sequence: int | str) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["embedded", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "axis"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "head"], ["logits"]),
    ]
    constants = {"table": TABLE, "head": HEAD, "last": np.array([-1]), "axis": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "classify",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, [batch, sequence])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def onnx_graph(models: Path) -> Graph:
    onnx.save(onnx_model("batch", "sequence"), models / "model.onnx")
    return Graph(models / "model.onnx", specs("int64"), (TensorSpec("logits", "float32", ("batch", CLASSES)),))


@pytest.fixture(scope="session")
def openvino_graph(onnx_graph: Graph) -> Graph:
    path = onnx_graph.path.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(str(onnx_graph.path)), path, compress_to_fp16=False)
    return Graph(path, onnx_graph.inputs, onnx_graph.outputs)


@pytest.fixture(scope="session")
def tflite_graph(models: Path) -> Graph:
    return write_tflite(models / "model.tflite", SHAPES)


@pytest.fixture(scope="session")
def batched_tflite_graph(models: Path) -> Graph:
    """The same model with the one signature of 4 rows, so that most batches are filled up."""
    return write_tflite(models / "batched.tflite", ((4, 16),))


def write_tflite(path: Path, shapes: tuple[tuple[int, int], ...]) -> Graph:
    import litert_torch
    import torch

    class Classify(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding.from_pretrained(torch.tensor(TABLE))
            self.head = torch.nn.Parameter(torch.tensor(HEAD))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            weights = attention_mask.unsqueeze(-1).float()
            pooled = (self.table(input_ids) * weights).sum(1) / weights.sum(1).clamp(min=1)
            return {"logits": pooled @ self.head}

    converter = litert_torch
    for batch, sequence in shapes:
        # Two tensors: the exporter takes one that is given twice for one input.
        feeds = {spec.name: torch.ones(batch, sequence, dtype=torch.int32) for spec in specs("int32")}
        converter = converter.signature(f"b{batch}_s{sequence}", Classify().eval(), sample_kwargs=feeds)
    converter.convert().export(str(path))
    return Graph(path, specs("int32"), (TensorSpec("logits", "float32", ("batch", CLASSES)),))


@pytest.fixture(scope="session")
def numpy_graph(onnx_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return write_numpy(onnx_graph, tmp_path_factory.mktemp("numpy"))


@pytest.fixture(scope="session")
def fixed_numpy_graph(fixed_onnx_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return write_numpy(fixed_onnx_graph, tmp_path_factory.mktemp("numpy"))


def write_numpy(graph: Graph, folder: Path) -> Graph:
    write_network(read_onnx(graph.path), folder)
    return Graph(folder / "model.json", graph.inputs, graph.outputs)


@pytest.fixture(scope="session")
def fixed_onnx_graph(models: Path) -> Graph:
    """The same model with the one shape [4, 16]."""
    path = models / "fixed.onnx"
    onnx.save(onnx_model(4, 16), path)
    return Graph(path, specs("int64", 4, 16), (TensorSpec("logits", "float32", (4, CLASSES)),))


@pytest.fixture(scope="session")
def fixed_openvino_graph(fixed_onnx_graph: Graph) -> Graph:
    path = fixed_onnx_graph.path.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(str(fixed_onnx_graph.path)), path, compress_to_fp16=False)
    return Graph(path, fixed_onnx_graph.inputs, fixed_onnx_graph.outputs)


CaseOf = Callable[..., GraphCase]


@pytest.fixture
def graph_of(request: pytest.FixtureRequest) -> Callable[[str], Graph]:
    """Return the graph of a runtime, by its name; `fixed_…` of one has the one shape [4, 16]."""
    return lambda name: request.getfixturevalue(f"{name}_graph")


@pytest.fixture
def case_of(graph_of: Callable[[str], Graph]) -> CaseOf:
    """Return `(graph name, *shapes)` as a case with the right answers."""
    return lambda name, *shapes: case(graph_of(name), shapes)
