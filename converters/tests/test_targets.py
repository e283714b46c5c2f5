"""What a target tries, what it leaves out, and which engines the outcome asks for."""

import pytest

from doorstep_converters.pack import requirements
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.targets import TARGETS

ANY_TFLITE = {"ai-edge-litert", "tflite-runtime"}


@pytest.mark.parametrize(
    ("recipe", "engines"),
    [
        ("weight_only_wfp16_afp32", ANY_TFLITE),
        ("weight_only_wi8_afp32", ANY_TFLITE),
        ("dynamic_wi8_afp32", {"ai-edge-litert"}),
        ("dynamic_wi4_afp32", {"ai-edge-litert"}),
        ("static_wi8_ai8", {"ai-edge-litert"}),
    ],
)
def test_what_tflite_runtime_computes_wrongly_asks_for_litert(recipe: str, engines: set[str]) -> None:
    assert requirements(VariantPlan("tflite", recipe)).keys() == engines


def test_32_bit_devices_get_only_what_their_engines_compute() -> None:
    """LiteRT has no wheel for them, so every variant must run in tflite-runtime or in NumPy."""
    needs = [set(requirements(plan)) for plan in TARGETS["armv7"].plans]
    assert all(engines & {"tflite-runtime", "numpy"} for engines in needs)


@pytest.mark.parametrize("name", ["tflite-int8", "tflite-int8-static", "tflite-int4", "onnx", "openvino"])
def test_what_32_bit_devices_lack_is_told_with_a_reason(name: str) -> None:
    assert "32-bit ARM" in TARGETS["armv7"].excluded[name]
