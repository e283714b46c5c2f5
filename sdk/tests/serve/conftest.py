"""A served app over a real socket: the real WSGI server, in a thread."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from doorstep.predictor import LoadOptions, Predictor
from doorstep.serve import ServeOptions, Service, create_app
from doorstep.serve.process_options import ServerOptions
from doorstep.serve.server import Server


class Reply(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running(NamedTuple):
    """A server that runs."""

    host: str
    port: int
    service: Service
    server: Server
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """Send one request; a body that is no bytes goes as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body, ensure_ascii=False).encode()
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        return self.ask("POST", path, body, headers)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.ask("GET", path, None, headers)

    def send(self, data: bytes) -> bytes:
        """Send raw bytes and return all that comes back until the server ends."""
        with socket.create_connection((self.host, self.port), timeout=20) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))


Serve = Callable[..., Any]


@contextmanager
def running(service: Service, options: ServerOptions) -> Iterator[Running]:
    """Run a server in a thread until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = Server(create_app(service), listener, options)
    thread = threading.Thread(target=server.run)
    host, port = listener.getsockname()
    thread.start()
    try:
        yield Running(host, port, service, server, thread)
    finally:
        server.stop()
        thread.join()


@pytest.fixture(scope="session")
def predictors(
    template: Path, picture_bundle: Path, tensor_bundle: Path, ranking_bundle: Path
) -> Iterator[dict[str, Predictor]]:
    """A model for texts, one for pictures, one of raw tensors, one that ranks."""
    every_label = LoadOptions(task_options={"top_k": 3})
    with ExitStack() as opened:
        yield {
            "reviews": opened.enter_context(Predictor.load(template, options=every_label)),
            "pictures": opened.enter_context(Predictor.load(picture_bundle, options=every_label)),
            "sums": opened.enter_context(Predictor.load(tensor_bundle)),
            "ranking": opened.enter_context(Predictor.load(ranking_bundle)),
        }


@pytest.fixture
def serve(predictors: dict[str, Predictor]) -> Iterator[Serve]:
    """Return a function that serves the four models: `serve(ServeOptions(…), ServerOptions(…))`."""
    with ExitStack() as opened:

        def start(options: ServeOptions | None = None, server: ServerOptions | None = None, **others: Any) -> Running:
            service = Service(others or predictors, options)
            return opened.enter_context(running(service, server or ServerOptions(threads=16, drain_s=5)))

        yield start


@pytest.fixture(scope="session")
def shop(predictors: dict[str, Predictor]) -> Iterator[Running]:
    """The four models served with small bounds."""
    from doorstep.serve import Limits

    limits = Limits(body_bytes=1 << 20, items=1000, lines=200, pixels=1_000_000)
    with running(Service(predictors, ServeOptions(limits)), ServerOptions(threads=16, body_bytes=1 << 20)) as server:
        yield server


@pytest.fixture(scope="session")
def serve_running() -> Callable[..., Any]:
    """Return `running`, for a service of the test's own."""
    return running
