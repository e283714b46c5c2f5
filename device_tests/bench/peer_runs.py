"""Peers made ready, then measured in fresh processes that take turns."""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_tests.bench.catalogue import Peer
from device_tests.bench.environments import Environment, SkippedError, environment, megabytes
from device_tests.bench.peer_process import Task, answer, made_folder, make


@dataclass(frozen=True, slots=True)
class Row:
    """One peer: sizes in 10⁶ bytes, times in ms, memory in MiB; medians over the rounds.

    Attributes:
        rss_mib: the peak until the first answer; `batch_rss_mib` until the last.
    """

    peer: str
    install_mb: float
    model_mb: float
    cold_ms: float
    rss_mib: float
    batch_rss_mib: float
    p50_ms: float
    texts_per_s: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class _Runner:
    """A peer that is ready, and what its processes have said so far."""

    peer: Peer
    place: Environment
    made: Path
    runs: list[dict[str, Any]] = field(default_factory=list)


def measure(peers: Sequence[Peer], task: Task) -> tuple[list[Row], dict[str, str]]:
    """Return a row for each peer that could be measured, and why the others could not."""
    runners: list[_Runner] = []
    skipped: dict[str, str] = {}
    folders = {peer.name: made_folder(peer, task) for peer in peers}
    for peer in peers:
        _say(f"making ready: {peer.name}")
        try:
            place = environment(peer.environment, has_doorstep=peer.has_doorstep)
            after = folders.get(peer.after, Path("nowhere")) if peer.after else None
            runners.append(_Runner(peer, place, make(peer, task, after)))
        except SkippedError as reason:
            skipped[peer.name] = str(reason)
    for number in range(task.rounds + 1):
        for runner in list(runners):
            _say(f"round {number} of {task.rounds}: {runner.peer.name}")
            try:
                runner.runs.append(_measured(runner, task, number))
            except SkippedError as reason:
                skipped[runner.peer.name] = str(reason)
                runners.remove(runner)
    return [_row(runner) for runner in runners], skipped


def _measured(runner: _Runner, task: Task, number: int) -> dict[str, Any]:
    """Return one fresh process's figures; round 0 only warms the file cache."""
    what = {"iterations": task.iterations if number else 0, "is_scored": number == 1}
    start = time.monotonic()
    result = answer(runner.peer, task, runner.place.python, runner.made, what)
    result["cold_ms"] = 1e3 * (result["first"] - start)
    return result


def _row(runner: _Runner) -> Row:
    runs = runner.runs[1:]

    def middle(key: str) -> float:
        return float(statistics.median(run[key] for run in runs))

    return Row(
        peer=runner.peer.name,
        install_mb=runner.place.megabytes,
        model_mb=sum(map(megabytes, runner.peer.files or [runner.made])),
        cold_ms=middle("cold_ms"),
        rss_mib=middle("rss_mib"),
        batch_rss_mib=middle("batch_rss_mib"),
        p50_ms=statistics.median(statistics.median(run["latencies_ms"]) for run in runs),
        texts_per_s=middle("texts_per_s"),
        accuracy=runs[0]["accuracy"],
    )


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
