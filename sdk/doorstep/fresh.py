"""Calls made in fresh processes, so that neither memory nor caches of this one are measured with them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorstep.errors import EngineError, UsageError

PYTHON_VARIABLE = "DOORSTEP_PYTHON_ARGV"
_CHILD = Path(__file__).with_name("fresh_child.py")
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Call:
    """What a fresh process shall do.

    Attributes:
        function: `module:function`; it is given `plan` and returns a dict of plain data.
        cpus: CPUs it may run on; empty for all that this process may use.
        imports: modules to import first; the result's `rss_mib` then tells the memory after each.
    """

    function: str
    plan: dict[str, Any]
    cpus: tuple[int, ...] = ()
    imports: tuple[str, ...] = ()


def call_fresh(call: Call, subject: str) -> dict[str, Any]:
    """Return what the call returned, and `spawned`: the time.monotonic() at which its process was asked for.

    Raises:
        EngineError: the process failed, was killed, or took more than ten minutes.
    """
    message = {
        "call": call.function,
        "plan": call.plan,
        "cpus": call.cpus,
        "imports": call.imports,
        "path": sys.path,
    }
    text = json.dumps(message)
    spawned = time.monotonic()
    command = [*python_command(), "-P", str(_CHILD)]  # -P: the folder of the script is no place for imports
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{subject}: the measuring process took more than {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise EngineError(f"{subject}: the measuring process failed: {reason(done.returncode, done.stderr)}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    result["spawned"] = spawned
    return result


def python_command() -> Sequence[str]:
    """Return how to start Python: under an emulator, `sys.executable` may not start by itself."""
    text = os.environ.get(PYTHON_VARIABLE)
    if not text:
        return [sys.executable]
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise UsageError(f'{PYTHON_VARIABLE}: expected a JSON list of words, such as ["python3"], got {text[:80]!r}')
    return words


def reason(code: int, stderr: str) -> str:
    """Say in words why a process failed: its signal, else its last complaint."""
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"killed by {known.get(-code, f'signal {-code}')}"
    lines = stderr.strip().splitlines() or [f"exit code {code}"]
    return lines[-1][:300]
