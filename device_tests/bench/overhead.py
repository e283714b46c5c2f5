"""doorstep beside a bare script on the same engine and file, and beside transformers; runs take turns."""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from doorstep.manifest import Variant

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over fresh processes: cold start and warm p50 in ms, peak RSS at the first answer in MiB."""

    cold_ms: float
    p50_ms: float
    rss_mib: float
    answer: str


def bare_command(bundle: Path, variant: Variant, text: str, iterations: int, length: int) -> list[str]:
    """Return the command of the bare script for a variant's engine and file."""
    model, tokenizer = str(bundle / variant.entry), str(bundle / "tokenizer.json")
    return [str(HERE / "bare.py"), variant.runtime, model, tokenizer, text, str(iterations), str(length)]


def our_command(bundle: Path, variant: Variant, text: str, iterations: int, length: int) -> list[str]:
    """Return the command of the same job through doorstep."""
    return [str(HERE / "ours.py"), str(bundle), variant.name, text, str(iterations), str(length)]


def pipeline_command(checkpoint: Path, text: str, iterations: int) -> list[str]:
    """Return the command of the same job through `transformers.pipeline`."""
    return [str(HERE / "pipeline.py"), str(checkpoint), text, str(iterations)]


def side_by_side(commands: dict[str, list[str]], rounds: int) -> dict[str, Figures]:
    """Run every command `rounds` times, taking turns, each time in a fresh process."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    warm: dict[str, list[float]] = {name: [] for name in commands}
    answers: dict[str, str] = {}
    for number in range(rounds + 1):
        for name, command in commands.items():
            result = _run(command)
            answers[name] = result["answer"]
            if number:  # the first round warms the file cache
                runs[name].append(result)
                warm[name] += [statistics.median(result["latencies_ms"])] if result["latencies_ms"] else []
    return {
        name: Figures(
            statistics.median(run["cold_ms"] for run in runs[name]),
            statistics.median(warm[name]) if warm[name] else float("nan"),
            statistics.median(run["rss_mib"] for run in runs[name]),
            answers[name],
        )
        for name in commands
    }


def _run(command: list[str]):  # type: ignore[no-untyped-def]
    start = time.monotonic()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip().splitlines()[-1:]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    result["cold_ms"] = 1e3 * (result["first"] - start)
    return result
