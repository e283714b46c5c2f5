"""The engines themselves, without doorstep: what a file declares, and what the engine answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.errors import ConversionError
from doorstep.tensors import Feeds, Fetches, TensorSpec

_ONNX_TYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(int64)": "int64",
    "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8", "tensor(bool)": "bool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Described:
    """Inputs and outputs as the file declares them; a first axis that varies is called `batch`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Bare:
    """One engine: read a file's declarations; run it once on feeds named as the file names them."""

    describe: Callable[[Path], Described]
    run: Callable[[Path, Feeds], Fetches]


def _describe_onnx(path: Path) -> Described:
    session = _onnx(path)
    return Described(
        tuple(_onnx_spec(value, path) for value in session.get_inputs()),
        tuple(_onnx_spec(value, path) for value in session.get_outputs()),
    )


def _run_onnx(path: Path, feeds: Feeds) -> Fetches:
    session = _onnx(path)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _onnx(path: Path) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConversionError(f"{path}: ONNX Runtime cannot open it ({error!s:.200})") from error


def _onnx_spec(value: Any, path: Path) -> TensorSpec:
    if value.type not in _ONNX_TYPES:
        raise ConversionError(f"{path}: {value.name} is a {value.type}; expected a tensor of numbers")
    return TensorSpec(value.name, _ONNX_TYPES[value.type], _axes(value.shape))


def _describe_openvino(path: Path) -> Described:
    model = _openvino(path)
    return Described(
        tuple(_openvino_spec(port, f"input_{place}") for place, port in enumerate(model.inputs)),
        tuple(_openvino_spec(port, f"output_{place}") for place, port in enumerate(model.outputs)),
    )


def _run_openvino(path: Path, feeds: Feeds) -> Fetches:
    import openvino as ov

    compiled = ov.Core().compile_model(_openvino(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    described = _describe_openvino(path)
    fetched = compiled([feeds[spec.name] for spec in described.inputs])
    return {spec.name: np.array(fetched[place]) for place, spec in enumerate(described.outputs)}


def _openvino(path: Path) -> Any:
    import openvino as ov

    try:
        return ov.Core().read_model(str(path))
    except RuntimeError as error:
        raise ConversionError(f"{path}: OpenVINO cannot open it ({error!s:.200})") from error


def _openvino_spec(port: Any, fallback: str) -> TensorSpec:
    shape = [axis.get_length() if axis.is_static else None for axis in port.get_partial_shape()]
    name = min(port.get_names(), default=fallback)
    return TensorSpec(name, np.dtype(port.get_element_type().to_dtype()).name, _axes(shape))


def _describe_tflite(path: Path) -> Described:
    interpreter = _tflite(path)
    return Described(
        tuple(_tflite_spec(detail) for detail in interpreter.get_input_details()),
        tuple(_tflite_spec(detail) for detail in interpreter.get_output_details()),
    )


def _run_tflite(path: Path, feeds: Feeds) -> Fetches:
    interpreter = _tflite(path)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], feeds[detail["name"]])
    interpreter.invoke()
    return {d["name"]: np.array(interpreter.get_tensor(d["index"])) for d in interpreter.get_output_details()}


def _tflite(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    try:
        return Interpreter(model_path=str(path), num_threads=1)
    except (RuntimeError, ValueError) as error:
        raise ConversionError(f"{path}: LiteRT cannot open it ({error!s:.200})") from error


def _tflite_spec(detail: dict[str, Any]) -> TensorSpec:
    return TensorSpec(detail["name"], np.dtype(detail["dtype"]).name, tuple(int(axis) for axis in detail["shape"]))


def _axes(shape: list[Any]) -> tuple[int | str, ...]:
    """Name the axes that vary: the first is the batch, others by place."""
    names = ["batch" if place == 0 else f"axis_{place}" for place in range(len(shape))]
    return tuple(axis if isinstance(axis, int) and axis > 0 else name for axis, name in zip(shape, names, strict=True))


BARE: dict[str, Bare] = {
    "onnx": Bare(_describe_onnx, _run_onnx),
    "openvino": Bare(_describe_openvino, _run_openvino),
    "tflite": Bare(_describe_tflite, _run_tflite),
}
