"""Recipes for OpenVINO, by NNCF."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet

from doorstep.errors import UsageError
from doorstep.tensors import Array
from doorstep_converters.quantize.calibration import read_feeds
from doorstep_converters.recipe import CONTROLLED, MIXED, split_recipe
from doorstep_converters.worker import Channel

_GROUP = 64  # weights that share one int4 scale
_RANGES: dict[str, RangeEstimatorParameters | None] = {
    "": None,
    "minmax": RangeEstimatorParametersSet.MINMAX,
    "percentile": RangeEstimatorParametersSet.MEAN_QUANTILE,
    "histogram": RangeEstimatorParametersSet.HISTOGRAM,
    MIXED: None,
    CONTROLLED: None,
}
"""Word of a recipe to NNCF's estimator; its own takes the mean of each feed's smallest and largest value."""


def quantize(
    out: Path,
    channel: Channel,
    source: str,
    recipe: str,
    calibration: str,
    tokenizer: str,
    max_length: int,
    kept: Sequence[str] = (),
    agreement: float = 0.0,
) -> dict[str, Any]:
    """Write `model.xml` and `model.bin` after `recipe` from an fp32 ONNX file or IR; a job of `stages`.

    Args:
        kept: layers of a mixed recipe that stay in floating point.
        agreement: for accuracy control: share of calibration items whose largest output must stay the largest.
    """
    if recipe == "weight_only_wfp16_afp32":
        for name in ("model.xml", "model.bin"):
            shutil.copyfile(Path(source).with_name(name), out / name)
        return {}
    model = ov.Core().read_model(source)
    base, word = split_recipe(recipe)
    left: list[str] = []
    if recipe == "weight_only_wi8_afp32":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    elif recipe == "weight_only_wi4_afp32":
        model = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            ratio=1.0,
            group_size=_GROUP,
            all_layers=True,
            advanced_parameters=nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST  # narrow layers get narrower groups
            ),
        )
    elif base == "static_wi8_ai8" and word in _RANGES:
        feeds = read_feeds(Path(calibration), Path(tokenizer), max_length, "int64")
        if word == CONTROLLED:
            layers = dense_layers(model)
            model = _controlled(model, feeds, agreement)
            left = sorted(set(layers) - quantized_layers(model), key=layers.index)
        else:
            model = static(model, feeds, word, kept)
        # NNCF leaves the embedding table in floating point; a table of int8 rows costs no accuracy that shows.
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    else:
        raise UsageError(f"recipe: OpenVINO has no {recipe!r}")
    channel.progress(0.9)
    ov.save_model(model, out / "model.xml", compress_to_fp16=True)
    return {"kept": left} if word == CONTROLLED else {}


def static(model: ov.Model, feeds: Sequence[dict[str, Array]], word: str = "", ignored: Sequence[str] = ()) -> ov.Model:
    """Quantize weights and activations, but for the operations `ignored`."""
    advanced = nncf.AdvancedQuantizationParameters()
    if (estimator := _RANGES[word]) is not None:
        advanced.activations_range_estimator_params = estimator
    return nncf.quantize(
        model,
        nncf.Dataset(list(feeds)),
        model_type=_kind(model),
        subset_size=len(feeds),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=list(ignored)),
        advanced_parameters=advanced,
    )


def dense_layers(model: ov.Model) -> list[str]:
    """Return the names of the products of matrices, in the order they run."""
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]


def quantized_layers(model: ov.Model) -> set[str]:
    """Return those whose activations are quantized."""
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return {
        node.get_friendly_name()
        for node in products
        if any(value.get_node().get_type_name() == "FakeQuantize" for value in node.input_values())
    }


def _controlled(model: ov.Model, feeds: Sequence[dict[str, Array]], agreement: float) -> ov.Model:
    """Quantize by NNCF's accuracy control: operations go back to floating point until enough answers agree."""
    compiled = ov.Core().compile_model(model, "CPU")
    right = [compiled(feed)[0].argmax(axis=-1) for feed in feeds]

    def agreeing(candidate: Any, items: Any) -> tuple[float, list[float]]:
        shares = [float(np.mean(candidate(feed)[0].argmax(axis=-1) == wanted)) for feed, wanted in items]
        return float(np.mean(shares)), shares

    pairs = list(zip(feeds, right, strict=True))
    return nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(list(feeds)),
        nncf.Dataset(pairs),
        validation_fn=agreeing,
        max_drop=1 - agreement,
        model_type=_kind(model),
        subset_size=len(feeds),
        preset=nncf.QuantizationPreset.MIXED,
    )


def _kind(model: ov.Model) -> nncf.ModelType | None:
    """Tell NNCF of a transformer, or of any network without convolutions."""
    kinds = {node.get_type_name() for node in model.get_ops()}
    is_convolutional = "Convolution" in kinds and not kinds & {"SoftMax", "Softmax", "ScaledDotProductAttention"}
    return None if is_convolutional else nncf.ModelType.TRANSFORMER
