"""Stages: jobs in processes of their own, whose outputs are kept by the hash of their inputs.

One crashing converter takes nothing else down, and nothing is computed twice. A kept output is used only while its
files have the digests written when it was made; anything else is computed again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from doorstep.errors import ConversionError
from doorstep.files import folder_aside
from doorstep_converters.curves import CURVES, keep_curves, make_room, show_curves
from doorstep_converters.forks import Fork, start_fork
from doorstep_converters.sources import source_digest
from doorstep_converters.together import first_failure, launch_arguments

_INDEX = "stage.json"
_POLL_S = 0.05
_TOOLS = (
    "accelerate", "ai-edge-litert", "ai-edge-quantizer", "datasets", "doorstep", "litert-torch", "nncf", "numpy",
    "onnx", "onnx-ir", "onnxruntime", "onnxscript", "openvino", "peft", "pillow", "pypinyin", "scikit-learn",
    "scipy", "sentencepiece", "skl2onnx", "tokenizers", "torch", "transformers",
)  # fmt: skip

_OURS = "doorstep_converters."

_Process = subprocess.Popen[str] | Fork

Report = Callable[[float], None]
"""Called with the share of a stage that is done (0 to 1)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One job.

    Attributes:
        name: shown to people and part of the cache's folder name.
        job: `module:function`, called as `function(out=folder, **arguments)`; returns plain JSON values.
        arguments: plain JSON values; paths as text.
        inputs: digests of everything the arguments point at.
        is_resumable: the job keeps its state in `channel.kept` and goes on from there after a kill.
        processes: more than one train together, started by `accelerate launch`.
        is_bare: the job does what a device does, so nothing but its own imports may be loaded where it runs.
    """

    name: str
    job: str
    arguments: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    is_resumable: bool = False
    processes: int = 1
    is_bare: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether a kill leaves something to go on from: `channel.kept`, or a folder that the caller names."""
        return self.is_resumable or "resume" in self.arguments

    @property
    def key(self) -> str:
        """Digest of what the output depends on: inputs, arguments, the job's own code and the tools' versions."""
        source = source_digest(self.job.partition(":")[0])
        values = {name: value for name, value in self.arguments.items() if not _is_path(value)}
        parts = [self.job, source, list(self.inputs), values, versions()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Output:
    """What a stage left.

    Attributes:
        digest: of its files, for the stages behind it; without the curves of a training, which have times in them.
    """

    folder: Path
    result: dict[str, Any]
    digest: str
    is_cached: bool


class StageRunner:
    """Runs stages, several at a time if asked from several threads, and stops them all on `close`.

    Args:
        cache: kept outputs go below it.
        logs: what a job prints goes to `<logs>/<stage>.log`, a training's curves for TensorBoard to `<logs>/<stage>/`.
    """

    def __init__(self, cache: Path, logs: Path) -> None:
        self._cache = cache
        self._logs = logs
        self._live: set[_Process] = set()
        self._is_closed = False

    def run(self, stage: Stage, report: Report, threads: int) -> Output:
        """Return the kept output of `stage`, or run it in a new process of `threads` threads.

        Raises:
            ConversionError: the process failed; the message ends with its last line, the log holds all of them.
        """
        folder = self._cache / "stages" / f"{stage.name}-{stage.key}"
        output = recall(folder)
        if output is None:
            with self._alone(folder.name):
                output = recall(folder)  # another process may have made it while this one waited
                if output is None:
                    output = self._make(stage, folder, report, threads)
        self.show_curves(folder)
        return output

    def show_curves(self, folder: Path) -> None:
        """Put the curves that an output holds, if any, among the logs, named by its stage."""
        show_curves(folder, self._logs / folder.name.rpartition("-")[0])

    def close(self) -> None:
        """Kill every job that still runs."""
        self._is_closed = True
        for process in list(self._live):
            _kill(process)

    def _make(self, stage: Stage, folder: Path, report: Report, threads: int) -> Output:
        unfinished = self._unfinished(folder.name) if stage.is_resumable else None
        shown, begun = self._logs / stage.name, self._cache / "begun" / folder.name
        shutil.rmtree(folder, ignore_errors=True)
        make_room(shown, begun, stage.goes_on)
        with folder_aside(folder) as aside:
            start = time.monotonic()
            result = self._spawn(stage, aside, unfinished, report, threads)
            result.setdefault("seconds", round(time.monotonic() - start, 2))
            keep_curves(shown, aside, begun)
            index = {"result": result, "files": _digests(aside)}
            (aside / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        made = recall(folder)
        if made is None:
            raise ConversionError(f"{stage.name}: its output in {folder} changed while it was read; is the disk sound?")
        return replace(made, is_cached=False)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Wait until no other process makes this stage."""
        (self._cache / "locks").mkdir(parents=True, exist_ok=True)
        with open(self._cache / "locks" / name, "w", encoding="ascii") as lock:
            while not _lock(lock):
                if self._is_closed:
                    raise ConversionError(f"{name}: stopped while another process makes it")
                time.sleep(_POLL_S)
            yield

    def _unfinished(self, name: str) -> Path:
        """Return the folder a resumable stage goes on from."""
        folder = self._cache / "unfinished" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _spawn(
        self, stage: Stage, aside: Path, unfinished: Path | None, report: Report, threads: int
    ) -> dict[str, Any]:
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{stage.name}.log"
        message = {
            "job": stage.job,
            "out": str(aside),
            "arguments": dict(stage.arguments),
            "logs": str(self._logs / stage.name),
        }
        if unfinished is not None:
            message["kept"] = str(unfinished)
        with open(log, "wb") as errors:
            process = _fork(stage, message, threads, errors) or _start(stage, message, threads, errors)
            last = self._follow(stage, process, report)
            if isinstance(process, Fork) and process.is_refused:
                process = _start(stage, message, threads, errors)
                last = self._follow(stage, process, report)
        if process.returncode != 0 or last is None:
            raise ConversionError(f"{stage.name}: {_last_line(log, process.returncode or 0)}")
        return last

    def _follow(self, stage: Stage, process: "_Process", report: Report) -> dict[str, Any] | None:
        """Listen to a job to its end."""
        self._live.add(process)
        try:
            if self._is_closed:
                raise ConversionError(f"{stage.name}: stopped")
            return _listen(process, report)
        finally:
            _kill(process)
            process.wait()
            self._live.discard(process)


def versions() -> dict[str, str]:
    """Return the version of every library that jobs compute with; "" for one that is not installed."""
    return {tool: _version(tool) for tool in _TOOLS}


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recall(folder: Path) -> Output | None:
    """Return the output that a stage left in `folder`; None where a file is not as it was made, or none is there."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        if index["files"] != _digests(folder):
            return None
        return Output(folder, index["result"], _digest(index["files"]), is_cached=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _lock(file: IO[str]) -> bool:
    """Take the lock of an open file; False where another has it."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _fork(stage: Stage, message: dict[str, Any], threads: int, log: IO[bytes]) -> Fork | None:
    """Start one of our jobs that is a single process with torch loaded; None where it has to be a new one."""
    if stage.is_bare or stage.processes > 1 or not stage.job.startswith(_OURS):
        return None
    return start_fork(message, _environment(threads), threads, log)


def _start(stage: Stage, message: dict[str, Any], threads: int, log: IO[bytes]) -> "subprocess.Popen[str]":
    """Start a job in an interpreter of its own, or in several that train together."""
    worker = ["-m", "doorstep_converters.worker", json.dumps(message)]
    return subprocess.Popen(
        [sys.executable, *launch_arguments(stage.processes), *worker],
        stdout=subprocess.PIPE,
        stderr=log,
        stdin=subprocess.DEVNULL,
        env=_environment(max(1, threads // stage.processes)),
        text=True,
        start_new_session=stage.processes > 1,
    )


def _kill(process: "_Process") -> None:
    """Kill a job, and all processes of one that has a session of its own."""
    if isinstance(process, Fork):
        process.kill()
        return
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "DOORSTEP_THREADS")
    quiet = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return {**os.environ, **quiet, **dict.fromkeys(names, str(threads))}


def _listen(process: "_Process", report: Report) -> dict[str, Any] | None:
    """Read the worker's messages: `{"progress": share}` while it works, `{"result": …}` at the end."""
    result: dict[str, Any] | None = None
    assert process.stdout is not None  # noqa: S101 -- a pipe or a socket
    for line in process.stdout:
        message = json.loads(line)
        if "progress" in message:
            report(float(message["progress"]))
        result = message.get("result", result)
    process.wait()
    return result


def _last_line(log: Path, code: int) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    reason = (first_failure(text) or lines[-1])[:300] if lines else "no message"
    return f"{reason} (exit code {code}; all of it: {log})"


def _digest(files: Mapping[str, str]) -> str:
    own = {path: digest for path, digest in files.items() if not path.startswith(f"{CURVES}/")}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _INDEX:
            found[path.relative_to(folder).as_posix()] = file_digest(path)
    return found


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _version(tool: str) -> str:
    try:
        return version(tool)
    except PackageNotFoundError:
        return ""
