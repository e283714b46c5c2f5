"""The JSON that routes write, as types: for the OpenAPI document."""

from dataclasses import dataclass
from typing import Any

from doorstep.explain import Explanation
from doorstep.results import Classification


@dataclass(frozen=True, slots=True)
class Problem:
    """An error (RFC 9457)."""

    title: str
    status: int
    detail: str
    error: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Live:
    """The process answers."""

    live: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """New requests are welcome."""

    ready: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A served model."""

    name: str
    version: str
    task: str
    variant: str
    runtime: str
    labels: list[str]
    display_names: dict[str, dict[str, str]]
    digest: str
    created: str
    licence: str
    why: str


@dataclass(frozen=True, slots=True)
class Models:
    """All of them."""

    models: list[Model]


@dataclass(frozen=True, slots=True)
class Answer:
    """Results of `:predict`; those of other tasks are objects of their own."""

    model: str
    version: str
    variant: str
    runtime: str
    ms: float
    results: list[Classification | dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Explanations:
    """Results of `:explain`."""

    model: str
    version: str
    variant: str
    runtime: str
    ms: float
    results: list[Explanation]


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """Open Inference Protocol."""

    name: str
    version: str
    extensions: list[str]


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """Open Inference Protocol."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """Open Inference Protocol."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


@dataclass(frozen=True, slots=True)
class ModelReady:
    """Open Inference Protocol."""

    name: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Tensor:
    """Open Inference Protocol; without `data` it follows in binary."""

    name: str
    datatype: str
    shape: list[int]
    data: Any = None


@dataclass(frozen=True, slots=True)
class Inferred:
    """Open Inference Protocol."""

    model_name: str
    model_version: str
    outputs: list[Tensor]


@dataclass(frozen=True, slots=True)
class GraphqlAnswer:
    """GraphQL over HTTP."""

    data: dict[str, Any] | None = None
    errors: list[dict[str, Any]] | None = None
