"""Peers made ready, then measured in fresh processes that take turns."""

import hashlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_tests.bench.catalogue import Peer
from device_tests.bench.environments import CACHE, Environment, SkippedError, call, environment, megabytes

_SCRIPTS = Path(__file__).parent / "peers"
_QUIET = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "DO_NOT_TRACK": "1",
    "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "made/inductor"), "PYTHONWARNINGS": "ignore",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """What all peers are given; `rounds` fresh processes each."""

    checkpoint: Path
    text: str
    data: Path
    iterations: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Row:
    """One peer: sizes in 10⁶ bytes, times in ms, memory in MiB; medians over the rounds."""

    peer: str
    install_mb: float
    model_mb: float
    cold_ms: float
    rss_mib: float
    batch_rss_mib: float
    p50_ms: float
    texts_per_s: float
    accuracy: float


@dataclass(slots=True)
class _Runner:
    """A peer that is ready, and what its processes have said so far."""

    peer: Peer
    place: Environment
    made: Path
    runs: list[dict[str, Any]]


def measure(peers: Sequence[Peer], task: Task) -> tuple[list[Row], dict[str, str]]:
    """Return a row for each peer that could be measured, and why the others could not."""
    runners: list[_Runner] = []
    skipped: dict[str, str] = {}
    folders = {peer.name: _folder(peer, task) for peer in peers}
    for peer in peers:
        try:
            runners.append(_ready(peer, task, folders))
        except SkippedError as reason:
            skipped[peer.name] = str(reason)
    for number in range(task.rounds + 1):
        for runner in list(runners):
            _say(f"round {number} of {task.rounds}: {runner.peer.name}")
            try:
                runner.runs.append(_measured(runner, task, number, folders))
            except SkippedError as reason:
                skipped[runner.peer.name] = str(reason)
                runners.remove(runner)
    return [_row(runner) for runner in runners], skipped


def _ready(peer: Peer, task: Task, folders: dict[str, Path]) -> _Runner:
    place = environment(peer.environment, has_doorstep=peer.has_doorstep)
    made = folders[peer.name]
    if peer.is_made and not made.is_dir():
        maker = environment(peer.maker) if peer.maker else place
        _say(f"exporting for {peer.name} …")
        aside = made.with_name(f"{made.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        call(_command(maker, peer, "make", _job(peer, task, aside, folders)), {**os.environ, **_QUIET})
        aside.rename(made)
    return _Runner(peer, place, made, [])


def _measured(runner: _Runner, task: Task, number: int, folders: dict[str, Path]) -> dict[str, Any]:
    job = _job(runner.peer, task, runner.made, folders)
    job["iterations"] = task.iterations if number else 0  # the first round only warms the file cache
    job["is_scored"] = number == 1
    command = _command(runner.place, runner.peer, "measure", job)
    start = time.monotonic()
    result: dict[str, Any] = json.loads(call(command, {**os.environ, **_QUIET}).strip().splitlines()[-1])
    result["cold_ms"] = 1e3 * (result["first"] - start)
    return result


def _job(peer: Peer, task: Task, made: Path, folders: dict[str, Path]) -> dict[str, Any]:
    options = dict(peer.options)
    if peer.after:
        options["after"] = str(folders.get(peer.after, ""))
    return {
        "checkpoint": str(task.checkpoint), "made": str(made), "text": task.text, "data": str(task.data),
        "iterations": 0, "is_scored": False, "options": options,
    }  # fmt: skip


def _command(place: Environment, peer: Peer, verb: str, job: dict[str, Any]) -> list[str]:
    path = CACHE / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return [str(place.python), str(_SCRIPTS / f"{peer.script}.py"), verb, str(path)]


def _folder(peer: Peer, task: Task) -> Path:
    """Return where a peer's export is kept: another checkpoint, script or version makes another."""
    weights = (task.checkpoint / "model.safetensors").stat()
    parts = [peer.name, str(task.checkpoint), str(weights.st_size), str(weights.st_mtime_ns), str(dict(peer.options))]
    lists = [_SCRIPTS / f"requirements-{name}.txt" for name in (peer.environment, peer.maker) if name]
    parts += [path.read_text(encoding="utf-8") for path in [_SCRIPTS / f"{peer.script}.py", *lists]]
    return CACHE / "made" / f"{peer.script}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def _row(runner: _Runner) -> Row:
    runs = runner.runs[1:]

    def middle(key: str) -> float:
        return statistics.median(run[key] for run in runs)

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
