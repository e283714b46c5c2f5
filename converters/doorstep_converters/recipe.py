"""Recipes: named ways to make a graph smaller. The names decode.

none                        fp32 weights, fp32 activations
weight_only_wfp16_afp32     weights stored as fp16, computed in fp32
weight_only_wi8_afp32       weights stored as int8, computed in fp32
weight_only_ti4_wi8_afp32   embedding tables stored as int4, one scale a row, other weights as int8; computed in fp32
weight_only_wi4_afp32       weights stored as int4 in blocks, computed in fp32
dynamic_wi4_afp32           int4 weights; activations quantized to int8 at run time by the engine
dynamic_wi8_afp32           int8 weights; activations quantized at run time by the engine
static_wi8_ai8              int8 weights and activations; ranges from calibration data, as the engine estimates them

A word behind `static_wi8_ai8` says how the ranges are estimated, or which layers are quantized:

minmax        from the smallest value seen to the largest
percentile    without the rarest values on either side
entropy       the range whose int8 histogram tells most of the fp32 one (least relative entropy)
histogram     the range with the least error of rounding and cutting, from a histogram
mixed         the layers that cost most stay in floating point (`dynamic_wi8_afp32_mixed` as well)
controlled    the same, chosen by NNCF's accuracy control
"""

from dataclasses import dataclass

RANGES = ("minmax", "percentile", "entropy", "histogram")
MIXED, CONTROLLED = "mixed", "controlled"
SHORT_NAMES = {
    "none": "fp32",
    "weight_only_wfp16_afp32": "fp16",
    "weight_only_wi8_afp32": "int8-weights",
    "weight_only_ti4_wi8_afp32": "int4-tables",
    "weight_only_wi4_afp32": "int4-weights",
    "dynamic_wi4_afp32": "int4",
    "dynamic_wi8_afp32": "int8",
    "dynamic_wi8_afp32_mixed": "int8-mixed",
    "static_wi8_ai8": "int8-static",
    **{f"static_wi8_ai8_{word}": f"int8-static-{word}" for word in (*RANGES, MIXED, CONTROLLED)},
}
NEEDS_CALIBRATION = frozenset(name for name in SHORT_NAMES if name.startswith("static") or name.endswith(MIXED))


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
    def base(self) -> str:
        """The recipe without the word behind it: what the engine computes."""
        return split_recipe(self.recipe)[0]

    @property
    def is_mixed(self) -> bool:
        """Tell whether layers stay in floating point by their measured sensitivity."""
        return split_recipe(self.recipe)[1] == MIXED

    @property
    def is_lossy(self) -> bool:
        """Tell whether engines on other CPUs may round differently by more than fp32 noise."""
        return "wi8" in self.recipe or "wi4" in self.recipe


def split_recipe(recipe: str) -> tuple[str, str]:
    """Return a recipe's base and the word behind it, "" where there is none.

    >>> split_recipe("static_wi8_ai8_entropy"), split_recipe("weight_only_wi8_afp32")
    (('static_wi8_ai8', 'entropy'), ('weight_only_wi8_afp32', ''))
    """
    base, _, word = recipe.rpartition("_")
    return (base, word) if word in (*RANGES, MIXED, CONTROLLED) else (recipe, "")
