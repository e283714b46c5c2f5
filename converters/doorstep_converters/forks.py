"""Jobs as forks of a process that has torch and transformers loaded; the side that asks for them.

There is one server for each environment, which ends with this process. `start_fork` returns None where a fork would
not be safe or the system has none: with a GPU, or no Linux.
"""

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from doorstep_converters.fork_server import READY, REFUSED, REQUEST

_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # what their drivers open does not survive a fork
_PASSED_ON = ("DOORSTEP_", "PYTEST_")  # variables that no library reads while it is loaded
_ALONE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # of pyarrow's allocator
}
_MOST = 2  # servers, of some 500 MB each, most of it shared with their jobs
_LONGEST = 32
_KILLED = -9


class _Server:
    """A fork server that runs."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._is_ready = False
        self._reading = threading.Lock()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "doorstep_converters.fork_server", str(theirs.fileno())],
                env={**environment, **_ALONE},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def is_live(self) -> bool:
        """Tell whether it runs."""
        return self._process.poll() is None

    def is_ready(self) -> bool:
        """Tell whether it has loaded everything, and so can fork."""
        with self._reading:
            if not self._is_ready:
                with suppress(OSError):
                    self._is_ready = self._line.recv(_LONGEST, socket.MSG_DONTWAIT) == READY
            return self._is_ready

    def is_useless(self) -> bool:
        """Tell whether it ended before it could fork."""
        return not self.is_live() and not self.is_ready()

    def ask(self, *handles: int) -> bool:
        """Ask for a fork with these handles; False where the server is gone."""
        try:
            socket.send_fds(self._line, [REQUEST], handles)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """Let it end with the last of its jobs; whether it was ready can still be read."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)

    def drop(self) -> None:
        """Forget it, in a process that was forked from the one it belongs to."""
        self._line.close()


class Fork:
    """A running job; used as `subprocess.Popen` is.

    Attributes:
        stdout: what it says.
        returncode: None until `wait` returned; negative where a signal ended it.
        is_refused: the server could not fork: nothing was run.
    """

    def __init__(self, server: _Server, said: int, status: socket.socket) -> None:
        self.stdout: IO[str] = os.fdopen(said, encoding="utf-8")
        self.returncode: int | None = None
        self.is_refused = False
        self._server = server
        self._status = status

    def kill(self) -> None:
        """Have the job killed; `wait` returns when it is gone."""
        if self.returncode is None:
            with suppress(OSError):
                self._status.shutdown(socket.SHUT_WR)
            if not self._server.is_ready():
                self._server.kill()  # it would fork first, when everything is loaded

    def wait(self) -> int:
        """Wait for the job's end and return its exit code."""
        if self.returncode is None:
            told = self._status.recv(_LONGEST)
            self.is_refused = told == REFUSED or (not told and not self._server.is_ready())
            self.returncode = int(told) if told and not self.is_refused else _KILLED
            self._status.close()
            self.stdout.close()
        return self.returncode


_servers: dict[tuple[str, ...], _Server] = {}
_choosing = threading.Lock()


def start_fork(message: Mapping[str, Any], environment: Mapping[str, str], threads: int, log: IO[bytes]) -> Fork | None:
    """Start a job that writes to `log` and computes with `threads` threads; None where it has to be a new process.

    Args:
        message: of `worker.run`.
        environment: the job's.
    """
    if sys.platform != "linux" or any(Path(path).exists() for path in _GPUS):
        return None
    whole = {**message, "environment": dict(environment), "threads": threads, "folder": str(Path.cwd())}
    with _choosing:
        server = _server_for(environment)
        if server.is_useless():
            return None
        asked, asking = os.pipe()
        said, saying = os.pipe()
        line, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        is_asked = server.ask(asked, saying, log.fileno(), status.fileno())
    status.close()
    os.close(asked)
    os.close(saying)
    with suppress(BrokenPipeError), os.fdopen(asking, "wb") as pipe:  # a server that is gone, which `wait` finds out
        pipe.write(json.dumps(whole).encode())
    fork = Fork(server, said, line)
    if is_asked:
        return fork
    fork.wait()
    return None


def _server_for(environment: Mapping[str, str]) -> _Server:
    """Return the server of an environment, which is the newest one then; one that could never fork is not replaced."""
    fixed = {name: value for name, value in environment.items() if not name.startswith(_PASSED_ON)} | _ALONE
    key = (sys.executable, str(Path.cwd()), *_bounds(), *(f"{name}={value}" for name, value in sorted(fixed.items())))
    server = _servers.pop(key, None)
    if server is None or not (server.is_live() or server.is_useless()):
        server = _Server(environment)
    _servers[key] = server
    for oldest in list(_servers)[:-_MOST]:
        _servers.pop(oldest).close()
    return server


def _bounds() -> tuple[str, ...]:
    """Return what a process hands down beside its environment: limits, cores, niceness, and who may read its files."""
    limits = [f"{name}={resource.getrlimit(getattr(resource, name))}" for name in dir(resource) if "RLIMIT_" in name]
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    umask = [line for line in status.splitlines() if line.startswith("Umask")]
    return (*limits, *umask, f"cores={sorted(os.sched_getaffinity(0))}", f"nice={os.nice(0)}")


def _begin_anew() -> None:
    """Drop the servers in a fork of this process: they are not its own."""
    global _choosing
    _choosing = threading.Lock()
    for server in _servers.values():
        server.drop()
    _servers.clear()


os.register_at_fork(after_in_child=_begin_anew)
