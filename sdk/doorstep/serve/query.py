"""GraphQL over HTTP, through graphql-core; a document is weighed before it is run."""

import json
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from flask import Blueprint, Response, g, request

from doorstep.decoding import build
from doorstep.errors import DoorstepError
from doorstep.serve.bodies import GraphqlBody, read_object
from doorstep.serve.hooks import current_call
from doorstep.serve.narrowing import Narrowing
from doorstep.serve.options import Limits
from doorstep.serve.refusals import RefusalError, refusal_of
from doorstep.serve.rest import describe
from doorstep.serve.service import Service

SCHEMA = """
"Any JSON value."
scalar JSON

type Query {
  "The served models."
  models: [Model!]!
  "One served model."
  model(name: String!): Model!
  "Answer items: texts, or {b64: …} for pictures."
  predict(model: String!, items: [JSON!]!, topK: Int, labels: [String!]): Prediction!
  "Say what in each item speaks for a label, the best one where none is named."
  explain(model: String!, items: [JSON!]!, label: String): Explanations!
}

type Model {
  name: String!
  version: String!
  task: String!
  variant: String!
  runtime: String!
  labels: [String!]!
  "The labels' names in a language the bundle has: en, zh, …"
  displayNames(locale: String!): [Name!]!
  digest: String!
  licence: String!
  why: String!
}

type Name { label: String!, name: String! }
type Label { label: String!, score: Float! }

type Prediction {
  model: String!
  version: String!
  variant: String!
  runtime: String!
  ms: Float!
  results: [Result!]!
}

type Result {
  "The best label; null where the model abstains, or its task has no labels."
  label: String
  score: Float
  scores: [Label!]
  labels: [String!]
  "The whole result as JSON."
  json: JSON!
}

type Explanations {
  model: String!
  version: String!
  variant: String!
  runtime: String!
  ms: Float!
  results: [Explanation!]!
}

type Explanation {
  "logit is null where weights are losses of the score; else they add up to it, from the bias on."
  label: String!, score: Float!, parts: [Part!]!, regions: [Region!]!, segments: [Segment!]!, steps: [Step!]!
  fields: [Known!]!, logit: Float, bias: Float!
}
type Part { text: String!, start: Int!, end: Int!, weight: Float! }
type Segment { start: Float!, end: Float!, weight: Float! }
type Region { left: Float!, top: Float!, width: Float!, height: Float!, weight: Float! }
type Step { id: String!, place: Int!, weight: Float! }
type Known { name: String!, value: JSON!, weight: Float! }
"""
log = logging.getLogger("doorstep.serve")


def add_graphql(blueprint: Blueprint, service: Service) -> None:
    """Add the route. graphql-core is imported by the first request: it costs memory that a REST-only device keeps."""

    @blueprint.post("/graphql")
    def graphql() -> Response:
        """Answer a GraphQL document: models, predict, explain."""
        body = build(read_object(request), GraphqlBody, "body")
        return run(service, body)


def run(service: Service, body: GraphqlBody) -> Response:
    """Parse, weigh, validate and execute a document."""
    from graphql import GraphQLError, execute_sync, parse, specified_rules, validate
    from graphql.validation import MaxIntrospectionDepthRule

    from doorstep.serve.query_cost import check_cost

    limits: Limits = service.options.limits
    try:
        document = parse(body.query, max_tokens=limits.graphql_tokens, no_location=False)
        check_cost(document, body.operationName, body.variables, limits)
        if errors := validate(_schema(), document, [*specified_rules, MaxIntrospectionDepthRule], max_errors=10):
            return _respond(400, None, errors)
        result = execute_sync(
            _schema(),
            document,
            root_value=_Root(service),
            operation_name=body.operationName,
            variable_values=body.variables,
        )
    except GraphQLError as error:
        return _respond(400, None, [error])
    except RecursionError as error:
        raise RefusalError(400, "query: nested too deep") from error
    status = 200 if result.data is not None else max((_status(error) for error in result.errors or []), default=200)
    return _respond(status, result.data, result.errors or [])


class _Root:
    """The resolvers of `Query`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def models(self, info: Any) -> list[dict[str, Any]]:
        return [_model(described) for described in map(describe, self._service.models.values())]

    def model(self, info: Any, name: str) -> dict[str, Any]:
        return _model(describe(self._service.model(name)))

    def predict(
        self,
        info: Any,
        model: str,
        items: list[Any],
        topK: int | None = None,  # noqa: N803 -- as the schema says
        labels: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        narrowing = Narrowing(topK, tuple(labels or ()))
        plain = self._service.predict(model, items, narrowing, current_call()).to_dict()
        plain["results"] = [{**result, "json": result} for result in plain["results"]]
        return plain

    def explain(self, info: Any, model: str, items: list[Any], label: str | None = None) -> dict[str, Any]:
        return self._service.explain(model, items, label, current_call()).to_dict()


@cache
def _schema() -> Any:
    from graphql import build_schema

    return build_schema(SCHEMA)


def _model(described: dict[str, Any]) -> dict[str, Any]:
    names = described["display_names"]

    def display_names(info: Any, locale: str) -> list[dict[str, str]]:
        return [{"label": label, "name": name} for label, name in names.get(locale, {}).items()]

    return {**described, "displayNames": display_names}


def _respond(status: int, data: Any, errors: Sequence[Any]) -> Response:
    plain: dict[str, Any] = {"data": data} if status == 200 or data is not None else {}
    headers: dict[str, str] = {}
    if errors:
        plain["errors"] = [_formatted(error) for error in errors]
        for error in errors:
            if isinstance(error.original_error, RefusalError):
                headers.update(error.original_error.headers)
    text = json.dumps(plain, ensure_ascii=False)
    return Response(text, status, headers, content_type="application/json")


def _status(error: Any) -> int:
    original = error.original_error
    if original is None:
        return 400
    return refusal_of(original).status if isinstance(original, DoorstepError) else 500


def _formatted(error: Any) -> dict[str, Any]:
    """Return an error for the caller; one nobody foresaw keeps its message to itself."""
    plain: dict[str, Any] = error.formatted
    original = error.original_error
    if isinstance(original, DoorstepError):
        plain["message"] = str(refusal_of(original))
    elif original is not None and not isinstance(original, type(error)):
        plain["message"] = "the server failed; its log says more"
        log.error(
            "%s", json.dumps({"event": "failed", "kind": type(original).__name__, "request_id": g.doorstep_request_id})
        )
    plain["extensions"] = {"status": _status(error)}
    return plain
