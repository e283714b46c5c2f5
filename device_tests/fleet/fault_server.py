"""A web server that serves a folder and misbehaves as told: real sockets on loopback."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = Callable[["Exchange"], bool]


@dataclass
class Exchange:
    """One request, before it is answered: a fault may answer it (and return True), or leave it.

    Attributes:
        number: counts the requests for this path up from 1.
        data: the file's bytes; first, last: what was asked for, both included.
    """

    handler: "Handler"
    path: str
    number: int
    data: bytes
    first: int
    last: int
    is_range: bool

    @property
    def body(self) -> bytes:
        """The bytes that were asked for."""
        return self.data[self.first : self.last + 1]

    def head(self, status: int, **headers: Any) -> None:
        """Send a status and headers; `Content_Length` becomes `Content-Length`."""
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), str(value))
        self.handler.end_headers()

    def range_head(self, length: int | None = None) -> None:
        """Send an honest 206, or one that tells another length."""
        told = len(self.body) if length is None else length
        self.head(206, Content_Range=f"bytes {self.first}-{self.last}/{len(self.data)}", Content_Length=told)

    def send(self, data: bytes) -> None:
        """Send bytes of the body."""
        self.handler.wfile.write(data)
        self.handler.wfile.flush()

    def reset(self) -> None:
        """End the connection with a RST."""
        self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handler.connection.close()
        self.handler.close_connection = True

    def close(self) -> None:
        """End the connection in order, however much was promised."""
        self.handler.wfile.flush()
        self.handler.connection.shutdown(socket.SHUT_RDWR)
        self.handler.close_connection = True


@dataclass
class Served:
    """A running server: its address, what it was asked for, and the bytes of bodies it sent."""

    address: str
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    _counts: dict[str, int] = field(default_factory=dict)

    def misbehave(self, part: str, fault: Fault) -> None:
        """Let `fault` see every request whose path contains `part`."""
        self.faults.append((part, fault))

    def count(self, path: str) -> int:
        self._counts[path] = self._counts.get(path, 0) + 1
        return self._counts[path]


class Handler(BaseHTTPRequestHandler):
    """Answers GETs, ranges too."""

    protocol_version = "HTTP/1.1"
    folder: Path
    served: Served

    def do_GET(self) -> None:
        path = self.path.split("?")[0].lstrip("/")
        self.served.requests.append(path)
        place = self.folder / path
        data = place.read_bytes() if place.is_file() else b""
        wanted = self.headers.get("Range", "")
        first, last = 0, len(data) - 1
        if wanted:
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            first, last = int(low), min(int(high), len(data) - 1)
        exchange = Exchange(self, path, self.served.count(path), data, first, last, bool(wanted))
        try:
            if any(part in path and fault(exchange) for part, fault in self.served.faults):
                return
            self._answer(place, exchange)
        except (ConnectionError, OSError):
            self.close_connection = True

    def _answer(self, place: Path, exchange: Exchange) -> None:
        if not place.is_file():
            exchange.head(404, Content_Length=0)
        elif exchange.is_range and exchange.first >= len(exchange.data):
            exchange.head(416, Content_Length=0)
        elif exchange.is_range:
            exchange.range_head()
            self._send(exchange.body)
        else:
            exchange.head(200, Content_Length=len(exchange.data))
            self._send(exchange.data)

    def _send(self, body: bytes) -> None:
        self.served.sent += len(body)
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.served.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 503 if "refuse" in self.path else 200
        if status == 200:
            (self.folder / f"received-{len(self.served.requests)}.json").write_bytes(body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: broken connections are what this server is for."""


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Serve `folder` on a free port of loopback."""
    served = Served("")
    handler = type("BoundHandler", (Handler,), {"folder": folder, "served": served})
    server = _Server(("127.0.0.1", 0), handler)
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
