"""Recipes for LiteRT, by AI Edge Quantizer."""

from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
from ai_edge_quantizer import recipe as recipes
from ai_edge_quantizer.utils.qsv_utils import min_max_update

from doorstep.errors import UsageError
from doorstep.tensors import Array
from doorstep_converters.export.tflite import signature
from doorstep_converters.quantize.calibration import feed_length, fit_feed, read_feeds
from doorstep_converters.recipe import split_recipe
from doorstep_converters.worker import Channel

_SAMPLES = 64  # calibration feeds of each signature


def quantize(
    out: Path,
    channel: Channel,
    source: str,
    recipe: str,
    calibration: str,
    tokenizer: str,
    max_length: int,
) -> dict[str, Any]:
    """Write `model.tflite` after `recipe`; a job of `stages`."""
    base, word = split_recipe(recipe)
    if word not in ("", "minmax"):
        raise UsageError(f"recipe: LiteRT has no {recipe!r}")
    worker = quantizer.Quantizer(source)
    worker.load_quantization_recipe(_recipe(base))
    ranges = None
    if worker.need_calibration:
        feeds = read_feeds(Path(calibration), Path(tokenizer), max_length, "int32")
        ranges = _ranges(source, base, word, _by_signature(feeds, _lengths(source)))
        channel.progress(0.7)
    worker.quantize(ranges).export_model(str(out / "model.tflite"), overwrite=True)
    return {}


def _ranges(source: str, base: str, word: str, feeds: dict[str, list[dict[str, Array]]]) -> Any:
    """Measure ranges: by this engine's own moving average over the feeds, or from the smallest to the largest value."""
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(_recipe(base))
    update: dict[str, Any] = {"qsv_update_func": min_max_update} if word == "minmax" else {}
    measuring = calibrator.Calibrator(source, num_threads=2, **update)
    measuring.calibrate(feeds, manager)
    return measuring.get_model_qsvs()


def _recipe(name: str) -> Any:
    if name == "weight_only_wfp16_afp32":
        manager = recipe_manager.RecipeManager()
        manager.add_quantization_config(
            regex=".*",
            operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            algorithm_key=recipes.AlgorithmName.FLOAT_CASTING,
        )
        return manager.get_quantization_recipe()
    if name == "static_wi8_ai8":
        return _static()
    if name not in ("dynamic_wi8_afp32", "dynamic_wi4_afp32", "weight_only_wi8_afp32"):
        raise UsageError(f"recipe: LiteRT has no {name!r}")
    return getattr(recipes, name)()


def _static() -> Any:
    """Quantize everything but what goes in and comes out, which stays as the manifest declares it."""
    manager = recipe_manager.RecipeManager()
    manager.add_static_config(
        regex=".*", operation_name=qtyping.TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
    )
    for border in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        manager.add_quantization_config(".*", border, algorithm_key=recipes.AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


def _by_signature(feeds: list[dict[str, Array]], lengths: list[int]) -> dict[str, list[dict[str, Array]]]:
    """Give every signature the feeds that fit it, the longest first: each has activation ranges of its own."""
    if lengths == [1]:  # pictures and fields have one shape
        return {signature(1, 1): feeds[:_SAMPLES]}
    feeds = sorted(feeds, key=lambda feed: -feed_length(feed))
    chosen = {}
    for length in lengths:
        fitting = [feed for feed in feeds if feed_length(feed) <= length] or feeds[-1:]
        chosen[signature(1, length)] = [fit_feed(feed, length) for feed in fitting[:_SAMPLES]]
    return chosen


def _lengths(source: str) -> list[int]:
    """Read the lengths of a file's signatures, in rising order."""
    names = Interpreter(model_path=source).get_signature_list()
    return sorted(int(name.rpartition("s")[2]) for name in names)
