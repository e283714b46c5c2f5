"""One process of a peer: its script in its environment, told by a JSON file what to do."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_tests.bench.catalogue import Peer
from device_tests.bench.environments import CACHE, SkippedError, call, environment

_SCRIPTS = Path(__file__).parent / "peers"
_ENVIRON = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "made/inductor"),
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True, slots=True)
class Task:
    """What all peers are given; `rounds` fresh processes each, `iterations` timed answers in each."""

    checkpoint: Path
    text: str
    data: Path
    iterations: int
    rounds: int


def made_folder(peer: Peer, task: Task) -> Path:
    """Return where a peer's export is kept: another checkpoint, script or version makes another."""
    weights = (task.checkpoint / "model.safetensors").stat()
    parts = [peer.name, str(task.checkpoint), str(weights.st_size), str(weights.st_mtime_ns), str(dict(peer.options))]
    lists = [_SCRIPTS / f"requirements-{name}.txt" for name in (peer.environment, peer.maker) if name]
    scripts = [_SCRIPTS / f"{name}.py" for name in (peer.script, "head")]
    parts += [path.read_text(encoding="utf-8") for path in (*scripts, *lists)]
    return CACHE / "made" / f"{peer.script}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def make(peer: Peer, task: Task, after: Path | None) -> Path:
    """Export, quantize or distil for a peer, or take what an earlier run made.

    Raises:
        SkippedError: its script failed, or the export it starts from is not there.
    """
    made = made_folder(peer, task)
    if not peer.is_made or made.is_dir():
        return made
    if after and not after.is_dir():
        raise SkippedError(f"it starts from the export of {peer.after}, which is not there")
    maker = environment(peer.maker or peer.environment)
    aside = made.with_name(f"{made.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    options = {"after": str(after)} if after else {}
    run("make", peer, maker.python, _job(peer, task, aside, options))
    aside.rename(made)
    return made


def answer(peer: Peer, task: Task, python: Path, made: Path, what: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line that one measuring process printed; `what` replaces parts of its job.

    Raises:
        SkippedError: it failed.
    """
    job = {**_job(peer, task, made, {}), **what}
    result: dict[str, Any] = json.loads(run("measure", peer, python, job).strip().splitlines()[-1])
    return result


def run(verb: str, peer: Peer, python: Path, job: Mapping[str, Any]) -> str:
    """Run a peer's script and return what it printed.

    Raises:
        SkippedError: it failed.
    """
    path = CACHE / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return call([str(python), str(_SCRIPTS / f"{peer.script}.py"), verb, str(path)], {**os.environ, **_ENVIRON})


def _job(peer: Peer, task: Task, made: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "checkpoint": str(task.checkpoint),
        "made": str(made),
        "text": task.text,
        "data": str(task.data),
        "iterations": 0,
        "is_scored": False,
        "options": {**peer.options, **options},
    }
