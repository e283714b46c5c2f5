"""REST: `/v1/models`, `:predict`, `:explain`."""

import json
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from flask import Blueprint, Response, request, stream_with_context

from doorstep.errors import DoorstepError, FormatError
from doorstep.manifest import Manifest
from doorstep.serve.bodies import NDJSON, explain_body, json_lines, predict_body, query_narrowing
from doorstep.serve.hooks import current_call
from doorstep.serve.narrowing import Narrowing
from doorstep.serve.refusals import BusyError, refusal_of
from doorstep.serve.served import Served
from doorstep.serve.service import Service

_PATIENCE_S = 0.05


def add_rest(blueprint: Blueprint, service: Service) -> None:
    """Add the routes."""

    @blueprint.get("/v1/models")
    def list_models() -> dict[str, Any]:
        """List the served models."""
        return {"models": [describe(served) for served in service.models.values()]}

    @blueprint.get("/v1/models/<name>")
    def get_model(name: str) -> dict[str, Any]:
        """Describe a model: task, labels and their names, the variant that answers and why."""
        return describe(service.model(name))

    @blueprint.post("/v1/models/<name>:predict")
    def predict(name: str) -> dict[str, Any] | Response:
        """Answer items: JSON, uploaded files, or NDJSON, which streams."""
        manifest = service.model(name).now.predictor.manifest
        if request.mimetype == NDJSON:
            narrowing = query_narrowing(request.args)
            narrowing.check(manifest)
            return Response(stream_with_context(_lines(service, name, narrowing)), mimetype=NDJSON)
        body = predict_body(request, manifest.task, service.options.limits)
        narrowing = Narrowing(body.top_k, body.labels)
        return service.predict(name, body.items, narrowing, current_call()).to_dict()

    @blueprint.post("/v1/models/<name>:explain")
    def explain(name: str) -> dict[str, Any]:
        """Say what in each item speaks for a label."""
        task = service.model(name).now.predictor.manifest.task
        body = explain_body(request, task, service.options.limits)
        return service.explain(name, body.items, body.label, current_call()).to_dict()


def describe(served: Served) -> dict[str, Any]:
    """Return what a caller may know of a model."""
    predictor = served.now.predictor
    manifest: Manifest = predictor.manifest
    return {
        "name": served.name,
        "version": manifest.version,
        "task": manifest.task,
        "variant": predictor.variant.name,
        "runtime": predictor.variant.runtime,
        "labels": list(manifest.options.get("labels", [])),
        "display_names": manifest.options.get("display_names", {}),
        "digest": predictor.bundle.digest,
        "created": manifest.created,
        "licence": manifest.licence,
        "why": str(predictor.why),
    }


def _lines(service: Service, name: str, narrowing: Narrowing) -> Iterator[str]:
    """Yield one line a line: `{"place": 0, "result": {…}}` or `{"place": 0, "error": "…"}`."""
    place = 0
    values = json_lines(request, service.options.limits.lines)
    try:
        while chunk := list(islice(values, max(1, service.options.bounds.batch))):
            for answer in _chunk(service, name, chunk, narrowing):
                yield json.dumps({"place": place, **answer}, ensure_ascii=False) + "\n"
                place += 1
    except DoorstepError as error:  # too many lines: the head is sent, so a line must say it
        yield json.dumps({"place": place, "error": str(refusal_of(error))}, ensure_ascii=False) + "\n"


def _chunk(service: Service, name: str, values: list[Any], narrowing: Narrowing) -> list[dict[str, Any]]:
    if not any(isinstance(value, FormatError) for value in values):
        try:
            answer = _patient(service, name, values, narrowing)
            return [{"result": result.to_dict()} for result in answer]
        except DoorstepError as error:
            if len(values) == 1:
                return [{"error": str(refusal_of(error))}]
    elif len(values) == 1:
        return [{"error": str(values[0])}]
    return [line for value in values for line in _chunk(service, name, [value], narrowing)]


def _patient(service: Service, name: str, values: list[Any], narrowing: Narrowing) -> list[Any]:
    """Answer a chunk; where the queue is full, wait: whoever streams has time."""
    call = current_call(time.monotonic())
    while True:
        try:
            return service.predict(name, values, narrowing, call).results
        except BusyError:
            if time.monotonic() + _PATIENCE_S > call.deadline:
                raise
            time.sleep(_PATIENCE_S)
