"""Stages: jobs in processes of their own, whose outputs are kept by the hash of their inputs.

One crashing converter takes nothing else down, and nothing is computed twice. A kept output is used only while its
files have the digests written when it was made; anything else is computed again.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from doorstep.errors import ConversionError
from doorstep.files import folder_aside

_INDEX = "stage.json"
_TOOLS = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "litert-torch", "ai-edge-quantizer")

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
    """

    name: str
    job: str
    arguments: Mapping[str, Any]
    inputs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Digest of what the output depends on: inputs, arguments, the job's own code and the tools' versions."""
        module = importlib.util.find_spec(self.job.partition(":")[0])
        source = Path(module.origin).read_text(encoding="utf-8") if module and module.origin else ""
        values = {name: value for name, value in self.arguments.items() if not _is_path(value)}
        parts = [self.job, source, list(self.inputs), values, {tool: _version(tool) for tool in _TOOLS}]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Output:
    """What a stage left: a folder, its result, and a digest for the stages behind it."""

    folder: Path
    result: dict[str, Any]
    digest: str
    is_cached: bool


class StageRunner:
    """Runs stages, several at a time if asked from several threads, and stops them all on `close`.

    Args:
        cache: kept outputs go below it.
        logs: what a job prints goes to `<logs>/<stage>.log`.
    """

    def __init__(self, cache: Path, logs: Path) -> None:
        self._cache = cache
        self._logs = logs
        self._live: set[subprocess.Popen[str]] = set()
        self._is_closed = False

    def run(self, stage: Stage, report: Report, threads: int) -> Output:
        """Return the kept output of `stage`, or run it in a new process of `threads` threads.

        Raises:
            ConversionError: the process failed; the message ends with its last line, the log holds all of them.
        """
        folder = self._cache / "stages" / f"{stage.name}-{stage.key}"
        if (kept := _recall(folder)) is not None:
            return kept
        shutil.rmtree(folder, ignore_errors=True)
        with folder_aside(folder) as aside:
            result = self._spawn(stage, aside, report, threads)
            index = {"result": result, "files": _digests(aside)}
            (aside / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        made = _recall(folder)
        if made is None:
            raise ConversionError(f"{stage.name}: its output in {folder} changed while it was read; is the disk sound?")
        return replace(made, is_cached=False)

    def close(self) -> None:
        """Kill every job that still runs."""
        self._is_closed = True
        for process in list(self._live):
            process.kill()

    def _spawn(self, stage: Stage, aside: Path, report: Report, threads: int) -> dict[str, Any]:
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{stage.name}.log"
        message = {"job": stage.job, "out": str(aside), "arguments": dict(stage.arguments)}
        command = [sys.executable, "-m", "doorstep_converters.worker", json.dumps(message)]
        with open(log, "wb") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                env=_environment(threads),
                text=True,
            )
            self._live.add(process)
            try:
                if self._is_closed:
                    raise ConversionError(f"{stage.name}: stopped")
                last = _listen(process, report)
            finally:
                process.kill()
                process.wait()
                self._live.discard(process)
        if process.returncode != 0 or last is None:
            raise ConversionError(f"{stage.name}: {_last_line(log, process.returncode)}")
        return last


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


def _listen(process: "subprocess.Popen[str]", report: Report) -> dict[str, Any] | None:
    """Read the worker's messages: `{"progress": share}` while it works, `{"result": …}` at the end."""
    result: dict[str, Any] | None = None
    assert process.stdout is not None  # noqa: S101 -- opened with PIPE
    for line in process.stdout:
        message = json.loads(line)
        if "progress" in message:
            report(float(message["progress"]))
        result = message.get("result", result)
    process.wait()
    return result


def _last_line(log: Path, code: int) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    reason = lines[-1][:300] if lines else "no message"
    return f"{reason} (exit code {code}; all of it: {log})"


def _recall(folder: Path) -> Output | None:
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        if index["files"] != _digests(folder):
            return None
        digest = hashlib.sha256(json.dumps(index["files"], sort_keys=True).encode()).hexdigest()
        return Output(folder, index["result"], digest, is_cached=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != _INDEX:
            with open(path, "rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _version(tool: str) -> str:
    return version(tool) if importlib.util.find_spec(tool.replace("-", "_")) else ""
