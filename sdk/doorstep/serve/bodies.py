"""Request bodies: bytes to values, bounded and strict. The dataclasses are also what the OpenAPI document shows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Request
from werkzeug.exceptions import BadRequest, ClientDisconnected

from doorstep.decoding import build, parse_json
from doorstep.errors import FormatError
from doorstep.serve.items import takes_media
from doorstep.serve.narrowing import Narrowing
from doorstep.serve.options import Limits
from doorstep.serve.refusals import RefusalError

JSON = "application/json"
NDJSON = "application/x-ndjson"
MULTIPART = "multipart/form-data"
_MEDIA = ("image/", "audio/")
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class PredictBody:
    """What `:predict` takes.

    Attributes:
        items: texts; or `{"b64": "…"}` for a picture; or named arrays for a model of raw tensors.
        top_k: most scores a result lists.
        labels: list only these labels' scores.
    """

    items: tuple[Any, ...]
    top_k: int | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainBody:
    """What `:explain` takes.

    Attributes:
        items: as for `:predict`.
        label: the label to explain; the best one where none is named.
    """

    items: tuple[Any, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class GraphqlBody:
    """A GraphQL request."""

    query: str
    operationName: str | None = None  # noqa: N815 -- named by the GraphQL over HTTP specification
    variables: dict[str, Any] = field(default_factory=dict)


def read_body(request: Request) -> bytes:
    """Return the whole body; the app has bounded its length.

    Raises:
        RefusalError: 400, the client sent less than it announced.
    """
    try:
        return request.get_data(cache=False)
    except ClientDisconnected as error:
        raise RefusalError(400, "body: it ends before its announced length") from error


def read_object(request: Request) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        RefusalError: 415, the body is not announced as JSON.
        FormatError: it is not JSON, or no object.
    """
    if request.mimetype != JSON:
        raise RefusalError(415, f"Content-Type: expected {JSON}, got {request.mimetype[:80] or 'none'!r}")
    plain = parse_json(read_body(request), "body")
    if not isinstance(plain, dict):
        raise FormatError(f'body: expected an object such as {{"items": […]}}, got {type(plain).__name__}')
    return plain


def predict_body(request: Request, task: str, limits: Limits) -> PredictBody:
    """Return what `:predict` was sent: JSON, uploaded files, or one file as the whole body.

    Raises:
        RefusalError, FormatError: the body is of a wrong kind, too large or malformed.
    """
    if request.mimetype == MULTIPART or request.mimetype.startswith(_MEDIA):
        narrowing = query_narrowing(request.args)
        return PredictBody(_files(request, task, limits), narrowing.top_k, narrowing.labels)
    body = build(read_object(request), PredictBody, "body")
    _check_count(len(body.items), limits.items)
    return body


def explain_body(request: Request, task: str, limits: Limits) -> ExplainBody:
    """Return what `:explain` was sent, in the forms of `:predict`.

    Raises:
        RefusalError, FormatError: as `predict_body`.
    """
    if request.mimetype == MULTIPART or request.mimetype.startswith(_MEDIA):
        return ExplainBody(_files(request, task, limits), request.args.get("label"))
    body = build(read_object(request), ExplainBody, "body")
    _check_count(len(body.items), limits.items)
    return body


def query_narrowing(query: Mapping[str, str]) -> Narrowing:
    """Return the wishes in a query string: `?top_k=3&labels=a,b`.

    Raises:
        RefusalError: 400, `top_k` is no whole number.
    """
    text = query.get("top_k")
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise RefusalError(400, f"top_k: expected a whole number, got {text!r:.40}")
    labels = tuple(label for label in query.get("labels", "").split(",") if label)
    return Narrowing(int(text) if text else None, labels)


def json_lines(request: Request, most: int) -> Iterator[Any]:
    """Yield one JSON value a line, or the FormatError that a line is; the body has been received whole before.

    Raises:
        RefusalError: 413, more than `most` lines.
    """
    count = 0
    while line := request.stream.readline(_LONGEST_LINE + 1):
        if not line.strip():
            continue
        count += 1
        if count > most:
            raise RefusalError(413, f"body: expected at most {most} lines, got more; send them in parts")
        try:
            if len(line) > _LONGEST_LINE:
                raise FormatError(f"line {count}: expected at most {_LONGEST_LINE} bytes, got more")
            yield parse_json(line, f"line {count}")
        except FormatError as error:
            yield error


def _files(request: Request, task: str, limits: Limits) -> tuple[bytes, ...]:
    if not takes_media(task):
        raise RefusalError(415, f"Content-Type: a model of {task} takes {JSON}, got {request.mimetype:.80}")
    if request.mimetype != MULTIPART:
        return (read_body(request),)
    try:
        parts = [part for name in request.files for part in request.files.getlist(name)]
    except (BadRequest, ClientDisconnected) as error:
        raise RefusalError(400, "body: it is no whole multipart form") from error
    _check_count(len(parts), limits.items)
    return tuple(part.stream.read() for part in parts)


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise RefusalError(400, f"items: expected at most {most}, got {count}; send fewer, or NDJSON, which streams")
