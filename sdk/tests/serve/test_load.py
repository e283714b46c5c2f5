"""Queue, deadline, drain, reload: what happens when many ask at once, and when the bundle changes under them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from doorstep.errors import EngineError
from doorstep.predictor import Predictor
from doorstep.serve import ServeOptions, Service
from doorstep.serve.batching import Batcher, Call
from doorstep.serve.options import Bounds
from doorstep.serve.payoff import Payoff
from doorstep.serve.refusals import BusyError, DeadlineError, GoneError
from doorstep.serve.sources import Source, Watcher, load_all

PREDICT = "/v1/models/reviews:predict"


class Gate:
    """A predictor of numbers that answers when told to, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def answer(self, rows: Sequence[int]) -> list[int]:
        self.batches.append(list(rows))
        self.entered.release()
        assert self.open.acquire(timeout=20)
        if -1 in rows:
            raise EngineError("no -1")
        return [2 * row for row in rows]

    def length(self, row: int) -> int:
        return 1


def call(seconds: float = 20, is_gone: Callable[[], bool] = lambda: False) -> Call:
    return Call(time.monotonic() + seconds, 1000 * seconds, is_gone)


def batcher(gate: Gate, **bounds: Any) -> Batcher:
    return Batcher(gate, Bounds(**bounds), lambda rows, seconds: None)


def wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_callers_that_wait_are_answered_in_one_batch_each_with_its_own() -> None:
    gate = Gate()
    queue = batcher(gate)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(queue.answer, [0], call())
        gate.entered.acquire(timeout=20)
        others = [pool.submit(queue.answer, [n, n + 100], call()) for n in range(1, 6)]
        wait_for(lambda: queue.queued == 10)
        gate.open.release(2)
        assert first.result(20) == [0]
        assert [other.result(20) for other in others] == [[2 * n, 2 * n + 200] for n in range(1, 6)]
    assert [len(batch) for batch in gate.batches] == [1, 10]


def test_rows_of_unlike_length_do_not_share_a_run_and_keep_their_places() -> None:
    class Long(Gate):
        def length(self, row: int) -> int:
            return row

    gate = Long()
    gate.open.release(9)
    assert batcher(gate).answer([60, 5, 8, 64, 6, 20], call()) == [120, 10, 16, 128, 12, 40]
    assert gate.batches == [[5, 6, 8], [20], [60, 64]]


def test_a_large_request_lets_others_in_between() -> None:
    gate = Gate()
    queue = batcher(gate, batch=4)
    gate.open.release(100)
    with ThreadPoolExecutor(2) as pool:
        gate.open = threading.Semaphore(0)
        large = pool.submit(queue.answer, list(range(40)), call())
        gate.entered.acquire(timeout=20)
        small = pool.submit(queue.answer, [7000], call())
        wait_for(lambda: queue.queued == 37)
        gate.open.release(100)
        assert large.result(20) == [2 * n for n in range(40)]
        assert small.result(20) == [14000]
    place = next(place for place, batch in enumerate(gate.batches) if 7000 in batch)
    assert place <= 2


def test_a_row_that_fails_spoils_no_others() -> None:
    gate = Gate()
    queue = batcher(gate)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(queue.answer, [0], call())
        gate.entered.acquire(timeout=20)
        bad, good = pool.submit(queue.answer, [-1], call()), pool.submit(queue.answer, [3], call())
        wait_for(lambda: queue.queued == 2)
        gate.open.release(10)
        assert first.result(20) == [0]
        assert good.result(20) == [6]
        with pytest.raises(EngineError):
            bad.result(20)
    assert queue.queued == 0


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    gate = Gate()
    queue = batcher(gate, queue=3)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(queue.answer, [0], call())
        gate.entered.acquire(timeout=20)
        second = pool.submit(queue.answer, [1, 2, 3], call())
        wait_for(lambda: queue.queued == 3)
        with pytest.raises(BusyError) as refused:
            queue.answer([4], call())
        gate.open.release(2)
        assert first.result(20) == [0] and second.result(20) == [2, 4, 6]
    assert int(refused.value.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("seconds", "is_gone", "expected"), [(0.05, False, DeadlineError), (20, True, GoneError)], ids=["late", "gone"]
)
def test_rows_nobody_waits_for_are_not_run(seconds: float, is_gone: bool, expected: type[Exception]) -> None:
    gate = Gate()
    queue = batcher(gate)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(queue.answer, [0], call())
        gate.entered.acquire(timeout=20)
        second = pool.submit(queue.answer, [5], call(seconds, lambda: is_gone))
        wait_for(lambda: queue.queued == 1 or second.done())
        time.sleep(0.1 if expected is DeadlineError else 0)
        gate.open.release(2)
        assert first.result(20) == [0]
        with pytest.raises(expected):
            second.result(20)
    assert gate.batches == [[0]]
    assert queue.queued == 0


def test_batches_are_left_off_where_they_do_not_pay_and_tried_again() -> None:
    payoff = Payoff(32)
    for _ in range(10):
        payoff.note(1, 10, 0.001)
        payoff.note(32, 320, 0.040)
    limits = [payoff.limit() for _ in range(200)]
    assert limits.count(1) > 190
    assert 32 in limits
    for _ in range(100):
        payoff.note(32, 320, 0.010)
    assert payoff.limit() == 32


def test_the_server_says_503_when_its_queue_is_full_and_504_when_it_is_late(serve: Any) -> None:
    class Slow:
        def __init__(self, predictor: Predictor) -> None:
            self._predictor = predictor
            self.open = threading.Event()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._predictor, name)

        def answer(self, rows: Sequence[Any]) -> list[Any]:
            self.open.wait(20)
            return self._predictor.answer(rows)

    running = serve(ServeOptions(bounds=Bounds(queue=1)))
    loaded = running.service.models["reviews"].now
    slow = Slow(loaded.predictor)
    loaded.batcher._predictor = slow
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(running.post, PREDICT, {"items": ["a"]})
        wait_for(lambda: loaded.batcher._leaders == 1 and loaded.batcher.queued == 0)
        late = pool.submit(running.post, PREDICT, {"items": ["b"]}, {"X-Deadline-Ms": "150"})
        wait_for(lambda: loaded.batcher.queued == 1)
        refused = running.post(PREDICT, {"items": ["c"]})
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert late.result(20).status == 504
        slow.open.set()
        assert first.result(20).status == 200
    assert running.post(PREDICT, {"items": ["d"]}).status == 200


def test_a_stop_answers_what_was_sent_and_takes_no_more(serve: Any) -> None:
    running = serve()
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(running.post, PREDICT, {"items": ["x"] * 200}) for _ in range(8)]
        wait_for(lambda: any(answer.done() for answer in sent))
        running.service.is_draining.set()
        running.server.stop()
        statuses = [answer.result(20).status for answer in sent if not answer.exception(20)]
    running.thread.join(20)
    assert set(statuses) == {200}
    with pytest.raises(OSError):
        socket.create_connection((running.host, running.port), timeout=2)


def test_a_turned_link_is_served_without_losing_a_request(
    template: Path, tmp_path: Path, rewrite: Callable[..., None], serve_running: Any
) -> None:
    newer = Path(shutil.copytree(template, tmp_path / "newer"))
    rewrite(newer, lambda plain: plain.update(version="2"))
    current = tmp_path / "current"
    current.symlink_to(template)
    source = Source(current)
    from doorstep.serve.process_options import ServerOptions

    running = serve_running

    service = Service(load_all([source]), is_owned=True)
    watcher = Watcher(service, [source], 1000)
    with running(service, ServerOptions(threads=8)) as shop, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(shop.post, PREDICT, {"items": ["love it"]}) for _ in range(100)]
        aside = tmp_path / "aside"
        aside.symlink_to(newer)
        os.replace(aside, current)
        watcher.look()
        answers += [pool.submit(shop.post, PREDICT, {"items": ["love it"]}) for _ in range(20)]
        assert {answer.result(20).status for answer in answers} == {200}
        assert shop.get("/v1/models/reviews").json["version"] == "2"
        (newer / "manifest.json").write_text("{")
        watcher.look()
        assert shop.post(PREDICT, {"items": ["love it"]}).json["version"] == "2"
        assert b'doorstep_reloads_total{model="reviews",outcome="failed"} 1.0' in shop.get("/metrics").body
    service.close()


def test_quiet_connections_give_way_to_a_good_request(serve: Any) -> None:
    from doorstep.serve.process_options import ServerOptions

    running = serve(None, ServerOptions(threads=4, connections=64))
    quiet = []
    try:
        for _ in range(1000):
            connection = socket.create_connection((running.host, running.port), timeout=20)
            connection.sendall(b"POST /v1/mod")
            quiet.append(connection)
        assert running.post(PREDICT, {"items": ["love it"]}).status == 200
        assert len(running.server._map) <= 64
    finally:
        for connection in quiet:
            connection.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_serves_counts_and_stops(template: Path, processes: int, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, "-m", "doorstep.cli.main", "serve", f"shop={template}", "--port", "0"]
    command += ["--processes", str(processes)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    request.addfinalizer(process.terminate)  # of a test that failed half-way
    assert process.stderr is not None
    ready = []
    while len(ready) < processes:
        line = process.stderr.readline()
        assert line, "the server ended"
        if '"ready"' in line:
            ready.append(json.loads(line))
    import urllib.request

    for _ in range(20):
        ask = urllib.request.Request(f"{ready[0]['url']}v1/models/shop:predict", b'{"items": ["secret words"]}')
        ask.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(ask, timeout=20) as response:
            assert response.status == 200
    with urllib.request.urlopen(f"{ready[0]['url']}metrics", timeout=20) as response:
        page = response.read().decode()
    assert 'doorstep_requests_total{method="POST",route="/v1/models/<name>:predict",status="200"} 20.0' in page
    process.send_signal(signal.SIGTERM)
    log = process.stderr.read()
    assert process.wait(20) == 0
    assert log.count('"stopped"') == processes
    assert "secret" not in log
