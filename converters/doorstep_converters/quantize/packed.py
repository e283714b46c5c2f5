"""Weights stored in 8 bits and embedding tables in 8 or 4, by standard ONNX operators and nothing else.

A table's rows are looked up first and unpacked then, so an answer unpacks only the rows it reads. Dense weights are
unpacked by a Cast and a Mul of constants, which engines fold away while loading: small files, fp32 arithmetic.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from doorstep.tensors import Array

_LARGE = 1024  # elements from which a weight is worth packing
_HALF_BYTE = 16


def pack(source: Path, target: Path, table_bits: int) -> None:
    """Write `source` with int8 weights and with tables of `table_bits` (8 or 4) bits, one scale a row or a column."""
    model = onnx.load(source)
    packer = _Packer(model.graph, table_bits)
    nodes = [made for node in model.graph.node for made in packer.pack(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [weight for weight in (*model.graph.initializer, *packer.made) if weight.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, target)


def half_bytes(table: Array) -> tuple[Array, Array]:
    """Pack a table [rows, width] into [rows, ⌈width / 2⌉] uint8 and scales [rows, 1] float32.

    The left half of a row stands in the high half bytes, the right half in the low ones, each value plus 8.
    """
    if table.shape[1] % 2:
        table = np.pad(table, ((0, 0), (0, 1)))
    scale = row_scales(table, 7)
    whole = (np.rint(table / scale).clip(-7, 7) + 8).astype(np.uint8)  # [rows, even width]
    left, right = np.split(whole, 2, axis=1)
    return left * _HALF_BYTE + right, scale


def row_scales(weight: Array, top: int) -> Array:
    """Return the scale [rows, 1] float32 that lets a row reach `top`."""
    return (np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-30) / top).astype(np.float32)


class _Packer:
    """Replaces nodes; new weights are collected in `made`."""

    def __init__(self, graph: onnx.GraphProto, table_bits: int) -> None:
        self.made: list[TensorProto] = []
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._table_bits = table_bits
        self._count = 0
        for name, value in (("sixteen", 16.0), ("eight", 8.0)):
            self.made.append(numpy_helper.from_array(np.array(value, np.float32), f"packed.{name}"))

    def pack(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return what stands in the place of `node`."""
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type == "Gather" and axis == 0 and self._is_matrix(node.input[0]):
            return self._table(node)
        if node.op_type in ("MatMul", "Gemm") and self._is_matrix(node.input[1]):
            is_turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            return [*self._dense(node, is_turned), node]
        return [node]

    def _is_matrix(self, name: str) -> bool:
        weight = self._weights.get(name)
        return (
            weight is not None
            and weight.data_type == TensorProto.FLOAT
            and len(weight.dims) == 2
            and weight.dims[0] * weight.dims[1] >= _LARGE
        )

    def _dense(self, node: onnx.NodeProto, is_turned: bool) -> list[onnx.NodeProto]:
        name = node.input[1]
        weight = numpy_helper.to_array(self._weights[name])
        columns = weight if is_turned else weight.T  # [outputs, inputs]
        scale = row_scales(columns, 127)
        whole = np.rint(columns / scale).clip(-127, 127).astype(np.int8)
        packed = self._add(whole if is_turned else np.ascontiguousarray(whole.T))
        scales = self._add(scale if is_turned else np.ascontiguousarray(scale.T))
        wide, unpacked = self._name(), self._name()
        node.input[1] = unpacked
        cast = helper.make_node("Cast", [packed], [wide], to=TensorProto.FLOAT)
        return [cast, helper.make_node("Mul", [wide, scales], [unpacked])]

    def _table(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        table, indices = numpy_helper.to_array(self._weights[node.input[0]]), node.input[1]
        if self._table_bits == 8:
            scale = row_scales(table, 127)
            packed = np.rint(table / scale).clip(-127, 127).astype(np.int8)
        else:
            packed, scale = half_bytes(table)
        rows, wide, scales = self._name(), self._name(), self._name()
        nodes = [
            helper.make_node("Gather", [self._add(packed), indices], [rows], axis=0),
            helper.make_node("Cast", [rows], [wide], to=TensorProto.FLOAT),
            helper.make_node("Gather", [self._add(scale), indices], [scales], axis=0),
        ]
        values = wide
        if self._table_bits == 4:
            halves, values = self._halves(wide, table.shape[1])
            nodes += halves
        return [*nodes, helper.make_node("Mul", [values, scales], [node.output[0]])]

    def _halves(self, wide: str, width: int) -> tuple[list[onnx.NodeProto], str]:
        """Return nodes that take bytes apart by arithmetic, which every engine has, and the name of the values."""
        shifted, left, above, right, both, values = (self._name() for _ in range(6))
        nodes = [
            helper.make_node("Div", [wide, "packed.sixteen"], [shifted]),
            helper.make_node("Floor", [shifted], [left]),
            helper.make_node("Mul", [left, "packed.sixteen"], [above]),
            helper.make_node("Sub", [wide, above], [right]),
            helper.make_node("Concat", [left, right], [both], axis=-1),
            helper.make_node("Sub", [both, "packed.eight"], [values]),
        ]
        if width % 2 == 0:
            return nodes, values
        cut = self._name()
        bounds = [self._add(np.array([number], np.int64)) for number in (0, width, -1)]
        return [*nodes, helper.make_node("Slice", [values, *bounds], [cut])], cut

    def _add(self, weight: Array) -> str:
        name = self._name()
        self.made.append(numpy_helper.from_array(weight, name))
        return name

    def _name(self) -> str:
        self._count += 1
        return f"packed.{self._count}"
