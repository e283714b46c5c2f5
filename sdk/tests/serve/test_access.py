"""Who may ask, what is told about it, and what is never told."""

import json
import logging
from typing import Any

import pytest

from doorstep.cli.main import main
from doorstep.serve import ServeOptions
from doorstep.serve.hooks import log

PREDICT = "/v1/models/reviews:predict"
GOOD = {"items": ["love it"]}
TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize(
    ("given", "status"), [(None, 401), ("Bearer wrong", 401), (f"Basic {TOKEN}", 401), (f"Bearer {TOKEN}", 200)]
)
def test_a_token_is_wanted_where_one_is_set(serve: Any, given: str | None, status: int) -> None:
    running = serve(ServeOptions(token=TOKEN))
    headers = {"Authorization": given} if given else {}
    assert running.post(PREDICT, GOOD, headers).status == status
    assert running.get("/metrics", headers).status == status
    assert running.get("/v2/health/ready").status == 200
    assert running.get("/").status == 200


def test_an_address_that_asks_too_often_is_told_to_wait(serve: Any) -> None:
    running = serve(ServeOptions(rate_per_s=0.01, burst=3))
    replies = [running.post(PREDICT, GOOD) for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
    assert 1 <= int(replies[-1].headers["Retry-After"]) <= 100


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("127.0.0.1:80", 200), ("evil.example", 421)])
def test_another_name_pointed_here_is_refused(serve: Any, host: str, status: int) -> None:
    running = serve(ServeOptions(hosts=("localhost", "127.0.0.1")))
    assert running.post(PREDICT, GOOD, {"Host": host}).status == status


@pytest.mark.parametrize(("origin", "is_allowed"), [("https://shop.example", True), ("https://evil.example", False)])
def test_only_named_origins_may_call_from_a_page(serve: Any, origin: str, is_allowed: bool) -> None:
    running = serve(ServeOptions(origins=("https://shop.example",)))
    reply = running.ask("OPTIONS", PREDICT, None, {"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert (reply.headers.get("Access-Control-Allow-Origin") == origin) == is_allowed


def test_no_origin_may_call_by_default(shop: Any) -> None:
    reply = shop.post(PREDICT, GOOD, {"Origin": "https://shop.example"})
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]


def test_every_answer_has_safe_headers_and_its_id(shop: Any) -> None:
    for reply in (shop.get("/"), shop.post(PREDICT, GOOD), shop.get("/nowhere"), shop.post(PREDICT, b"{")):
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["X-Request-Id"]
    assert shop.post(PREDICT, GOOD, {"X-Request-Id": "till-7"}).headers["X-Request-Id"] == "till-7"
    assert shop.post(PREDICT, GOOD, {"X-Request-Id": "a b\t{"}).headers["X-Request-Id"] != "a b\t{"


def test_the_log_holds_a_line_a_request_and_nothing_a_user_sent(shop: Any, caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(log, "propagate", True)
    with caplog.at_level(logging.DEBUG):
        shop.post(PREDICT, {"items": ["SECRET"]})
        shop.post(PREDICT, {"items": [{"SECRET": 1}]})
        shop.post("/v1/models/SECRET:predict", {"items": ["SECRET"]})
        shop.post("/graphql", {"query": '{predict(model:"SECRET",items:["SECRET"]){ms}}'})
        shop.get("/SECRET?SECRET")
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == log.name]
    assert [line["status"] for line in lines] == [200, 400, 404, 404, 404]
    assert "SECRET" not in caplog.text
    assert b"SECRET" not in shop.get("/metrics").body


def test_spans_are_made_where_asked_for(serve: Any) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    running = serve(ServeOptions(is_traced=True))
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    running.post(PREDICT, GOOD, {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
    (span,) = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == trace_id
    assert span.attributes["http.route"] == "/v1/models/<name>:predict"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "99999"],
        ["--deadline-ms", "0"],
        ["--queue", "0"],
        ["--token-file", "/dev/null"],
        ["--host", "1.2.3.4"],
    ],
)
def test_wrong_arguments_end_with_one_line(template: Any, arguments: list[str], capsys: Any) -> None:
    assert main(["serve", str(template), *arguments]) == 1
    assert capsys.readouterr().err.count("\n") == 1
