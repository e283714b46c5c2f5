"""Before and after every request: id, host, origin, token, rate; then headers, metrics, one log line."""

import hmac
import json
import logging
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from doorstep.errors import DoorstepError
from doorstep.serve.batching import Call
from doorstep.serve.options import ServeOptions
from doorstep.serve.rate import RateLimit
from doorstep.serve.refusals import GoneError, RefusalError, refusal_of
from doorstep.serve.service import Service, call_of
from doorstep.serve.tracing import Tracer, tracer

log = logging.getLogger("doorstep.serve")
ARRIVED = "doorstep.arrived"
"""Key of the environ under which the server notes `time.monotonic()` of a whole request."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPEN = frozenset({"live", "ready", "index", "page_file"})
"""Endpoints that need no token."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(self), microphone=(self), geolocation=()"),
)
"""Added to every answer; no route sets one of them itself."""


def add_hooks(blueprint: Blueprint, service: Service) -> None:
    """Add what happens around every request of the blueprint."""
    hooks = Hooks(service)
    blueprint.before_request(hooks.before)
    blueprint.after_request(hooks.after)
    blueprint.register_error_handler(DoorstepError, hooks.refuse)
    blueprint.register_error_handler(HTTPException, refuse_http)
    blueprint.register_error_handler(Exception, hooks.fail)


def current_call(now: float | None = None) -> Call:
    """Return the deadline of the request at hand, counted from its arrival or from `now`."""
    options: ServeOptions = g.doorstep_options
    is_gone: Callable[[], bool] = request.environ.get("waitress.client_disconnected", _is_there)
    arrived = g.doorstep_arrived if now is None else now
    return call_of(options, request.headers.get("X-Deadline-Ms"), is_gone, arrived)


class Hooks:
    """The functions around a request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._options = service.options
        self._token = service.options.token.encode()
        self._rate = RateLimit(service.options.rate_per_s, service.options.burst)
        self._tracer: Tracer = tracer(service.options.is_traced)

    def before(self) -> Response | None:
        """Refuse who may not ask; answer a preflight."""
        arrived(self._options)
        request.max_content_length = self._options.limits.body_bytes
        g.doorstep_span = self._tracer.start(request.environ, _route())
        self._check_host()
        if request.method == "OPTIONS":
            return None
        if request.endpoint and request.endpoint.rpartition(".")[2] in _OPEN:
            return None
        self._check_token()
        if wait_s := self._rate.wait_s(request.remote_addr or ""):
            raise RefusalError(
                429, "rate: too many requests from this address; send fewer", {"Retry-After": str(wait_s)}
            )
        return None

    def after(self, response: Response) -> Response:
        """Add headers; count and log the request, a streamed one when its last byte is handed over."""
        headers = response.headers
        headers.extend(_HEADERS)
        headers.setdefault("Cache-Control", "no-store")
        headers["X-Request-Id"] = g.doorstep_request_id
        self._allow_origin(headers)
        finish = self._finish(response.status_code)
        if response.is_streamed:
            response.call_on_close(finish)
        else:
            finish()
        return response

    def refuse(self, error: DoorstepError) -> Response:
        """Answer a known error."""
        refusal = refusal_of(error)
        self._service.metrics.errors.labels(type(error).__name__).inc()
        if refusal.status == 500:
            log.error("%s", _told("failed", error))
        return problem(refusal.status, str(refusal), dict(refusal.headers))

    def fail(self, error: Exception) -> Response:
        """Answer an error nobody foresaw; its message stays here, since it may quote what a user sent."""
        self._service.metrics.errors.labels(type(error).__name__).inc()
        log.error("%s", _told("failed", error))
        return problem(500, "the server failed; its log says more", {})

    def _check_host(self) -> None:
        hosts = self._options.hosts
        name = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdecimal() else request.host
        if hosts and name.strip("[]").lower() not in hosts:
            raise RefusalError(421, "Host: this server does not answer to that name; allow it with --allow-host")

    def _check_token(self) -> None:
        if not self._token:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            raise RefusalError(
                401, "Authorization: expected Bearer and the server's token", {"WWW-Authenticate": "Bearer"}
            )

    def _allow_origin(self, headers: Any) -> None:
        origin = request.headers.get("Origin", "")
        if not self._options.origins or origin not in self._options.origins:
            return
        headers["Access-Control-Allow-Origin"] = origin
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        headers.add("Vary", "Origin")
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, POST"
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, X-Deadline-Ms, X-Request-Id"
            headers["Access-Control-Max-Age"] = "600"

    def _finish(self, status: int) -> Callable[[], None]:
        route, method, metrics = _route(), request.method, self._service.metrics
        line = {"request_id": g.doorstep_request_id, "method": method, "route": route, "status": status}
        start, span, size = g.doorstep_arrived, g.pop("doorstep_span", None), request.content_length or 0

        def finish() -> None:
            seconds = time.monotonic() - start
            metrics.requests.labels(route, method, str(status)).inc()
            metrics.request_seconds.labels(route).observe(seconds)
            if span is not None:
                span.end(status)
            if log.isEnabledFor(logging.INFO):
                told = {"event": "request", **line, "bytes": size, "ms": round(1000 * seconds, 3)}
                log.info("%s", json.dumps(told))

        return finish


def arrived(options: ServeOptions) -> None:
    """Give the request its id and the time it came."""
    given = request.headers.get("X-Request-Id", "")
    g.doorstep_request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
    g.doorstep_arrived = request.environ.get(ARRIVED) or time.monotonic()
    g.doorstep_options = options


def refuse_http(error: HTTPException) -> Response:
    """Answer an error of HTTP itself: no such route, no such method, a body too large."""
    response = error.get_response()
    kept = {name: value for name, value in response.headers if name in ("Allow", "Retry-After", "Location")}
    status = error.code or 500
    details = {
        404: "path: nothing here; /openapi.json lists what is",
        405: f"method: expected one of {kept.get('Allow', 'none')}, got {request.method:.20}",
        413: "body: too large; send less",
    }
    return problem(status, details.get(status, HTTP_STATUS_CODES.get(status, "refused")), kept)


def problem(status: int, detail: str, headers: dict[str, str]) -> Response:
    """Return an error as problem details (RFC 9457); `error` is where the Open Inference Protocol looks."""
    title = "Client Closed Request" if status == GoneError().status else HTTP_STATUS_CODES.get(status, "Error")
    plain = {"title": title, "status": status, "detail": detail, "error": detail, "request_id": g.doorstep_request_id}
    return Response(json.dumps(plain, ensure_ascii=False), status, headers, content_type="application/problem+json")


def _route() -> str:
    return request.url_rule.rule if request.url_rule else "(none)"


def _told(event: str, error: Exception) -> str:
    """Return a log line of where an error came from, without its message."""
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    cause = type(error.__cause__).__name__ if error.__cause__ else ""
    plain = {"event": event, "request_id": g.get("doorstep_request_id"), "kind": type(error).__name__}
    return json.dumps({**plain, "cause": cause, "at": frames[-6:]})


def _is_there() -> bool:
    return False


def log_to_stderr(level: str) -> None:
    """Send the JSON lines of this package to stderr, each with its time and level."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(level.upper())


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        head = json.dumps({"time": stamp, "level": record.levelname.lower()})
        return f"{head[:-1]}, {record.getMessage()[1:]}"
