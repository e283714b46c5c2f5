"""OpenTelemetry spans, where the API is installed and asked for. The exporter is the process's own business."""

from collections.abc import Mapping
from typing import Any, Protocol

from doorstep.errors import MissingExtraError


class Span(Protocol):
    """A request being traced."""

    def end(self, status: int) -> None:
        """Finish with the response's status."""


class Tracer(Protocol):
    """Starts spans."""

    def start(self, environ: Mapping[str, Any], route: str) -> Span | None:
        """Start the span of a request; its parent is in the headers of the WSGI environ."""


def tracer(is_traced: bool) -> Tracer:
    """Return a tracer.

    Raises:
        MissingExtraError: tracing is asked for and OpenTelemetry is not installed.
    """
    return _Spans() if is_traced else _Nothing()


class _Nothing:
    def start(self, environ: Mapping[str, Any], route: str) -> Span | None:
        return None


class _Spans:
    def __init__(self) -> None:
        try:
            from opentelemetry import propagate, trace
        except ImportError as error:
            raise MissingExtraError.of("OpenTelemetry", "otel") from error
        self._tracer = trace.get_tracer("doorstep.serve")
        self._extract = propagate.extract
        self._kind = trace.SpanKind.SERVER
        self._status = trace.StatusCode

    def start(self, environ: Mapping[str, Any], route: str) -> Span:
        sent = {name: environ.get(f"HTTP_{name.upper()}") for name in ("traceparent", "tracestate")}
        carrier = {name: value for name, value in sent.items() if value}
        span = self._tracer.start_span(
            route, context=self._extract(carrier), kind=self._kind, attributes={"http.route": route}
        )
        return _Span(span, self._status.ERROR)


class _Span:
    def __init__(self, span: Any, error: Any) -> None:
        self._span = span
        self._error = error

    def end(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(self._error)
        self._span.end()
