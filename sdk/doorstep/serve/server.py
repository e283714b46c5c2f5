"""The process: waitress with what a kiosk needs more of. The quiet give way, the full say so, and a stop drains.

waitress reads and writes every socket in one thread, so a slow client holds no worker.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask
from waitress.utilities import Error

from doorstep.serve.hooks import ARRIVED
from doorstep.serve.process_options import ServerOptions

_ACCEPT_AT_ONCE = 64
_IDLE_S = 0.25
_LINGER_S = 2.0


class Server:
    """One listening socket, one loop. `stop` may be called from a signal handler."""

    def __init__(self, app: Callable[..., Any], listener: socket.socket, options: ServerOptions) -> None:
        settings = Adjustments(
            sockets=[listener],
            threads=options.threads,
            connection_limit=options.connections,
            max_request_body_size=options.body_bytes,
            max_request_header_size=32 << 10,
            channel_timeout=options.idle_s,
            cleanup_interval=2,
            channel_request_lookahead=1,  # a hang-up is seen while the request runs
            asyncore_use_poll=True,
            backlog=4096,
            ident="doorstep",
            log_socket_errors=False,
        )
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.queue_logger.setLevel("ERROR")  # a queue is not worth a line each time
        dispatcher.set_thread_count(options.threads)
        self._map: dict[int, Any] = {}
        self._options = options
        self._stopping = threading.Event()
        info = (listener.family, listener.type, listener.proto, listener.getsockname())
        self._server = _WaitressServer(
            app, self._map, True, listener, dispatcher=dispatcher, adj=settings, sockinfo=info, bind_socket=False
        )
        self._server.options = options

    def stop(self) -> None:
        """Begin to drain; a second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._server.pull_trigger()

    def run(self) -> bool:
        """Serve until `stop`, then answer what has been sent; tell whether all of it was."""
        server = self._server
        while not self._stopping.is_set():
            wasyncore.loop(timeout=1, map=self._map, use_poll=True, count=1)
        server.is_draining = True
        server.accepting = False
        wasyncore.dispatcher.close(server)
        deadline = time.monotonic() + self._options.drain_s
        while server.active_channels and time.monotonic() < deadline:
            server.close_idle(_IDLE_S)
            wasyncore.loop(timeout=0.05, map=self._map, use_poll=True, count=1)
        is_drained = not server.active_channels
        server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)
        return is_drained


class _Task(WSGITask):  # type: ignore[misc]
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[ARRIVED] = getattr(self.request, "arrived", None)
        return environ

    def build_response_header(self) -> bytes:
        if self.channel.server.is_draining:
            self.set_close_on_finish()
        header: bytes = super().build_response_header()
        return header


class _Busy(Error):  # type: ignore[misc]
    code = 503
    reason = "Service Unavailable"

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        status, headers, body = super().to_response(ident)
        return status, [*headers, ("Retry-After", "1")], body


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows since when a request is coming in."""

    task_class = _Task
    began: float | None = None
    is_refused = False
    lingers_until: float | None = None

    def readable(self) -> bool:
        return self.lingers_until is not None or bool(super().readable())

    def writable(self) -> bool:
        return self.lingers_until is None and bool(super().writable())

    def handle_read(self) -> None:
        if self.lingers_until is None:
            super().handle_read()
        elif time.time() > self.lingers_until:
            self.handle_close()
        else:
            with contextlib.suppress(OSError):
                self.recv(1 << 16)

    def handle_close(self) -> None:
        """Close; after a refusal only once the client has stopped sending, or the reset would overtake the answer."""
        if not self.is_refused or not self.connected or self.lingers_until is not None:
            super().handle_close()
            return
        self.lingers_until = time.time() + _LINGER_S
        self.will_close = self.close_when_flushed = False
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def received(self, data: bytes) -> bool:
        self.began = self.began or time.time()
        taken: bool = super().received(data)
        if self.request is None:
            self.began = None
        return taken

    @property
    def is_quiet(self) -> bool:
        return not self.requests and not self.total_outbufs_len and self.lingers_until is None

    @property
    def quiet_since(self) -> float:
        return self.began or self.last_activity


class _WaitressServer(TcpWSGIServer):  # type: ignore[misc]
    channel_class = _Channel
    is_draining = False
    options: ServerOptions

    def readable(self) -> bool:
        if self.accepting and len(self._map) >= self.adj.connection_limit:
            self.make_room()
        taken: bool = super().readable()
        return taken

    def handle_accept(self) -> None:
        """Accept all that wait, as far as there is room: a flood of connections must not queue before a good one."""
        for _ in range(_ACCEPT_AT_ONCE):
            before = len(self._map)
            if before >= self.adj.connection_limit:
                return
            super().handle_accept()
            if len(self._map) == before:
                return

    def add_task(self, channel: Any) -> None:
        """Queue a request; beyond the bound it is refused, and the refusal goes first."""
        request = channel.requests[0]
        request.arrived = time.monotonic()
        channel.is_refused = request.error is not None
        dispatcher = self.task_dispatcher
        if request.error is None and len(dispatcher.queue) >= self.options.pending:
            request.error = _Busy("too many requests wait; try again later")
            with dispatcher.lock:
                dispatcher.queue.appendleft(channel)
                dispatcher.queue_cv.notify()
            return
        dispatcher.add_task(channel)

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.lingers_until is not None and now > channel.lingers_until:
                channel.handle_close()
            elif channel.began is not None and now - channel.began > self.options.receive_s:
                channel.will_close = True

    def make_room(self) -> None:
        """Close those connections that have been quiet longest, an eighth of all."""
        quiet = [channel for channel in self.active_channels.values() if channel.is_quiet and not channel.will_close]
        quiet.sort(key=lambda channel: channel.quiet_since)
        for channel in quiet[: max(1, self.adj.connection_limit // 8)]:
            channel.will_close = True

    def close_idle(self, idle_s: float) -> None:
        """Close connections on which nothing is under way."""
        now = time.time()
        for channel in list(self.active_channels.values()):
            if channel.is_quiet and channel.request is None and now - channel.last_activity > idle_s:
                channel.will_close = True
