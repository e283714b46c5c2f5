"""Recipes for ONNX Runtime, by its own quantizer."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    create_calibrator,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.calibrate import HistogramCollector, TensorsData, save_tensors_data
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from doorstep.errors import UsageError
from doorstep.tensors import Array
from doorstep_converters.export.onnx import describe, fold, move_weights, optimize
from doorstep_converters.quantize.calibration import read_feeds
from doorstep_converters.quantize.packed import pack
from doorstep_converters.recipe import MIXED, split_recipe
from doorstep_converters.worker import Channel

DENSE = ["MatMul", "Gemm", "Gather"]
_BLOCK = 32  # weights that share one int4 scale
_LARGE = 1024  # elements from which a weight is worth storing as fp16
_METHODS: dict[str, tuple[CalibrationMethod, dict[str, Any]]] = {
    "": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.99, "num_bins": 2048}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 512, "num_quantized_bins": 128}),
}
"""Word of a recipe to the method of ONNX Runtime and its options; this engine's own is min-max."""


def quantize(
    out: Path,
    channel: Channel,
    source: str,
    recipe: str,
    calibration: str,
    tokenizer: str,
    max_length: int,
    kept: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `model.onnx` after `recipe`, its weights beside it in `model.onnx.data`; a job of `stages`.

    `kept` names the layers of a mixed recipe that stay in floating point.
    """
    logging.getLogger().setLevel(logging.WARNING)
    target = out / "model.onnx"
    base, word = split_recipe(recipe)
    if recipe == "none":
        shutil.copyfile(source, target)
    elif recipe == "weight_only_wfp16_afp32":
        store_fp16(Path(source), target)
    elif recipe == "weight_only_wi4_afp32":
        _int4(source, target)
    elif recipe in ("weight_only_wi8_afp32", "weight_only_ti4_wi8_afp32"):
        pack(Path(source), target, table_bits=4 if "ti4" in recipe else 8)
    elif base == "dynamic_wi8_afp32" and word in ("", MIXED):
        dynamic(Path(source), target, excluded=kept)
    elif base == "static_wi8_ai8" and word in (*_METHODS, MIXED):
        feeds = read_feeds(Path(calibration), Path(tokenizer), max_length, "int64")
        graph, kinds = for_ranges(Path(source), out)
        ranges = Ranges.measure(graph, "" if word == MIXED else word, feeds, out, kinds)
        static(graph, target, ranges, excluded=kept)
        for scratch in {ranges.path, graph} - {Path(source)}:
            scratch.unlink()
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


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges of activations, in a file as ONNX Runtime keeps them."""

    path: Path
    method: CalibrationMethod
    kinds: list[str] | None

    @classmethod
    def measure(
        cls, source: Path, word: str, feeds: Sequence[dict[str, Array]], scratch: Path, kinds: list[str] | None
    ) -> "Ranges":
        """Measure ranges as `word` says.

        Feed by feed: texts of several lengths do not stack, and all activations at once would fill the memory.
        """
        method, options = _METHODS[word]
        found = cls(scratch / "ranges.json", method, kinds)
        ends = _collect(source, CalibrationMethod.MinMax, {}, feeds, scratch, kinds)
        if method != CalibrationMethod.MinMax:
            ends = _collect(source, method, options, feeds, scratch, kinds, _empty_histograms(ends, method, options))
        save_tensors_data(ends, found.path)
        return found


def _collect(
    source: Path,
    method: CalibrationMethod,
    options: dict[str, Any],
    feeds: Sequence[dict[str, Array]],
    scratch: Path,
    kinds: list[str] | None,
    collector: HistogramCollector | None = None,
) -> TensorsData:
    augmented = scratch / "augmented.onnx"
    calibrator = create_calibrator(source, kinds, str(augmented), method, extra_options={"symmetric": False, **options})
    if collector is not None:
        calibrator.collector = collector
    for feed in feeds:
        calibrator.collect_data(_Feeds([feed]))
    augmented.unlink()
    return calibrator.compute_data()


def _empty_histograms(ends: TensorsData, method: CalibrationMethod, options: dict[str, Any]) -> HistogramCollector:
    """Return histograms that reach from end to end before anything is counted.

    Left to itself a histogram grows by bins of the first feed's width, to millions where a later value is far off.
    """
    bins = options["num_bins"]
    collector = HistogramCollector(
        method.name.lower(), False, bins, options.get("num_quantized_bins", bins), options.get("percentile"), None
    )
    for name, data in ends.items():
        lowest, highest = (np.float32(np.asarray(value).item()) for value in data.range_value)
        most = np.float32(max(abs(lowest), abs(highest)))
        edges = np.linspace(-most, most, bins + 1, dtype=np.float32)
        collector.histogram_dict[name] = (np.zeros(bins, np.int64), edges, lowest, highest, most)
    return collector


def dynamic(source: Path, target: Path, only: Sequence[str] = (), excluded: Sequence[str] = ()) -> None:
    """Quantize, then fuse once more: the quantizer leaves chains that ONNX Runtime would fuse at every start.

    Args:
        only: names of the nodes that are quantized; empty for all but those `excluded`.
    """
    raw = target.with_name("unfused.onnx")
    quantize_dynamic(
        source,
        raw,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=DENSE,
        nodes_to_quantize=list(only),
        nodes_to_exclude=list(excluded),
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
    optimize(raw, target)
    raw.unlink()


def for_ranges(source: Path, scratch: Path) -> tuple[Path, list[str] | None]:
    """Return the graph that static quantization starts from, and the operators to quantize (None: all that can be).

    Of a network of 2-D convolutions these are all, of a transformer over pictures the convolution that cuts it into
    patches too; its norms and softmax stay in fp32. Convolutions are taken before they are fused: a fused one would
    stay in fp32. The graph is `source`, or a file made in `scratch`.
    """
    graph = onnx.load(source, load_external_data=False).graph
    ranks = {weight.name: len(weight.dims) for weight in graph.initializer}
    if not any(node.op_type in ("Conv", "FusedConv") and ranks.get(node.input[1]) == 4 for node in graph.node):
        return source, DENSE
    portable, folded = source.with_name("portable.onnx"), scratch / "folded.onnx"
    fold(portable, folded)
    graph = onnx.load(portable, load_external_data=False).graph
    is_transformer = {node.op_type for node in graph.node} & {"LayerNormalization", "Softmax", "Erf", "Gelu"}
    return folded, [*DENSE, "Conv"] if is_transformer else None


def static(
    source: Path,
    target: Path,
    ranges: Ranges,
    only: Sequence[str] = (),
    excluded: Sequence[str] = (),
) -> None:
    """Quantize weights and activations of the graph `for_ranges` gave; `only` and `excluded` as in `dynamic`."""
    quantize_static(
        source,
        target,
        None,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=ranges.kinds,
        nodes_to_quantize=list(only),
        nodes_to_exclude=list(excluded),
        calibrate_method=ranges.method,
        calibration_cache_path=ranges.path,
    )
