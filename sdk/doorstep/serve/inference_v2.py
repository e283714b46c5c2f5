"""The Open Inference Protocol v2, so that clients of KServe, Triton, MLServer and OpenVINO Model Server work."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from flask import Blueprint, Response, request

from doorstep import __version__
from doorstep.decoding import build, parse_json
from doorstep.errors import InputError
from doorstep.manifest import Manifest
from doorstep.predictor import Predictor
from doorstep.results import Classification, Tensors
from doorstep.serve.bodies import JSON, read_body
from doorstep.serve.hooks import current_call
from doorstep.serve.items import takes_media
from doorstep.serve.narrowing import Narrowing
from doorstep.serve.refusals import RefusalError
from doorstep.serve.service import Service
from doorstep.serve.v2_tensors import BYTES, DATATYPES, InferBody, InferOutput, output_binary, output_json, read_inputs
from doorstep.tensors import Array

_JSON_LENGTH = "Inference-Header-Content-Length"


def add_inference_v2(blueprint: Blueprint, service: Service) -> None:
    """Add the routes; those with a version answer for the version that is loaded only."""

    @blueprint.get("/v2")
    def server_metadata() -> dict[str, Any]:
        """Name this server and the protocol extensions it knows."""
        return {"name": "doorstep", "version": __version__, "extensions": ["binary_tensor_data"]}

    @blueprint.get("/v2/models/<name>", endpoint="model_metadata")
    @blueprint.get("/v2/models/<name>/versions/<version>", endpoint="model_version_metadata")
    def model_metadata(name: str, version: str = "") -> dict[str, Any]:
        """Describe a model's inputs and outputs."""
        predictor = _predictor(service, name, version)
        return _metadata(name, predictor)

    @blueprint.get("/v2/models/<name>/ready", endpoint="model_ready")
    @blueprint.get("/v2/models/<name>/versions/<version>/ready", endpoint="model_version_ready")
    def model_ready(name: str, version: str = "") -> dict[str, Any]:
        """Tell that a model is loaded."""
        _predictor(service, name, version)
        return {"name": name, "ready": True}

    @blueprint.post("/v2/models/<name>/infer", endpoint="infer")
    @blueprint.post("/v2/models/<name>/versions/<version>/infer", endpoint="infer_version")
    def infer(name: str, version: str = "") -> dict[str, Any] | Response:
        """Answer tensors: texts or pictures as BYTES, or a raw model's own inputs."""
        task = _predictor(service, name, version).manifest.task
        body, tail = _read()
        items = _items(task, read_inputs(body.inputs, tail))
        if len(items) > service.options.limits.items:
            raise RefusalError(400, f"inputs: expected at most {service.options.limits.items} rows, got {len(items)}")
        answer = service.predict(name, items, Narrowing(), current_call())
        outputs = _outputs(answer.results)
        return _respond(body, {"model_name": name, "model_version": answer.version}, outputs)


def _predictor(service: Service, name: str, version: str) -> Predictor:
    predictor = service.model(name).now.predictor
    if version not in ("", predictor.manifest.version):
        raise RefusalError(404, f"version: {predictor.manifest.version} is loaded, got {version!r:.60}")
    return predictor


def _metadata(name: str, predictor: Predictor) -> dict[str, Any]:
    manifest: Manifest = predictor.manifest
    if manifest.task == "tensors":
        inputs, outputs = (
            [_tensor(spec.name, DATATYPES[spec.dtype], [-1, *spec.shape[1:]]) for spec in specs]
            for specs in (predictor.variant.inputs, predictor.variant.outputs)
        )
    else:
        inputs = [_tensor(_input_name(manifest.task), BYTES, [-1])]
        outputs = [_tensor("result", BYTES, [-1])]
        if "labels" in manifest.options:
            outputs = [
                _tensor("label", BYTES, [-1]), _tensor("score", "FP32", [-1]),
                _tensor("labels", BYTES, [-1, -1]), _tensor("scores", "FP32", [-1, -1]),
            ]  # fmt: skip
    platform = f"doorstep_{predictor.variant.runtime}"
    return {"name": name, "versions": [manifest.version], "platform": platform, "inputs": inputs, "outputs": outputs}


def _tensor(name: str, datatype: str, shape: Sequence[int | str]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1 if isinstance(axis, str) else axis for axis in shape]}


def _input_name(task: str) -> str:
    return task.partition("-")[0] if takes_media(task) else "text"


def _read() -> tuple[InferBody, bytes]:
    """Return the JSON part and the binary tail."""
    text = request.headers.get(_JSON_LENGTH)
    if text is None and request.mimetype not in (JSON, ""):
        raise RefusalError(415, f"Content-Type: expected {JSON}, got {request.mimetype:.80}")
    data = read_body(request)
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) <= len(data)):
        raise InputError(f"{_JSON_LENGTH}: expected at most the body's {len(data)} bytes, got {text!r:.20}")
    head = len(data) if text is None else int(text)
    plain = parse_json(data[:head], "body")
    if not isinstance(plain, dict):
        raise InputError(f"body: expected an object, got {type(plain).__name__}")
    return build(plain, InferBody, "body"), data[head:]


def _items(task: str, inputs: dict[str, Any]) -> list[Any]:
    if task == "tensors":
        counts = {len(array) for array in inputs.values()}
        if len(counts) != 1:
            raise InputError(f"inputs: expected one number of rows, got {sorted(counts)}")
        return [{name: array[place] for name, array in inputs.items()} for place in range(counts.pop())]
    name = _input_name(task)
    if inputs.keys() != {name} or not isinstance(inputs[name], list):
        raise InputError(f"inputs: expected {name} of BYTES alone, got {', '.join(inputs)!r:.80}")
    read = _picture if takes_media(task) else _text
    return [read(element, place) for place, element in enumerate(inputs[name])]


def _text(element: str | bytes, place: int) -> str:
    try:
        return element if isinstance(element, str) else element.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"item {place}: expected UTF-8 ({error!s:.80})") from error


def _picture(element: str | bytes, place: int) -> bytes:
    try:
        return element if isinstance(element, bytes) else base64.b64decode(element, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"item {place}: expected base64 ({error!s:.80})") from error


_Outputs = dict[str, tuple[Array | list[str], list[int]]]
"""Name to (values, shape)."""


def _outputs(results: Sequence[Any]) -> _Outputs:
    rows = len(results)
    if all(isinstance(result, Classification) for result in results):
        most = min(len(result.scores) for result in results)
        listed = [result.scores[:most] for result in results]
        return {
            "label": ([result.label or "" for result in results], [rows]),
            "score": (np.array([result.score for result in results], np.float32), [rows]),
            "labels": ([score.label for scores in listed for score in scores], [rows, most]),
            "scores": (np.array([[score.score for score in scores] for scores in listed], np.float32), [rows, most]),
        }
    if all(isinstance(result, Tensors) for result in results):
        return {name: _stacked(name, results) for name in results[0].outputs}
    return {"result": ([json.dumps(result.to_dict(), ensure_ascii=False) for result in results], [rows])}


def _stacked(name: str, results: Sequence[Any]) -> tuple[Array, list[int]]:
    try:
        array = np.array([result.outputs[name] for result in results])
    except ValueError as error:
        raise InputError("inputs: the rows' outputs differ in shape; send one row at a time") from error
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    return array, list(array.shape)


def _respond(body: InferBody, head: dict[str, Any], outputs: _Outputs) -> dict[str, Any] | Response:
    wanted = body.outputs or tuple(InferOutput(name) for name in outputs)
    if unknown := [output.name for output in wanted if output.name not in outputs]:
        raise InputError(f"outputs: expected some of {', '.join(outputs)}, got {unknown[0]!r:.60}")
    always = body.parameters.get("binary_data_output") is True
    plain, tail = [], []
    for output in wanted:
        value, shape = outputs[output.name]
        told = output_json(output.name, value, shape)
        if output.parameters.get("binary_data", always) is True:
            data = output_binary(value)
            del told["data"]
            told["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        plain.append(told)
    full = {**head, **({"id": body.id} if body.id else {}), "outputs": plain}
    if not tail:
        return full
    text = json.dumps(full, ensure_ascii=False).encode()
    response = Response(b"".join([text, *tail]), content_type="application/octet-stream")
    response.headers[_JSON_LENGTH] = str(len(text))
    return response
