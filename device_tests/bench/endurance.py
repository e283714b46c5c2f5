"""What a server keeps of many requests and many sockets: its memory after each part of the load."""

import resource
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from device_tests.bench.serving import running_server, wrk
from doorstep.cli.output import table
from doorstep.golden import item_of, load_golden
from doorstep.predictor import Predictor

_PARTS = 5


def endurance(bundle: Path, requests: int, sockets: int) -> dict[str, Any]:
    """Measure, print and return the section; the load comes in five parts, memory is read after each."""
    with Predictor.load(bundle) as predictor:
        texts = [item_of(predictor.bundle, one) for one in load_golden(predictor.bundle).examples]
        path = f"/v1/models/{predictor.manifest.name}:predict"
    command = [sys.executable, "-m", "doorstep.cli.main", "serve", str(bundle), "--log-level", "error"]
    rows: list[list[object]] = []
    answered, lost, memory = 0, 0, []
    with running_server(command) as server:
        first = wrk(server, path, texts, 5, 64)
        seconds = max(5, round(requests / _PARTS / first.per_second))
        for _ in range(_PARTS):
            load = wrk(server, path, texts, seconds, 64)
            answered, lost = answered + round(load.per_second * seconds), lost + load.lost
            memory.append(server.rss_mib())
            rows.append([answered, load.per_second, load.p99_ms, lost, memory[-1]])
        print(f"{requests} requests to {bundle.name}, 64 clients")
        print(table(("answered", "requests/s", "p99 ms", "lost", "RSS MiB"), rows))
        found = {"answered": answered, "lost": lost, "rss_mib": memory}
        return {**found, "sockets": _crowd(server, path, texts, sockets)}


def _crowd(server: Any, path: str, texts: list[str], wanted: int) -> dict[str, Any]:
    """Hold so many sockets open that say nothing, and answer eight clients beside them."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most[1], wanted + 200), most[1]))
    alone = wrk(server, path, texts, 5, 8)
    with ExitStack() as stack:
        opened = 0
        for _ in range(wanted):
            try:
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            except OSError:
                break
            opened += 1
        time.sleep(1)
        beside = wrk(server, path, texts, 5, 8)
        rss = server.rss_mib()
    after = wrk(server, path, texts, 5, 8)
    rows: list[list[object]] = [
        ["before", 0, alone.per_second, alone.p99_ms, alone.lost, None],
        ["beside open sockets", opened, beside.per_second, beside.p99_ms, beside.lost, rss],
        ["after", 0, after.per_second, after.p99_ms, after.lost, server.rss_mib()],
    ]
    print(table(("8 clients", "sockets", "requests/s", "p99 ms", "lost", "RSS MiB"), rows) + "\n")
    return {"opened": opened, "alone": alone._asdict(), "beside": beside._asdict(), "after": after._asdict(),
            "rss_mib": rss}  # fmt: skip
