"""Processes that train together, started by `accelerate launch`: over NCCL on GPUs, over gloo on CPUs.

The launcher gives each a session of its own, so a kill of the launcher's group would leave them behind; hence
`die_with_parent`.
"""

import ctypes
import json
import os
import re
import signal
import time
from pathlib import Path

_LAUNCH = (
    "-m", "accelerate.commands.launch", "--multi_gpu",  # its name for torch.distributed.run, which CPUs need as well
    "--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no",
)  # fmt: skip
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_FAILURE = re.compile(r"rank +: (\d+) .*?traceback : (.*?)$", re.DOTALL | re.MULTILINE)
_LONGEST = 1000


def launch_arguments(count: int) -> list[str]:
    """Return what stands between Python and `-m MODULE` for `count` processes."""
    return [*_LAUNCH, "--num_processes", str(count)] if count > 1 else []


def processes() -> int:
    """Return how many train together, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share_of(batch: int) -> int:
    """Return this process's texts of a step's `batch`: a step learns from as many texts, however many share them."""
    return max(1, batch // processes())


def is_first() -> bool:
    """Tell whether this process is the one that speaks and writes; one that trains alone is."""
    return os.environ.get("RANK", "0") == "0"


def die_with_parent() -> None:
    """Let this process be killed when its parent ends."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def is_launched() -> bool:
    """Tell whether this process was started by a launcher, to train with others."""
    return "RANK" in os.environ


def report_failure(reason: str) -> None:
    """Tell the launcher why this process ends, in the file it names (torch.distributed.elastic's error file)."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        message = {"message": " ".join(reason.split())[:_LONGEST], "timestamp": int(time.time())}
        Path(path).write_text(json.dumps(message), encoding="utf-8")


def first_failure(log: str) -> str | None:
    """Return which process ended the others and why, from the launcher's summary in its log; None without one.

    A process that was killed goes before those that fail because they lost it; SIGTERM is what the launcher itself
    sends to those that are left.
    """
    found = [(int(rank), reason) for rank, reason in _FAILURE.findall(log)]
    if not found:
        return None
    killed = [failure for failure in found if re.match(r"Signal (?!15\b)", failure[1])]
    rank, reason = (killed or found[-1:])[0]  # the launcher names the root cause last
    return f"process {rank} (counted from 0): {reason}"
