"""The other side of `stages`: `python -m doorstep_converters.worker MESSAGE` runs one job and speaks JSON lines."""

import importlib
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

from doorstep.errors import DoorstepError
from doorstep_converters.together import die_with_parent, is_first, is_launched, report_failure


class Channel:
    """Sends messages to the parent; everything else a library prints goes to the log.

    Attributes:
        kept: folder that outlives a kill, for a stage that can go on where it stopped; None for the others.
        logs: folder for TensorBoard's curves; None where nobody will look at them.
    """

    def __init__(self, stream: TextIO, kept: Path | None = None, logs: Path | None = None) -> None:
        self._stream = stream
        self._notes: list[str] = []
        self.kept = kept
        self.logs = logs

    def progress(self, share: float) -> None:
        """Tell the share that is done (0 to 1)."""
        self._send({"progress": round(share, 4)})

    def note(self, text: str) -> None:
        """Tell the user, beside the result, of something that went otherwise than asked; the log has it at once."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 -- the log
        self._notes.append(text)

    def result(self, value: dict[str, Any]) -> None:
        """Send what came of the job, with every note and the most memory it took, a GPU's as well where it used one."""
        peaks = {"peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            peaks["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        notes = {"notes": self._notes} if self._notes else {}
        self._send({"result": {**peaks, **value, **notes}})

    def _send(self, message: dict[str, Any]) -> None:
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()


def main() -> int:
    """Run the job in the first argument."""
    if is_launched():
        die_with_parent()
    return run(json.loads(sys.argv[1]))


def run(message: dict[str, Any]) -> int:
    """Run the job of a message, which speaks on stdout, and return its exit code.

    Args:
        message: `job` (`module:function`), `out` (its folder), `arguments`, and perhaps `kept` and `logs` (folders).
    """
    channel = _open_channel(message)
    module, _, name = message["job"].partition(":")
    try:
        job = getattr(importlib.import_module(module), name)
        channel.result(job(out=Path(message["out"]), channel=channel, **message["arguments"]))
    except DoorstepError as error:
        return _fail(str(error))
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        return _fail(f"{type(error).__name__}: {first}")
    return 0


def _fail(reason: str) -> int:
    print(reason, file=sys.stderr)  # noqa: T201 -- the log
    report_failure(reason)
    return 1


def _open_channel(message: dict[str, Any]) -> Channel:
    """Take over stdout; of several processes that train together only the first one speaks."""
    handle = os.dup(1) if is_first() else os.open(os.devnull, os.O_WRONLY)
    stream = os.fdopen(handle, "w", encoding="utf-8")
    os.dup2(2, 1)
    kept, logs = message.get("kept"), message.get("logs")
    return Channel(stream, Path(kept) if kept else None, Path(logs) if logs else None)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # some converters' libraries crash while the interpreter shuts down
