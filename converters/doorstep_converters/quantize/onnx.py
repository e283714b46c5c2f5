"""Recipes for ONNX Runtime, by its own quantizer."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from doorstep.errors import UsageError
from doorstep.tensors import Array
from doorstep_converters.export.onnx import describe, fold, move_weights, optimize
from doorstep_converters.quantize.calibration import read_feeds
from doorstep_converters.quantize.packed import pack
from doorstep_converters.worker import Channel

_DENSE = ["MatMul", "Gemm", "Gather"]
_BLOCK = 32  # weights that share one int4 scale
_LARGE = 1024  # elements from which a weight is worth storing as fp16


def quantize(
    out: Path,
    channel: Channel,
    source: str,
    recipe: str,
    calibration: str,
    tokenizer: str,
    max_length: int,
    can_saturate: bool,
) -> dict[str, Any]:
    """Write `model.onnx` after `recipe`, its weights beside it in `model.onnx.data`; a job of `stages`."""
    logging.getLogger().setLevel(logging.WARNING)
    target = out / "model.onnx"
    if recipe == "none":
        shutil.copyfile(source, target)
    elif recipe == "weight_only_wfp16_afp32":
        store_fp16(Path(source), target)
    elif recipe == "weight_only_wi4_afp32":
        _int4(source, target)
    elif recipe in ("weight_only_wi8_afp32", "weight_only_ti4_wi8_afp32"):
        pack(Path(source), target, table_bits=4 if "ti4" in recipe else 8)
    elif recipe == "dynamic_wi8_afp32":
        _dynamic(source, target, can_saturate)
    elif recipe == "static_wi8_ai8":
        feeds = read_feeds(Path(calibration), Path(tokenizer), max_length, "int64")
        _static(source, target, feeds, can_saturate)
    else:
        raise UsageError(f"recipe: ONNX Runtime has no {recipe!r}")
    move_weights(target)
    return describe(target)


def store_fp16(source: Path, target: Path) -> None:
    """Store large fp32 weights as fp16 behind a Cast, which the engine folds away while loading."""
    model = onnx.load(source)
    graph = model.graph
    casts = []
    for weight in graph.initializer:
        array = numpy_helper.to_array(weight)
        if weight.data_type != TensorProto.FLOAT or array.size < _LARGE:
            continue
        name = weight.name
        half = np.clip(array, np.finfo(np.float16).min, np.finfo(np.float16).max).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(half, f"{name}.fp16"))
        casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
    for place, cast in enumerate(casts):
        graph.node.insert(place, cast)
    onnx.save(model, target)


def _int4(source: str, target: Path) -> None:
    options: Any = {"block_size": _BLOCK, "is_symmetric": True, "accuracy_level": 4}
    config = DefaultWeightOnlyQuantConfig(op_types_to_quantize=("MatMul", "Gather"), **options)
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config, **options)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=False)


class _Feeds(CalibrationDataReader):
    """Calibration feeds, one after the other."""

    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


def _dynamic(source: str, target: Path, can_saturate: bool) -> None:
    """Quantize, then fuse once more: the quantizer leaves chains that ONNX Runtime would fuse at every start."""
    raw = target.with_name("unfused.onnx")
    quantize_dynamic(
        source,
        raw,
        per_channel=True,
        reduce_range=can_saturate,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=_DENSE,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
    optimize(raw, target)
    raw.unlink()


def _static(source: str, target: Path, feeds: list[dict[str, Array]], can_saturate: bool) -> None:
    kinds = _kinds(source)
    chosen = Path(source)
    if kinds is None or "Conv" in kinds:
        chosen = target.with_name("folded.onnx")
        fold(Path(source).with_name("portable.onnx"), chosen)  # fused convolutions would stay in fp32
    quantize_static(
        chosen,
        target,
        _Feeds(feeds),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=can_saturate,
        op_types_to_quantize=kinds,
    )
    if chosen != Path(source):
        chosen.unlink()


def _kinds(source: str) -> list[str] | None:
    """Return the operators to quantize: of a network of 2-D convolutions all that can be (None).

    Of a transformer over pictures the convolution that cuts it into patches too; its norms and softmax stay in fp32.
    """
    graph = onnx.load(Path(source).with_name("portable.onnx"), load_external_data=False).graph
    ranks = {weight.name: len(weight.dims) for weight in graph.initializer}
    if not any(node.op_type == "Conv" and ranks.get(node.input[1]) == 4 for node in graph.node):
        return list(_DENSE)
    kinds = {node.op_type for node in graph.node}
    return [*_DENSE, "Conv"] if kinds & {"LayerNormalization", "Softmax", "Erf", "Gelu"} else None
