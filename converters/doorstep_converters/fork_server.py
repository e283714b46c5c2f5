"""The fork server: `python -m doorstep_converters.fork_server FD` loads torch and transformers once, then forks jobs.

A job begins with both loaded, which costs five seconds of a core otherwise. Nothing else is loaded before a fork, so
jobs stay as far from one another as processes of their own. `forks` is the other side.
"""

import json
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass

from doorstep_converters.together import die_with_parent

HANDLES = 4
"""A request's, beside its byte: a pipe with the job's message, its stdout and stderr, a socket that tells its end."""
READY, REQUEST, REFUSED = b"ready", b"j", b"refused"


def main() -> int:
    """Fork a job for every request, tell each one's exit code, and end when nobody can ask any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked decides what becomes of the jobs
    requests = socket.socket(fileno=int(sys.argv[1]))
    os.close(os.pidfd_open(os.getpid()))  # a kernel or a sandbox without them: nothing is said to be ready
    _load()
    with suppress(OSError):  # whoever started it is gone, which `serve` finds out
        requests.send(READY)
    _Server(requests).serve()
    return 0


def _load() -> None:
    """Load what most jobs need, with what transformers loads when these are first asked for."""
    from torch.utils.data import DataLoader
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, Trainer

    del DataLoader, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, Trainer


@dataclass(slots=True)
class _Job:
    """A running job.

    Attributes:
        handle: readable when the process has ended.
        asker: where its exit code is told; at its end when nobody wants the job any more.
    """

    pid: int
    handle: int
    asker: socket.socket
    is_over: bool = False


class _Server:
    """Waits for requests, for jobs that end, and for jobs nobody wants any more."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._can_be_asked = True
        self._jobs = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ, self._take)

    def serve(self) -> None:
        """Serve until no request can come and no job runs."""
        while self._can_be_asked or self._jobs:
            for key, _ in self._selector.select():
                key.data()

    def _take(self) -> None:
        try:
            data, handles, _, _ = socket.recv_fds(self._requests, len(REQUEST), HANDLES)
        except ConnectionError:  # whoever could ask went without having read what was said
            data, handles = b"", []
        if not data:
            self._selector.unregister(self._requests)
            self._can_be_asked = False
            return
        for handle in handles:
            os.set_inheritable(handle, False)  # programs that a job starts keep nobody waiting
        if len(handles) == HANDLES:
            *handles, status = handles
            self._answer(handles, socket.socket(fileno=status))
        # where there are fewer, this process has too many open; whoever asked is told by their end
        for handle in handles:
            os.close(handle)

    def _answer(self, streams: list[int], asker: socket.socket) -> None:
        """Fork a job, or refuse."""
        pid = self._fork()
        if pid == 0:
            self._selector.close()
            self._requests.close()
            _become(*streams)
        elif pid is not None and (handle := _handle_of(pid)) is not None:
            self._watch(_Job(pid, handle, asker))
        else:
            with suppress(OSError):
                asker.send(REFUSED)
            asker.close()

    def _fork(self) -> int | None:
        """Fork; None where that is not possible, or not safe: what another thread has locked would stay so."""
        try:
            is_alone = len(os.listdir("/proc/self/task")) == 1
            return os.fork() if is_alone else None
        except OSError:
            return None

    def _watch(self, job: _Job) -> None:
        self._jobs += 1
        self._selector.register(job.handle, selectors.EVENT_READ, lambda: self._tell(job))
        self._selector.register(job.asker, selectors.EVENT_READ, lambda: self._kill(job))

    def _tell(self, job: _Job) -> None:
        """Tell the end of a job."""
        _, status = os.waitpid(job.pid, 0)
        job.is_over = True
        self._jobs -= 1
        self._selector.unregister(job.handle)
        with suppress(KeyError):  # nobody wanted it any more
            self._selector.unregister(job.asker)
        os.close(job.handle)
        with suppress(OSError):
            job.asker.send(b"%d" % os.waitstatus_to_exitcode(status))
        job.asker.close()

    def _kill(self, job: _Job) -> None:
        """Kill a job whose asker has closed the line; nothing else is ever sent on it."""
        if not job.is_over:
            self._selector.unregister(job.asker)
            os.kill(job.pid, signal.SIGKILL)  # its end is not waited for yet, so the number is still its own


def _handle_of(pid: int) -> int | None:
    """Return a handle that is readable when a job has ended; where there is none, the job is ended and None returned.

    The job waits for its message, so it has done nothing yet.
    """
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None


def _become(asked: int, said: int, log: int) -> None:
    """Become a job: read its message, take over its environment, run it, and end the process."""
    code, server = 1, os.getppid()
    try:
        die_with_parent()
        if os.getppid() != server or server == 1:
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream, place in ((said, 1), (log, 2)):
            os.dup2(stream, place)
            os.close(stream)
        with os.fdopen(asked, "rb") as file:
            message = json.loads(file.read())
        os.chdir(message["folder"])
        os.environ.clear()
        os.environ.update(message["environment"])
        _use(message["threads"])
        from doorstep_converters.worker import run

        code = run(message)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _use(threads: int) -> None:
    """Let loaded libraries compute with so many threads; the server loaded them for one, to have no others itself."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    threadpool_limits(threads)


if __name__ == "__main__":
    os._exit(main())  # leaving what was loaded takes a second
