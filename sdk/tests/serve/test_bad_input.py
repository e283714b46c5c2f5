"""Bad input: each a clear 4xx over a real socket, and the next good request is answered."""

import base64
import io
import json
import socket
import struct
import zlib
from typing import Any

import pytest

GOOD = {"items": ["love it"]}
PREDICT = "/v1/models/reviews:predict"
PICTURE = "/v1/models/pictures:predict"
INFER = "/v2/models/reviews/infer"


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """Return a small PNG that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100_000))
        + chunk(b"IEND", b"")
    )


def picture(kind: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (1, 200, 3)).save(buffer, kind)
    return buffer.getvalue()


def infer(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["x"], **changes}]}


NDJSON = {"Content-Type": "application/x-ndjson"}
PNG = {"Content-Type": "image/png"}
FORM = {"Content-Type": "multipart/form-data; boundary=edge"}
DEEP, DEEPER = ("{a" * levels + "}" * levels for levels in (20, 300))
MANY = '{predict(model:"reviews",items:[' + '"x",' * 900 + "]){results{label score}}}"
WIDE = "{" + " ".join(f'a{n}: predict(model: "reviews", items: ["x", "y"]) {{ ms }}' for n in range(600)) + "}"
TABLE: dict[str, tuple[str, Any, dict[str, str], int, str]] = {
    "no JSON": (PREDICT, b"{items", {}, 400, "body"),
    "not UTF-8": (PREDICT, b'{"items": ["\xff"]}', {}, 400, "body"),
    "nested too deep": (PREDICT, b"[" * 100_000, {}, 400, "nested too deep"),
    "no number": (PREDICT, b'{"items": [NaN]}', {}, 400, "NaN"),
    "a list": (PREDICT, [1], {}, 400, "object"),
    "no items": (PREDICT, {}, {}, 400, "items is missing"),
    "items no list": (PREDICT, {"items": "love it"}, {}, 400, "list"),
    "an empty batch": (PREDICT, {"items": []}, {}, 400, "at least one"),
    "10,000 items": (PREDICT, {"items": ["x"] * 10_000}, {}, 400, "at most 1000"),
    "an item that is a number": (PREDICT, {"items": ["x", 3]}, {}, 400, "item 1"),
    "an item that is null": (PREDICT, {"items": [None]}, {}, 400, "item 0"),
    "half a surrogate pair": (PREDICT, b'{"items": ["\\ud800"]}', {}, 400, "surrogate"),
    "a text too long": (PREDICT, {"items": ["x" * 30_000]}, {}, 400, "20000"),
    "an unknown label": (PREDICT, {"items": ["x"], "labels": ["great"]}, {}, 400, "great"),
    "top_k 0": (PREDICT, {"items": ["x"], "top_k": 0}, {}, 400, "top_k"),
    "an unknown model": ("/v1/models/nobody:predict", GOOD, {}, 404, "nobody"),
    "an unknown path": ("/v1/nowhere", GOOD, {}, 404, "openapi"),
    "another media type": (PREDICT, b"love it", {"Content-Type": "text/plain"}, 415, "application/json"),
    "a body too large": (PREDICT, b" " * (2 << 20), {}, 413, ""),
    "no deadline": (PREDICT, GOOD, {"X-Deadline-Ms": "soon"}, 400, "X-Deadline-Ms"),
    "a file for a text": (PREDICT, b"x", PNG, 415, "text-classification"),
    "a path for a picture": (PICTURE, {"items": ["/etc/hostname"]}, {}, 400, "b64"),
    "no base64": (PICTURE, {"items": [{"b64": "%%"}]}, {}, 400, "base64"),
    "a zip bomb": (PICTURE, bomb(), PNG, 400, "pixels"),
    "a picture that is a script": (PICTURE, b"#!/bin/sh\nrm -rf /\n", PNG, 400, "something else"),
    "a picture that is PostScript": (PICTURE, picture("EPS"), PNG, 400, "something else"),
    "half a picture": (PICTURE, picture("PNG")[:-60], PNG, 400, "item 0"),
    "an empty picture": (PICTURE, b"", PNG, 400, "item 0"),
    "half a form": (PICTURE, b"--edge\r\nContent-Disposition: form-data; name=", FORM, 400, "at least one"),
    "infer: no inputs": (INFER, {"inputs": []}, {}, 400, "text"),
    "infer: another name": (INFER, infer(name="words"), {}, 400, "words"),
    "infer: another datatype": (INFER, infer(datatype="TEXT"), {}, 400, "TEXT"),
    "infer: a wrong shape": (INFER, infer(shape=[5]), {}, 400, "5 elements"),
    "infer: a huge shape": (INFER, infer(shape=[1 << 40]), {}, 400, "shape"),
    "infer: a wrong length": (INFER, infer(), {"Inference-Header-Content-Length": "99999"}, 400, "at most"),
    "infer: unclaimed bytes": (INFER, json.dumps(infer()).encode() + b"xx",
                               {"Inference-Header-Content-Length": str(len(json.dumps(infer())))}, 400, "2 bytes"),
    "infer: an unknown output": (INFER, {**infer(), "outputs": [{"name": "why"}]}, {}, 400, "why"),
    "infer: an old version": ("/v2/models/reviews/versions/0/infer", infer(), {}, 404, "version"),
    "graphql: deep": ("/graphql", {"query": DEEP}, {}, 400, "levels"),
    "graphql: deeper": ("/graphql", {"query": DEEPER}, {}, 400, "nested too deep"),
    "graphql: dear": ("/graphql", {"query": WIDE}, {}, 400, "tokens"),
    "graphql: many items": ("/graphql", {"query": MANY},
                            {}, 400, "cost"),
    "graphql: no syntax": ("/graphql", {"query": "{"}, {}, 400, "Syntax"),
    "graphql: unknown field": ("/graphql", {"query": "{secrets}"}, {}, 400, "secrets"),
    "graphql: a fragment in itself": ("/graphql", {"query": "{...a} fragment a on Query {...a}"}, {}, 400, "itself"),
    "graphql: unknown model": ("/graphql", {"query": '{model(name:"nobody"){name}}'}, {}, 404, "nobody"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "headers", "status", "told"), TABLE.values(), ids=TABLE)
def test_bad_input_is_refused_clearly(
    shop: Any, path: str, body: Any, headers: dict[str, str], status: int, told: str
) -> None:
    reply = shop.post(path, body, headers)
    assert reply.status == status, reply
    assert told in reply.body.decode()
    assert shop.post(PREDICT, GOOD).status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"POST /v1/models/reviews:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n{", 413),
    ],
    ids=["no HTTP", "a negative length", "an unknown coding", "a long header", "100 MB announced"],
)
def test_broken_http_is_refused(shop: Any, data: bytes, status: int) -> None:
    assert int(shop.send(data).split(b" ", 2)[1]) == status
    assert shop.post(PREDICT, GOOD).status == 200


def test_too_many_lines_are_told_in_the_last_line(shop: Any) -> None:
    reply = shop.post(PREDICT, b'"x"\n' * 300, NDJSON)
    lines = reply.body.splitlines()
    assert len(lines) < 300
    assert "at most 200 lines" in json.loads(lines[-1])["error"]


def test_a_client_that_hangs_up_harms_nobody(shop: Any) -> None:
    for _ in range(50):
        with socket.create_connection((shop.host, shop.port)) as connection:
            connection.sendall(b"POST /v1/models/reviews:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    assert shop.post(PREDICT, GOOD).status == 200


def test_pictures_of_plain_formats_are_taken(shop: Any) -> None:
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        item = {"b64": base64.b64encode(picture(kind)).decode()}
        reply = shop.post(PICTURE, {"items": [item]})
        assert reply.json["results"][0]["label"] == "green", kind
