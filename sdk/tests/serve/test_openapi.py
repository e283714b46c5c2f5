"""The OpenAPI document, asked by schemathesis: whatever it generates, the server keeps its word."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from doorstep.serve import Limits, ServeOptions

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def test_the_server_keeps_to_its_document(serve: Any, predictors: dict[str, Any]) -> None:
    small = ServeOptions(Limits(items=40, parts=8, characters=60))
    shop = serve(small, reviews=predictors["reviews"])
    api = schemathesis.openapi.from_url(f"{shop.url}/openapi.json")
    asked = []
    for found in api.get_all_operations():
        operation = found.ok()
        if "/versions" in operation.path:
            continue  # the same routes again

        @given(case=operation.as_strategy())
        @settings(
            max_examples=5,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        ask()
        asked.append(operation.label)
    assert "POST /v1/models/reviews:predict" in asked


def test_the_document_itself_is_valid(shop: Any) -> None:
    from jsonschema import Draft202012Validator

    document = shop.get("/openapi.json").json
    assert document["openapi"] == "3.1.0"
    for path in document["paths"].values():
        for operation in path.values():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                Draft202012Validator.check_schema(media["schema"])
