"""Recipes for the NumPy runtime: weights stored small, unpacked to fp32 where they are used."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from doorstep.errors import UsageError
from doorstep.tensors import Array
from doorstep_converters.export.numpy import Network, Node, keep_used, write_network
from doorstep_converters.quantize.packed import half_bytes
from doorstep_converters.worker import Channel

_LARGE = 1024  # elements from which a weight is worth storing small


def quantize(
    out: Path,
    channel: Channel,
    source: str,
    recipe: str,
    calibration: str,
    tokenizer: str,
    max_length: int,
) -> dict[str, Any]:
    """Write `model.json` and `model.safetensors` after `recipe`; a job of `stages`."""
    network = read_network(Path(source))
    if recipe not in ("none", "weight_only_wfp16_afp32", "weight_only_wi8_afp32", "weight_only_ti4_wi8_afp32"):
        raise UsageError(f"recipe: the NumPy runtime has no {recipe!r}")
    if recipe != "none":
        network = pack_weights(network, is_int8="wi8" in recipe, has_int4_tables="ti4" in recipe)
    write_network(network, out)
    return {}


def read_network(path: Path) -> Network:
    """Read what `write_network` wrote."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    nodes = [Node(**node) for node in plain["nodes"]]
    return Network(plain["inputs"], plain["outputs"], nodes, load_file(path.with_suffix(".safetensors")))


def pack_weights(network: Network, is_int8: bool, has_int4_tables: bool = False) -> Network:
    """Store large weights as fp16, or as int8 with an fp32 scale a channel; tables as int4 if asked.

    Rows of a table are looked up first and unpacked then; other weights are unpacked right before each use. Weights
    of recurrent and other layers stay fp16.
    """
    packer = _Packer(network, is_int8, has_int4_tables)
    for node in network.nodes:
        packer.pack(node)
    packed = replace(network, nodes=packer.nodes, weights={**network.weights, **packer.weights})
    return keep_used(packed)


class _Packer:
    """Collects nodes and weights; a weight that is used twice is packed once."""

    def __init__(self, network: Network, is_int8: bool, has_int4_tables: bool) -> None:
        self.nodes: list[Node] = []
        self.weights: dict[str, Array] = {}
        self._network = network
        self._is_int8 = is_int8
        self._has_int4_tables = has_int4_tables
        self._count = 0

    def pack(self, node: Node) -> None:
        """Add `node`, its large weights packed."""
        if node.op == "Gather" and node.attributes.get("axis", 0) == 0 and self._is_large(node.inputs[0]):
            self._look_up(node)
            return
        inputs = [
            self._unpack(name, node, place) if self._is_large(name) else name for place, name in enumerate(node.inputs)
        ]
        self.nodes.append(replace(node, inputs=inputs))

    def _is_large(self, name: str) -> bool:
        weight = self._network.weights.get(name)
        return weight is not None and weight.dtype == np.float32 and weight.size >= _LARGE

    def _look_up(self, node: Node) -> None:
        table, indices = node.inputs
        rows = self._new(table)
        if not self._is_int8 or self._network.weights[table].ndim != 2:
            self.nodes.append(Node("Gather", [self._half(table), indices], [rows]))
            self.nodes.append(Node("Cast", [rows], node.outputs, {"to": "float32"}))
            return
        is_int4 = self._has_int4_tables and self._network.weights[table].shape[1] % 2 == 0
        packed, scale = self._int4(table) if is_int4 else self._int8(table, 0, is_column=True)
        wide, scales = self._new(table), self._new(table)
        self.nodes += [
            Node("Gather", [packed, indices], [rows]),
            Node("Cast", [rows], [wide], {"to": "float32"}),
            Node("Gather", [scale, indices], [scales]),
        ]
        values = self._apart(wide) if is_int4 else wide
        self.nodes.append(Node("Mul", [values, scales], node.outputs))

    def _int4(self, table: str) -> tuple[str, str]:
        """Pack a table, two values a byte; returns the names of bytes and scales."""
        self.weights[f"{table}.int4"], self.weights[f"{table}.scale.int4"] = half_bytes(self._network.weights[table])
        self.weights["sixteen"], self.weights["eight"] = np.array(16, np.float32), np.array(8, np.float32)
        return f"{table}.int4", f"{table}.scale.int4"

    def _apart(self, wide: str) -> str:
        """Add the nodes that take bytes apart, see `packed.half_bytes`; returns the name of the values."""
        shifted, left, above, right, both, values = (self._new(wide) for _ in range(6))
        self.nodes += [
            Node("Div", [wide, "sixteen"], [shifted]),
            Node("Floor", [shifted], [left]),
            Node("Mul", [left, "sixteen"], [above]),
            Node("Sub", [wide, above], [right]),
            Node("Concat", [left, right], [both], {"axis": -1}),
            Node("Sub", [both, "eight"], [values]),
        ]
        return values

    def _unpack(self, name: str, node: Node, place: int) -> str:
        """Add the node that unpacks a weight for its place among the inputs of `node`; returns the new name."""
        axis = _channel_axis(node, place, self._network.weights[name])
        unpacked = self._new(name)
        if self._is_int8 and axis is not None:
            packed, scale = self._int8(name, axis)
            self.nodes.append(Node("DequantizeLinear", [packed, scale], [unpacked], {"axis": axis}))
        else:
            self.nodes.append(Node("Cast", [self._half(name)], [unpacked], {"to": "float32"}))
        return unpacked

    def _half(self, name: str) -> str:
        limits = np.finfo(np.float16)
        half = np.clip(self._network.weights[name], limits.min, limits.max).astype(np.float16)
        self.weights[f"{name}.fp16"] = half
        return f"{name}.fp16"

    def _int8(self, name: str, axis: int, is_column: bool = False) -> tuple[str, str]:
        """Pack a matrix symmetrically, one scale a place of `axis`; returns the names of the two."""
        weight = self._network.weights[name]
        others = tuple(place for place in range(weight.ndim) if place != axis)
        scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True), 1e-30) / 127
        packed, scales = f"{name}.int8.{axis}", f"{name}.scale.{axis}"
        self.weights[packed] = np.rint(weight / scale).clip(-127, 127).astype(np.int8)
        self.weights[scales] = np.ascontiguousarray(scale if is_column else scale.reshape(-1))
        return packed, scales

    def _new(self, name: str) -> str:
        self._count += 1
        return f"{name}.unpacked.{self._count}"


def _channel_axis(node: Node, place: int, weight: Array) -> int | None:
    """Return the axis of a weight that runs over what its node puts out; None where int8 is not tried."""
    if node.op == "MatMul" and place == 1 and weight.ndim == 2:
        return 1
    if node.op == "Gemm" and place == 1:
        return 0 if node.attributes.get("transB") else 1
    if node.op == "Conv" and place == 1:
        return 0
    return None
