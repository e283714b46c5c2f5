"""The OpenAPI 3.1 document, from the routes and the types they read and write."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from flask import Blueprint, current_app, request
from werkzeug.routing import Rule

from doorstep import __version__
from doorstep.serve import shapes
from doorstep.serve.bodies import JSON, MULTIPART, NDJSON, ExplainBody, GraphqlBody, PredictBody
from doorstep.serve.items import takes_media
from doorstep.serve.options import Limits
from doorstep.serve.served import Served
from doorstep.serve.service import Service
from doorstep.serve.v2_tensors import InferBody

_PROBLEM = "application/problem+json"
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a route reads and writes.

    Attributes:
        reads, writes: types of the JSON bodies; None where there is none.
        content: media type of what it writes, where that is not JSON.
        statuses: refusals beside those every route knows.
    """

    reads: Any = None
    writes: Any = None
    content: str = JSON
    statuses: tuple[int, ...] = ()


_WORK = (400, 413, 415, 500, 503, 504)
SHAPES: dict[str, _Shape] = {
    "live": _Shape(writes=shapes.Live),
    "ready": _Shape(writes=shapes.Ready, statuses=(503,)),
    "metrics": _Shape(content="text/plain"),
    "list_models": _Shape(writes=shapes.Models),
    "get_model": _Shape(writes=shapes.Model, statuses=(404,)),
    "predict": _Shape(PredictBody, shapes.Answer, statuses=(404, *_WORK)),
    "explain": _Shape(ExplainBody, shapes.Explanations, statuses=(404, *_WORK)),
    "server_metadata": _Shape(writes=shapes.ServerMetadata),
    "model_metadata": _Shape(writes=shapes.ModelMetadata, statuses=(404,)),
    "model_version_metadata": _Shape(writes=shapes.ModelMetadata, statuses=(404,)),
    "model_ready": _Shape(writes=shapes.ModelReady, statuses=(404,)),
    "model_version_ready": _Shape(writes=shapes.ModelReady, statuses=(404,)),
    "infer": _Shape(InferBody, shapes.Inferred, statuses=(404, *_WORK)),
    "infer_version": _Shape(InferBody, shapes.Inferred, statuses=(404, *_WORK)),
    "graphql": _Shape(GraphqlBody, shapes.GraphqlAnswer, statuses=_WORK),
    "openapi": _Shape(writes=dict[str, Any]),
}
"""Endpoint to its shape. What is missing here is no part of the API: the page's files."""


def add_openapi(blueprint: Blueprint, service: Service) -> None:
    """Add the route."""

    @blueprint.get("/openapi.json")
    def openapi() -> dict[str, Any]:
        """Return this document."""
        prefix = f"{(request.blueprint or '')}."
        rules = [rule for rule in current_app.url_map.iter_rules() if rule.endpoint.startswith(prefix)]
        return document(service, {rule.endpoint.removeprefix(prefix): rule for rule in rules})


def document(service: Service, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Return the document for these routes; every model has paths of its own, with its own items and labels."""
    paths: dict[str, Any] = {}
    for endpoint, shape in SHAPES.items():
        rule = rules[endpoint]
        method = "post" if "POST" in (rule.methods or ()) else "get"
        for served in service.models.values() if "name" in rule.arguments else [None]:
            operation = _operation(endpoint, rule, shape, service, served)
            paths.setdefault(_path(rule, served), {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "doorstep",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": request.script_root or "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": schema_of(shapes.Problem)},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def schema_of(kind: Any) -> Schema:
    """Return the JSON Schema (2020-12) of a type made of plain values, dataclasses and named tuples."""
    plain = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    if kind in plain:
        return {"type": plain[kind]}
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(part) for part in arguments]}
    if origin in (tuple, list, Sequence):
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": schema_of(arguments[1])}
    hints = get_type_hints(kind)
    return {
        "type": "object",
        "properties": {name: schema_of(hint) for name, hint in hints.items()},
        "required": sorted(_required(kind)),
    }


def _required(kind: Any) -> set[str]:
    if not is_dataclass(kind):
        return set(kind._fields)
    return {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}


def _path(rule: Rule, served: Served | None) -> str:
    name, version = (served.name, served.now.predictor.manifest.version) if served else ("", "")
    return rule.rule.replace("<name>", name).replace("<version>", version)


def _operation(endpoint: str, rule: Rule, shape: _Shape, service: Service, served: Served | None) -> dict[str, Any]:
    view = current_app.view_functions[rule.endpoint]
    text = " ".join((view.__doc__ or "").split())
    statuses = sorted(
        {*shape.statuses, *([401] if service.options.token else []), *([429] if service.options.rate_per_s else [])}
    )
    content: Schema = {
        shape.content: {"schema": schema_of(shape.writes)} if shape.writes else {"schema": {"type": "string"}}
    }
    if endpoint in ("infer", "infer_version"):
        content["application/octet-stream"] = {}
    operation: dict[str, Any] = {
        "operationId": f"{endpoint}_{served.name}" if served else endpoint,
        "summary": text,
        "responses": {
            "200": {"description": "An answer", "content": content},
            **{str(status): _refusal(status, endpoint) for status in statuses},
        },
    }
    if shape.reads:
        operation["requestBody"] = {
            "required": True,
            "content": _reads(endpoint, shape, service.options.limits, served),
        }
        operation["parameters"] = [
            {
                "name": "X-Deadline-Ms",
                "in": "header",
                "description": "Milliseconds after which no answer is wanted; 504 then.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
            }
        ]
    if endpoint == "predict":
        operation["responses"]["200"]["content"][NDJSON] = {"schema": {"type": "string"}}
    if service.options.token and endpoint not in ("live", "ready"):
        operation["security"] = [{"token": []}]
    return operation


def _refusal(status: int, endpoint: str) -> dict[str, Any]:
    content: Schema = {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    if endpoint == "graphql":  # errors of the document itself come in GraphQL's own form
        content[JSON] = {"schema": schema_of(shapes.GraphqlAnswer)}
    described: dict[str, Any] = {"description": "A refusal, with what to do", "content": content}
    if status in (429, 503):
        described["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return described


def _reads(endpoint: str, shape: _Shape, limits: Limits, served: Served | None) -> Schema:
    schema = schema_of(shape.reads)
    if endpoint not in ("predict", "explain") or served is None:
        return {JSON: {"schema": schema}}
    manifest = served.now.predictor.manifest
    labels = {"type": "string", "enum": list(manifest.options.get("labels", []))}
    most = limits.items if endpoint == "predict" else limits.items // limits.parts
    properties = schema["properties"]
    properties["items"] = {"type": "array", "items": _item(manifest.task, limits), "minItems": 1, "maxItems": most}
    if endpoint == "explain":
        properties["label"] = {"anyOf": [labels, {"type": "null"}]}
    elif "labels" in manifest.options:
        properties["labels"] = {"type": "array", "items": labels}
        properties["top_k"] = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
    else:
        del properties["labels"], properties["top_k"]
    content: Schema = {JSON: {"schema": schema}}
    if takes_media(manifest.task):
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        content[MULTIPART] = {"schema": {"type": "object", "properties": {"items": files}}}
    return content


def _item(task: str, limits: Limits) -> Schema:
    if takes_media(task):
        encoded = {"type": "string", "contentEncoding": "base64"}
        return {"type": "object", "properties": {"b64": encoded}, "required": ["b64"], "additionalProperties": False}
    if task in ("text-classification", "token-classification"):
        return {"type": "string", "maxLength": limits.characters}
    return {}
