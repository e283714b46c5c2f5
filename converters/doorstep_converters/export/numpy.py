"""ONNX → the NumPy runtime: `model.json` with the nodes, `model.safetensors` with the weights."""

import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

from doorstep.errors import ConversionError
from doorstep.tensors import Array
from doorstep_converters.worker import Channel

FORMAT = 1
_OLDEST, _NEWEST = 13, 21  # opsets whose operators have the inputs and attributes that the runtime reads


@dataclass(frozen=True, slots=True)
class Node:
    """One operator at work, as it stands in `model.json`."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """A whole model."""

    inputs: list[str]
    outputs: list[str]
    nodes: list[Node]
    weights: dict[str, Array]


def export(out: Path, channel: Channel, source: str) -> dict[str, Any]:
    """Write a model in fp32 from an ONNX file of standard operators; a job of `stages`."""
    network = read_onnx(Path(source))
    channel.progress(0.7)
    write_network(network, out)
    return {"nodes": len(network.nodes)}


def read_onnx(source: Path) -> Network:
    """Read an ONNX file; what only depends on weights is computed, GELU becomes one node.

    Raises:
        ConversionError: an opset, a domain or an attribute without a counterpart.
    """
    model = _folded(source)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if not _OLDEST <= opset <= _NEWEST:
        raise ConversionError(f"{source.name}: expected opset {_OLDEST} to {_NEWEST}, got {opset}")
    graph = model.graph
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise ConversionError(f"{source.name}: {node.op_type} of {node.domain} is no standard operator")
        attributes = _attributes(node, opset)
        if node.op_type == "Constant":
            weights[node.output[0]] = attributes["value"]
        else:
            nodes.append(Node(node.op_type, list(node.input), list(node.output), _plain(node.op_type, attributes)))
    inputs = [entry.name for entry in graph.input if entry.name not in weights]
    network = Network(inputs, [entry.name for entry in graph.output], nodes, weights)
    return keep_used(fuse_gelu(network))


def write_network(network: Network, out: Path) -> None:
    """Write `model.json` and `model.safetensors` into a folder."""
    plain = {"format": FORMAT, "inputs": network.inputs, "outputs": network.outputs}
    nodes = [json.dumps(asdict(node), allow_nan=False) for node in network.nodes]
    head = json.dumps(plain)[:-1]
    (out / "model.json").write_text(head + ', "nodes": [\n' + ",\n".join(nodes) + "\n]}\n", encoding="utf-8")
    save_file(network.weights, out / "model.safetensors")


def keep_used(network: Network) -> Network:
    """Leave out weights that no node reads."""
    used = {name for node in network.nodes for name in node.inputs} | set(network.outputs)
    weights = {name: weight for name, weight in network.weights.items() if name in used}
    return Network(network.inputs, network.outputs, network.nodes, weights)


def fuse_gelu(network: Network) -> Network:
    """Turn x/√2 → Erf → + 1 → · ½ → · x, as exporters write it, into one Gelu."""
    readers: dict[str, list[Node]] = {}
    for node in network.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    gone: set[int] = set()
    fused: dict[int, Node] = {}
    for node in network.nodes:
        if chain := _gelu_chain(node, readers, network):
            gone |= {id(part) for part in chain}
            fused[id(chain[-1])] = Node("Gelu", [node.inputs[0]], chain[-1].outputs)
    nodes = [fused.get(id(node), node) for node in network.nodes if id(node) not in gone or id(node) in fused]
    return Network(network.inputs, network.outputs, nodes, network.weights)


def _gelu_chain(first: Node, readers: dict[str, list[Node]], network: Network) -> list[Node]:
    """Return the five nodes of a GELU that begins with `first`, or none; the two products come in either order."""
    scaled = {"Div": math.sqrt(2), "Mul": math.sqrt(0.5)}.get(first.op)
    if scaled is None or not _is_scalar(network, first.inputs[1], scaled):
        return []
    chain, factors = [first], []
    for op in ("Erf", "Add", "Mul", "Mul"):
        made = chain[-1].outputs[0]
        followers = readers.get(made, [])
        if len(followers) != 1 or followers[0].op != op or made in network.outputs:
            return []
        chain.append(followers[0])
        factors += [name for name in followers[0].inputs if name != made]
    one, *products = factors if len(factors) == 3 else ["", "", ""]
    by_x, by_half = (products[0], products[1]) if products[0] == first.inputs[0] else (products[1], products[0])
    fits = by_x == first.inputs[0] and _is_scalar(network, one, 1.0) and _is_scalar(network, by_half, 0.5)
    return chain if fits else []


def _is_scalar(network: Network, name: str, value: float) -> bool:
    weight = network.weights.get(name)
    return weight is not None and weight.size == 1 and math.isclose(float(weight.item()), value, rel_tol=1e-5)


def _folded(source: Path) -> onnx.ModelProto:
    """Return the graph after ONNX Runtime's basic optimisations, which keep to standard operators."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ort.SessionOptions()
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(Path(folder) / "model.onnx")
        settings.log_severity_level = 3
        ort.InferenceSession(str(source), settings, providers=["CPUExecutionProvider"])
        return onnx.load(settings.optimized_model_filepath)


def _attributes(node: onnx.NodeProto, opset: int) -> dict[str, Any]:
    """Return the attributes that differ from the specification's defaults, as Python values."""
    known = onnx.defs.get_schema(node.op_type, opset).attributes
    found = {}
    for attribute in node.attribute:
        value = _value(attribute)
        default = known[attribute.name].default_value if attribute.name in known else None
        if default is None or not default.type or _value(default) != value:
            found[attribute.name] = value
    return found


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Iterable):
        return list(value)
    raise ConversionError(f"attribute {attribute.name}: the NumPy runtime has no graphs inside of graphs")


def _plain(op: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Write types by their names."""
    if op == "Cast":
        return {"to": helper.tensor_dtype_to_np_dtype(attributes["to"]).name}
    if op == "ConstantOfShape" and "value" in attributes:
        value = attributes["value"]
        return {"value": value.item() + 0, "dtype": value.dtype.name}  # a bool becomes 0 or 1
    return attributes
