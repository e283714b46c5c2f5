"""A device's pull beside curl: the same 200 MB from the same local server, in turns.

Both end with the bytes on the disk (curl's file is flushed after it). doorstep's side is a whole visit: metadata, every
piece verified against the signed release, the whole verified again and staged; without the self-test, for the model
is noise.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device_tests.fleet.world import World, noise, passes
from doorstep.cli.output import table
from doorstep.fleet.clock import SystemClock
from doorstep.fleet.publishing import Plan
from doorstep.fleet.transport import AnyTransport
from doorstep.fleet.updater import Updater
from doorstep.fresh_child import memory_mib

_BYTES = 200_000_000
_BIG = "variants/numpy-int8/model.bin"


def pulling(rounds: int) -> dict[str, Any]:
    """Measure, print and return the section."""
    with tempfile.TemporaryDirectory() as folder:
        world = World.make(Path(folder))
        world.clock.time = SystemClock().now()
        files = {_BIG: noise(_BYTES, 3), "labels.json": b'["a", "b"]'}
        world.publish(1, files, piece_size=Plan().piece_size)
        blob = max((world.depot_folder / "blobs").rglob("*"), key=lambda path: path.stat().st_size)
        with _server(world.depot_folder) as address:
            url = f"{address}/{blob.relative_to(world.depot_folder)}"
            curl, ours = [], []
            for turn in range(rounds):
                curl.append(_curl(url, Path(folder) / "curl.bin"))
                ours.append(_ask(world.folder, address, turn))
            idle = _ask(world.folder, address, rounds - 1)
            manifest = max(path.stat().st_size for path in (world.depot_folder / "metadata").rglob("*"))
    found = {
        "curl_s": statistics.median(curl), "fetch_s": statistics.median(one["seconds"] for one in ours),
        "cpu_s": statistics.median(one["cpu_s"] for one in ours), "rss_mib": max(one["rss_mib"] for one in ours),
        "idle_requests": idle["requests"], "idle_bytes": idle["received"], "largest_metadata_bytes": manifest,
    }  # fmt: skip
    ratio = found["curl_s"] / found["fetch_s"]
    print(f"pull of {_BYTES / 1e6:.0f} MB from a local server, {rounds} turns, medians")
    rows: list[list[object]] = [
        ["curl, file flushed", f"{found['curl_s']:.2f}", f"{_BYTES / 1e6 / found['curl_s']:.0f}", None, None],
        ["doorstep: a visit, verified and staged", f"{found['fetch_s']:.2f}", f"{_BYTES / 1e6 / found['fetch_s']:.0f}",
         f"{ratio:.2f}", f"{found['rss_mib']:.0f}"],
    ]  # fmt: skip
    print(table(("", "s", "MB/s", "speed beside curl", "peak RSS MiB"), rows))
    print(f"an idle visit: {idle['requests']} requests, {idle['received']} bytes of bodies\n")
    return {**found, "speed_ratio": ratio}


def _curl(url: str, file: Path) -> float:
    file.unlink(missing_ok=True)
    began = time.perf_counter()
    subprocess.run(["curl", "-sS", "-o", str(file), url], check=True)
    subprocess.run(["sync", str(file)], check=True)
    return time.perf_counter() - began


def _ask(folder: Path, address: str, turn: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "device_tests.bench.pulling", str(folder), address, f"device-{turn}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _visit(folder: Path, address: str, device: str) -> dict[str, Any]:
    """One visit in this process; golden examples are left out, since the model is noise."""
    settings = World(folder).settings(device, depots=(address,))
    counted = _Counted(AnyTransport(settings.network))
    began, cpu = time.perf_counter(), time.process_time()
    outcome = Updater(settings, clock=SystemClock(), transport=counted, prover=passes).run()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = memory_mib("VmHWM")
    return {"kind": outcome.kind, "seconds": seconds, "cpu_s": cpu, "rss_mib": peak,
            "requests": counted.requests, "received": counted.received}  # fmt: skip


class _Counted:
    """A transport that counts requests and the bytes that were read."""

    def __init__(self, transport: AnyTransport) -> None:
        self._transport = transport
        self.requests = self.received = 0

    def get(self, url: str, first: int | None = None, last: int | None = None) -> "_CountedReply":
        self.requests += 1
        return _CountedReply(self._transport.get(url, first, last), self)


class _CountedReply:
    def __init__(self, reply: Any, counts: _Counted) -> None:
        self._reply, self._counts = reply, counts
        self.status, self.headers = reply.status, reply.headers

    def read(self, most: int) -> bytes:
        data: bytes = self._reply.read(most)
        self._counts.received += len(data)
        return data

    def close(self) -> None:
        self._reply.close()


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "device_tests.bench.static_server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.terminate()


if __name__ == "__main__":
    print(json.dumps(_visit(Path(sys.argv[1]), sys.argv[2], sys.argv[3])))
