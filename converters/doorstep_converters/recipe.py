"""Recipes: named ways to make a graph smaller. The names decode.

none                        fp32 weights, fp32 activations
weight_only_wfp16_afp32     weights stored as fp16, computed in fp32
weight_only_wi8_afp32       weights stored as int8, computed in fp32
weight_only_ti4_wi8_afp32   embedding tables stored as int4, one scale a row, other weights as int8; computed in fp32
weight_only_wi4_afp32       weights stored as int4 in blocks, computed in fp32
dynamic_wi4_afp32           int4 weights; activations quantized to int8 at run time by the engine
dynamic_wi8_afp32           int8 weights; activations quantized at run time by the engine
static_wi8_ai8              int8 weights and activations; ranges from calibration data
"""

from dataclasses import dataclass

NEEDS_CALIBRATION = frozenset({"static_wi8_ai8"})
SHORT_NAMES = {
    "none": "fp32",
    "weight_only_wfp16_afp32": "fp16",
    "weight_only_wi8_afp32": "int8-weights",
    "weight_only_ti4_wi8_afp32": "int4-tables",
    "weight_only_wi4_afp32": "int4-weights",
    "dynamic_wi4_afp32": "int4",
    "dynamic_wi8_afp32": "int8",
    "static_wi8_ai8": "int8-static",
}


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """One variant to try: a runtime and a recipe."""

    runtime: str
    recipe: str

    @property
    def name(self) -> str:
        """The variant's name in the bundle, for example `onnx-int8`."""
        return f"{self.runtime}-{SHORT_NAMES[self.recipe]}"

    @property
    def is_lossy(self) -> bool:
        """Tell whether engines on other CPUs may round differently by more than fp32 noise."""
        return "wi8" in self.recipe or "wi4" in self.recipe
