"""Recipes for OpenVINO, by NNCF."""

import shutil
from pathlib import Path
from typing import Any

import nncf
import openvino as ov

from doorstep.errors import UsageError
from doorstep_converters.quantize.calibration import read_feeds
from doorstep_converters.worker import Channel

_GROUP = 64  # weights that share one int4 scale


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
    """Write `model.xml` and `model.bin` after `recipe` from an fp32 ONNX file or IR; a job of `stages`.

    `can_saturate` changes nothing here: this engine keeps clear of the overflow by itself.
    """
    if recipe == "weight_only_wfp16_afp32":
        for name in ("model.xml", "model.bin"):
            shutil.copyfile(Path(source).with_name(name), out / name)
        return {}
    model = ov.Core().read_model(source)
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
    elif recipe == "static_wi8_ai8":
        feeds = read_feeds(Path(calibration), Path(tokenizer), max_length, "int64")
        model = nncf.quantize(
            model,
            nncf.Dataset(feeds),
            model_type=nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
            subset_size=len(feeds),
            preset=nncf.QuantizationPreset.MIXED,
        )
        # NNCF leaves the embedding table in floating point; a table of int8 rows costs no accuracy that shows.
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    else:
        raise UsageError(f"recipe: OpenVINO has no {recipe!r}")
    channel.progress(0.9)
    ov.save_model(model, out / "model.xml", compress_to_fp16=True)
    return {}


def _has_attention(model: ov.Model) -> bool:
    """Tell a transformer, or any network without convolutions, from a network of convolutions."""
    kinds = {node.get_type_name() for node in model.get_ops()}
    return "Convolution" not in kinds or bool(kinds & {"SoftMax", "Softmax", "ScaledDotProductAttention"})
