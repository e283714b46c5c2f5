"""How the serving process treats connections."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Bounds of the process.

    Attributes:
        threads: requests worked on at the same time; most of them wait for a batch.
        connections: open connections; beyond, those that have been quiet longest are closed.
        pending: whole requests that wait for a thread; beyond it 503.
        body_bytes: longest body.
        idle_s: a connection without a request is closed after so many seconds.
        receive_s: a request must have come in whole after so many seconds.
        drain_s: after a stop, how long requests under way may take.
    """

    threads: int = 72
    connections: int = 512
    pending: int = 256
    body_bytes: int = 8 << 20
    idle_s: int = 60
    receive_s: float = 30.0
    drain_s: float = 10.0
