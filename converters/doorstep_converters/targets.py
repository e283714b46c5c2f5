"""Targets: kinds of devices, the variants worth trying for each, and why others are not."""

from dataclasses import dataclass

from doorstep.errors import UsageError
from doorstep_converters.recipe import VariantPlan

_ONNX = ("none", "weight_only_wfp16_afp32", "weight_only_wi4_afp32", "dynamic_wi8_afp32", "static_wi8_ai8")
_OPENVINO = ("weight_only_wfp16_afp32", "weight_only_wi8_afp32", "weight_only_wi4_afp32", "static_wi8_ai8")
_TFLITE = ("weight_only_wfp16_afp32", "dynamic_wi4_afp32", "dynamic_wi8_afp32", "static_wi8_ai8")
_NUMPY = ("weight_only_wfp16_afp32", "weight_only_wi8_afp32")

_OPENVINO_ARM = "OpenVINO on ARM computes int8 in fp16 or fails to compile it, at the speed of fp32 or less"
_ARMV7_ENGINE = "tflite-runtime 2.14, the engine for 32-bit ARM,"
_INT4_ARMV7 = f"{_ARMV7_ENGINE} has no int4"
_INT8_ARMV7 = f"{_ARMV7_ENGINE} does not compute int8 weights with a scale for each channel"
_NO_WHEEL = "has no wheel for 32-bit ARM"


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of device.

    Attributes:
        arch: what the kernel calls it (`uname -m`).
        plans: variants to try, in the order they are shown.
        excluded: variant name or runtime to the reason why it is not tried.
        on_request: variants tried only where `--variants` names them.
    """

    name: str
    arch: str
    plans: tuple[VariantPlan, ...]
    excluded: dict[str, str]
    on_request: tuple[VariantPlan, ...] = ()


def _plans(**recipes: tuple[str, ...]) -> tuple[VariantPlan, ...]:
    return tuple(VariantPlan(runtime, recipe) for runtime, names in recipes.items() for recipe in names)


_X86 = _plans(onnx=_ONNX, openvino=_OPENVINO, tflite=_TFLITE)
_ARM64 = _plans(onnx=_ONNX, openvino=("weight_only_wfp16_afp32",), tflite=_TFLITE)
_ARM64_EXCLUDED = dict.fromkeys(
    ("openvino-int8-weights", "openvino-int4-weights", "openvino-int8-static"), _OPENVINO_ARM
)
_ARMV7 = _plans(tflite=("weight_only_wfp16_afp32", "weight_only_wi8_afp32"), numpy=_NUMPY)
_ONNX_MORE = (
    "static_wi8_ai8_percentile", "static_wi8_ai8_entropy", "dynamic_wi8_afp32_mixed", "static_wi8_ai8_mixed"
)  # fmt: skip
_OPENVINO_MORE = (
    "static_wi8_ai8_minmax", "static_wi8_ai8_percentile", "static_wi8_ai8_histogram", "static_wi8_ai8_mixed",
    "static_wi8_ai8_controlled",
)  # fmt: skip
_TFLITE_MORE = ("static_wi8_ai8_minmax",)
_TABLES = ("weight_only_wi8_afp32", "weight_only_ti4_wi8_afp32")  # for students, most of which is a table
_NUMPY_MORE = (*_NUMPY, "weight_only_ti4_wi8_afp32")  # NumPy: behind every engine
_REQUEST = _plans(onnx=(*_TABLES, *_ONNX_MORE), tflite=_TFLITE_MORE, numpy=_NUMPY_MORE)
_REQUEST_X86 = (*_REQUEST, *_plans(openvino=_OPENVINO_MORE))
_REQUEST_ARMV7 = _plans(numpy=("weight_only_ti4_wi8_afp32",))
_ARMV7_EXCLUDED = {
    "onnx": f"ONNX Runtime {_NO_WHEEL}",
    "openvino": f"OpenVINO {_NO_WHEEL}",
    "tflite-int8": _INT8_ARMV7,
    "tflite-int8-static": _INT8_ARMV7,
    "tflite-int4": _INT4_ARMV7,
}

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("x86-64", "x86_64", _X86, {}, on_request=_REQUEST_X86),
        Target("x86-64-vnni", "x86_64", _X86, {}, on_request=_REQUEST_X86),
        Target("arm64", "aarch64", _ARM64, _ARM64_EXCLUDED, on_request=_REQUEST),
        Target("arm64-dotprod", "aarch64", _ARM64, _ARM64_EXCLUDED, on_request=_REQUEST),
        Target("armv7", "armv7l", _ARMV7, _ARMV7_EXCLUDED, on_request=_REQUEST_ARMV7),
    )
}


def find_target(name: str) -> Target:
    """Return the target called `name`.

    Raises:
        UsageError: there is none; the message lists the known.
    """
    if name not in TARGETS:
        raise UsageError(f"target: expected one of {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name]
