"""`doorstep serve`: bind, load, say ready, serve, drain. One process, or several that share the socket."""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

from doorstep.errors import UsageError
from doorstep.serve.options import ServeOptions
from doorstep.serve.process_options import ServerOptions
from doorstep.serve.sources import Source, Watcher, load_all

log = logging.getLogger("doorstep.serve")
_RESTART_PAUSE_S = 1.0
_SWITCH_S = 0.0005  # a thread that comes back from the engine waits so long for one that is busy; Python's own: 5 ms


@dataclass(frozen=True, slots=True)
class Launch:
    """What to serve, where and how.

    Attributes:
        port: 0 for any free one.
        processes: each loads the bundles itself; they share the socket and, where an engine maps its file, the weights.
        reload_s: how often to look for another bundle; 0 for only on SIGHUP.
    """

    sources: tuple[Source, ...]
    host: str = "127.0.0.1"
    port: int = 8080
    options: ServeOptions = field(default_factory=ServeOptions)
    server: ServerOptions = field(default_factory=ServerOptions)
    processes: int = 1
    reload_s: float = 2.0


def launch(plan: Launch) -> int:
    """Serve until SIGTERM or SIGINT; return 0 where everything sent was answered."""
    listener = _listen(plan.host, plan.port)
    if plan.processes == 1:
        return _serve(plan, listener)
    return _Supervisor(plan, listener).run()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UsageError(
            f"{host}:{port}: cannot listen there ({error.strerror}); choose another --host or --port"
        ) from error
    listener.setblocking(False)
    return listener


def _serve(plan: Launch, listener: socket.socket) -> int:
    started = time.monotonic()
    sys.setswitchinterval(_SWITCH_S)
    from doorstep.serve.app import create_app
    from doorstep.serve.server import Server
    from doorstep.serve.service import Service

    service = Service(load_all(plan.sources), plan.options, is_owned=True)
    server = Server(create_app(service), listener, plan.server)
    watcher = Watcher(service, plan.sources, plan.reload_s)

    def stop(number: int, frame: FrameType | None) -> None:
        service.is_draining.set()
        server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, lambda number, frame: watcher.ask())
    watcher.start()
    _tell_ready(listener, list(service.models), time.monotonic() - started)
    is_drained = server.run()
    watcher.stop()
    log.info("%s", json.dumps({"event": "stopped", "drained": is_drained}))
    if is_drained:
        service.close()
    return 0 if is_drained else 1


def _tell_ready(listener: socket.socket, models: Sequence[str], seconds: float) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    told = {"event": "ready", "url": url, "models": models, "ms": round(1000 * seconds), "pid": os.getpid()}
    log.info("%s", json.dumps(told))


class _Supervisor:
    """Starts the processes before anything heavy is loaded, starts dead ones again, hands signals on."""

    def __init__(self, plan: Launch, listener: socket.socket) -> None:
        self._plan = plan
        self._listener = listener
        self._children: set[int] = set()
        self._is_stopping = False

    def run(self) -> int:
        import flask  # noqa: F401 -- once, before the fork: its pages are shared
        from prometheus_client import multiprocess

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._hand_on)
        for _ in range(self._plan.processes):
            self._start()
        worst = 0
        while self._children:
            process, status = os.wait()
            self._children.discard(process)
            multiprocess.mark_process_dead(process)  # type: ignore[no-untyped-call]
            if self._is_stopping:
                worst = max(worst, os.waitstatus_to_exitcode(status))
            else:
                log.error("%s", json.dumps({"event": "process died", "pid": process, "status": status}))
                time.sleep(_RESTART_PAUSE_S)
                self._start()
        return worst

    def _start(self) -> None:
        if threading.active_count() > 1:
            raise UsageError("serve: several processes cannot be started from a program with threads")
        process = os.fork()
        if process:
            self._children.add(process)
            return
        code = 1
        try:
            code = _serve(self._plan, self._listener)
        except BaseException as error:  # noqa: BLE001 -- the child ends here, and says why
            log.error("%s", json.dumps({"event": "failed", "kind": type(error).__name__, "error": str(error)}))
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        self._is_stopping = self._is_stopping or number != signal.SIGHUP
        for process in self._children:
            os.kill(process, number)
