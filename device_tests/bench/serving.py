"""The server beside `Predictor` and beside a plain Flask app: loopback, one run, ratios."""

import http.client
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from device_tests.bench.environments import CACHE, ROOT, SkippedError, call
from doorstep.cli.output import table
from doorstep.device import granted_cores
from doorstep.golden import item_of, load_golden
from doorstep.predictor import Predictor

_APP = Path(__file__).parent / "pipeline_app.py"
_WSGI = Path(__file__).parent / "wsgi_app.py"
_REST_S = 0.02
_SLOW = 64  # connections that have sent half a request
_SCRIPT = """
local n = 0
local bodies = {%s}
request = function()
  n = n + 1
  return wrk.format("POST", "%s", {["Content-Type"] = "application/json"}, bodies[n %% #bodies + 1])
end
done = function(summary, latency)
  io.write(string.format("RESULT %%d %%d %%d %%f %%f %%f\\n", summary.requests, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(95) / 1000, latency:percentile(99) / 1000))
end
"""


class Load(NamedTuple):
    """What wrk saw: requests a second, latencies in ms, requests without a good answer."""

    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    lost: int


def serving(bundle: Path, checkpoint: Path | None, seconds: int, clients: int = 64) -> dict[str, Any]:
    """Measure, print and return the section."""
    if not shutil.which("wrk"):
        print("serve: left out; it needs wrk: apt-get install wrk\n")
        return {}
    with Predictor.load(bundle) as predictor:
        name = predictor.manifest.name
        texts = [item_of(predictor.bundle, one) for one in load_golden(predictor.bundle).examples]
        path = f"/v1/models/{name}:predict"
        command = [sys.executable, "-m", "doorstep.cli.main", "serve", str(bundle), "--log-level", "error"]
        with running_server(command) as one, running_server([*command, "--lanes", str(granted_cores())]) as ours:
            bare, served = _one_at_a_time(lambda: predictor.predict(texts[0]), one, path, texts[0])
            many, loads, narrow, busy = [], [], [], []
            for _ in range(3):  # turns, so that a busy moment hits all
                many.append(max(_per_second(predictor, texts, size) for size in (1, 8, 16, 32, 64)))
                before, start = _engine(one.port), time.monotonic()
                narrow.append(wrk(one, path, texts, seconds, clients))
                spent, rows_run = (now - then for now, then in zip(_engine(one.port), before, strict=True))
                busy.append((spent / (time.monotonic() - start), 1000 * spent / max(1.0, rows_run)))
                loads.append(wrk(ours, path, texts, seconds, clients))
            rss = ours.rss_mib()
    load, in_one = (max(turns, key=lambda turn: turn.per_second) for turns in (loads, narrow))
    share, row_ms = busy[narrow.index(in_one)]
    found: dict[str, Any] = {
        "bare_p50_ms": bare, "served_p50_ms": served, "predict_many_per_s": max(many), "rss_mib": rss,
        "start_ms": one.start_ms, "load": load._asdict(), "one_lane": in_one._asdict(),
        "engine_share": share, "engine_row_ms": row_ms,
    }  # fmt: skip
    print(f"served beside Predictor: {predictor.variant.name}, {clients} clients, wrk {seconds} s, best of 3 turns")
    rows: list[list[object]] = [
        ["one at a time, p50 ms", served, bare, f"{served - bare:+.2f} ms"],
        [f"{clients} clients, --lanes {granted_cores()}, items/s", load.per_second, max(many),
         f"{load.per_second / max(many):.2f} ×"],
        [f"{clients} clients, one lane, items/s", in_one.per_second, max(many),
         f"{in_one.per_second / max(many):.2f} ×"],
        ["one lane: engine's ms a row", row_ms, 1000 / max(many), f"busy {100 * share:.0f} % of the time"],
        ["p99 / p50 ms", load.p99_ms, load.p50_ms, f"{load.p99_ms / load.p50_ms:.2f} ×"],
        ["lost", load.lost + in_one.lost, None, ""],
        ["process start to ready ms", one.start_ms, None, ""],
    ]  # fmt: skip
    print(table(("", "served", "Predictor", "compared"), rows))
    found["gunicorn"] = _beside_gunicorn(bundle, path, texts, seconds, clients)
    if checkpoint:
        found["pipeline"] = _beside_pipeline(checkpoint, texts, seconds, clients, load, rss)
    print()
    return found


def _engine(port: int) -> tuple[float, float]:
    """Return the seconds that a server's engine has run, and the rows, from its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
        samples = [sample for family in families for sample in family.samples]
    names = ("doorstep_engine_seconds_sum", "doorstep_batch_rows_sum")
    seconds, rows = (sum(sample.value for sample in samples if sample.name == name) for name in names)
    return seconds, rows


def _beside_pipeline(
    checkpoint: Path, texts: list[str], seconds: int, clients: int, load: Load, rss: float
) -> dict[str, Any]:
    port = _free_port()
    with running_server([sys.executable, str(_APP), str(checkpoint), str(port)], port) as plain:
        theirs = wrk(plain, "/predict", texts, seconds, clients)
        their_rss = plain.rss_mib()
    rows: list[list[object]] = [
        ["requests/s", load.per_second, theirs.per_second, f"{load.per_second / max(theirs.per_second, 1e-9):.1f} ×"],
        ["p95 ms", load.p95_ms, theirs.p95_ms, f"{theirs.p95_ms / load.p95_ms:.1f} × lower"],
        ["RSS MiB", rss, their_rss, f"{rss / their_rss:.2f} ×"],
        ["lost", load.lost, theirs.lost, ""],
    ]
    print(table(("", f"doorstep serve --lanes {granted_cores()}", "Flask + pipeline", "compared"), rows))
    return {**theirs._asdict(), "rss_mib": their_rss}


def _beside_gunicorn(bundle: Path, path: str, texts: list[str], seconds: int, clients: int) -> dict[str, Any]:
    """The same application in both WSGI servers, as many threads each: under load, and with slow clients beside it."""
    try:
        folder = CACHE / "gunicorn"
        call(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--upgrade",
                "--target",
                str(folder),
                "gunicorn==26.0.0",
            ]
        )
    except SkippedError as error:
        print(f"gunicorn: left out; {error}")
        return {}
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "DOORSTEP_BUNDLE": str(bundle)}
    port = _free_port()
    commands = {
        "waitress": [sys.executable, "-m", "doorstep.cli.main", "serve", str(bundle), "--log-level", "error"],
        "gunicorn": [sys.executable, "-m", "gunicorn", "-w", "1", "-k", "gthread", "--threads", "72", "--bind",
                     f"127.0.0.1:{port}", "--chdir", str(_WSGI.parent), "wsgi_app:app"],
    }  # fmt: skip
    rows: list[list[object]] = []
    found: dict[str, Any] = {}
    for name, command in commands.items():
        with running_server(command, port if name == "gunicorn" else 0, environ) as running:
            wrk(running, path, texts, 2, clients)
            load = wrk(running, path, texts, seconds, clients)
            with _slow_clients(running.port):
                beside = wrk(running, path, texts, seconds, 8)
            rss = running.rss_mib() + sum(_children_rss_mib(running.process.pid))
        rows.append([name, load.per_second, load.p50_ms, load.p99_ms, load.lost, beside.per_second, beside.p99_ms,
                     beside.lost, rss])  # fmt: skip
        found[name] = {"load": load._asdict(), "beside_slow_clients": beside._asdict(), "rss_mib": rss}
    print(f"one application, two servers: {clients} clients; then 8 clients beside {_SLOW} that send half a request")
    print(table(("", "requests/s", "p50 ms", "p99 ms", "lost", "beside slow /s", "p99 ms", "lost", "RSS MiB"), rows))
    return found


@contextmanager
def _slow_clients(port: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(_SLOW):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            one.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        time.sleep(0.5)
        yield


def _children_rss_mib(pid: int) -> list[float]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [_rss_mib(int(child)) for child in children]


def _rss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


class _Running(NamedTuple):
    port: int
    process: subprocess.Popen[str]
    start_ms: float

    def rss_mib(self) -> float:
        return _rss_mib(self.process.pid)


@contextmanager
def running_server(command: list[str], port: int = 0, environ: dict[str, str] | None = None) -> Iterator[_Running]:
    """Start a server and wait until it listens; `serve` is told the port."""
    port = port or _free_port()
    command = [*command, "--port", str(port)] if "serve" in command else command
    start = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True,
                               env=environ)  # fmt: skip
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() - start > 120:
                    raise
                time.sleep(0.01)
        yield _Running(port, process, 1000 * (time.monotonic() - start))
    finally:
        process.terminate()
        process.wait(30)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _one_at_a_time(predict: Callable[[], object], server: _Running, path: str, text: str) -> tuple[float, float]:
    """Return both p50 in ms; single calls take turns, with a rest between: an engine's threads spin on after a run."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body = json.dumps({"items": [text]}).encode()
    times: dict[str, list[float]] = {"bare": [], "served": []}

    def ask() -> None:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        connection.getresponse().read()

    for _ in range(300):
        for name, call_ in (("bare", predict), ("served", ask)):
            time.sleep(_REST_S)
            start = time.perf_counter()
            call_()
            times[name].append(1000 * (time.perf_counter() - start))
    connection.close()
    return statistics.median(times["bare"]), statistics.median(times["served"])


def _per_second(predictor: Predictor, texts: list[str], batch_size: int) -> float:
    items = texts * (1 + 256 // len(texts))
    start = time.perf_counter()
    predictor.predict_many(items, batch_size=batch_size)
    return len(items) / (time.perf_counter() - start)


def wrk(server: _Running, path: str, texts: list[str], seconds: int, clients: int) -> Load:
    """Let `clients` ask for `seconds`, one text a request."""
    bodies = ", ".join(f"[==[{json.dumps({'items': [text]}, ensure_ascii=False)}]==]" for text in texts)
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as script:
        script.write(_SCRIPT % (bodies, path))
        script.flush()
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", script.name]
        command.append(f"http://127.0.0.1:{server.port}")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\S+) (\S+) (\S+)", done.stdout)
    if match is None:
        raise RuntimeError(f"wrk said nothing: {done.stdout[-300:]}")
    requests, refused, broken = (int(match[place]) for place in (1, 2, 3))
    p50, p95, p99 = (float(match[place]) for place in (4, 5, 6))
    return Load((requests - refused) / seconds, p50, p95, p99, refused + broken)
