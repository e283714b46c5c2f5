"""Is a staged release good here? Asked in a process with limits, which may crash, hang or eat memory as it likes.

The process answers the bundle's golden examples in the variant this device would choose, and times them.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from doorstep import fresh
from doorstep.fleet.channel import Health
from doorstep.fresh_child import memory_mib

_CHILD = Path(fresh.__file__).with_name("fresh_child.py")
_POLL_S = 0.05
_LEAST_ROUNDS = 20
_MOST_OUTPUT_BYTES = 1 << 20
_OPEN_FILES = 512


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the process may take: wall-clock time, memory (0 for no bound), and p95 of an answer (0 for no bound)."""

    timeout_s: float = 120.0
    max_rss_mib: float = 0.0
    max_p95_ms: float = 0.0

    @classmethod
    def of(cls, health: Health) -> "Bounds":
        """Return the bounds a channel sets."""
        return cls(max_rss_mib=health.max_rss_mib or 0.0, max_p95_ms=health.max_p95_ms or 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the self-test found; `reason` is empty where it passed."""

    reason: str
    variant: str = ""
    p95_ms: float = 0.0
    peak_rss_mib: float = 0.0

    @property
    def is_passed(self) -> bool:
        """Tell whether the release may go on trial."""
        return not self.reason


def prove(folder: Path, bounds: Bounds) -> Verdict:
    """Run the self-test of the bundle in `folder`; whatever happens to its process is a verdict, not an error."""
    message = {
        "call": "doorstep.fleet.selftest:answer", "plan": {"bundle": str(folder)}, "cpus": (), "imports": (),
        "path": sys.path,
    }  # fmt: skip
    with tempfile.TemporaryFile() as into, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
        into.write(json.dumps(message).encode())
        into.seek(0)
        command = [*fresh.python_command(), "-P", str(_CHILD)]
        process = subprocess.Popen(command, stdin=into, stdout=out, stderr=complaints, start_new_session=True)
        problem, peak = _watch(process, bounds)
        if problem:
            return Verdict(problem, peak_rss_mib=peak)
        out.seek(0)
        complaints.seek(0)
        if process.returncode != 0:
            text = complaints.read(_MOST_OUTPUT_BYTES).decode(errors="replace")
            return Verdict(f"the self-test failed: {fresh.reason(process.returncode, text)}", peak_rss_mib=peak)
        found = _last_line(out.read(_MOST_OUTPUT_BYTES))
    if found is None:
        return Verdict("the self-test gave no result", peak_rss_mib=peak)
    return _judge(found, bounds, peak)


def answer(plan: dict[str, Any]) -> dict[str, Any]:
    """Be the process."""
    _limit_this_process()
    from doorstep.golden import compare, item_of, load_golden
    from doorstep.measure import percentile
    from doorstep.predictor import Predictor

    with Predictor.load(plan["bundle"]) as predictor:
        golden = load_golden(predictor.bundle)
        differences = compare(predictor, golden)
        items = [item_of(predictor.bundle, example) for example in golden.examples]
        latencies = []
        for number in range(max(_LEAST_ROUNDS, len(items)) if items else 0):
            start = time.perf_counter()
            predictor.predict(items[number % len(items)])
            latencies.append(1e3 * (time.perf_counter() - start))
        return {
            "variant": predictor.variant.name,
            "examples": len(items),
            "differences": [asdict(difference) for difference in differences[:3]],
            "p95_ms": percentile(sorted(latencies), 95) if latencies else 0.0,
            "peak_rss_mib": memory_mib("VmHWM"),
        }


def _limit_this_process() -> None:
    """No core dump, no large files, few open ones; memory is watched from outside, where it can be told truly."""
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 64 << 20),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (bound, bound))
    os.nice(5)


def _watch(process: "subprocess.Popen[bytes]", bounds: Bounds) -> tuple[str, float]:
    """Wait for the process; return why it was killed, or "", and the most memory it was seen to take (MiB)."""
    end, peak = time.monotonic() + bounds.timeout_s, 0.0
    while True:
        try:
            process.wait(_POLL_S)
            return "", peak
        except subprocess.TimeoutExpired:
            peak = max(peak, _rss_mib(process.pid))
        if bounds.max_rss_mib and peak > bounds.max_rss_mib:
            _kill(process)
            return f"the self-test took {peak:.0f} MiB of memory, {bounds.max_rss_mib:.0f} are allowed", peak
        if time.monotonic() > end:
            _kill(process)
            return f"the self-test was not done after {bounds.timeout_s:.0f} s", peak


def _kill(process: "subprocess.Popen[bytes]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _rss_mib(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def _last_line(output: bytes) -> dict[str, Any] | None:
    lines = output.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _judge(found: dict[str, Any], bounds: Bounds, peak: float) -> Verdict:
    reason = ""
    p95, peak = float(found["p95_ms"]), max(peak, float(found["peak_rss_mib"]))
    if not found["examples"]:
        reason = "the bundle holds no golden examples, so nothing can be proven"
    elif found["differences"]:
        first = found["differences"][0]
        reason = f"golden example {first['place']}: expected {first['expected']!r}, got {first['got']!r}"
    elif bounds.max_p95_ms and p95 > bounds.max_p95_ms:
        reason = f"p95 is {p95:.1f} ms, {bounds.max_p95_ms:.1f} are allowed"
    elif bounds.max_rss_mib and peak > bounds.max_rss_mib:
        reason = f"the self-test took {peak:.0f} MiB of memory, {bounds.max_rss_mib:.0f} are allowed"
    return Verdict(reason, str(found["variant"]), p95, peak)
