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


class Channel:
    """Sends messages to the parent; everything else a library prints goes to the log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def progress(self, share: float) -> None:
        """Tell the share that is done (0 to 1)."""
        self._send({"progress": round(share, 4)})

    def result(self, value: dict[str, Any]) -> None:
        """Send what came of the job, with the memory it took."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self._send({"result": {"peak_rss_mib": round(peak), **value}})

    def _send(self, message: dict[str, Any]) -> None:
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()


def main() -> int:
    """Run the job in the first argument."""
    channel = Channel(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    message = json.loads(sys.argv[1])
    module, _, name = message["job"].partition(":")
    try:
        job = getattr(importlib.import_module(module), name)
        channel.result(job(out=Path(message["out"]), channel=channel, **message["arguments"]))
    except DoorstepError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- the log
        return 1
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"{type(error).__name__}: {first}", file=sys.stderr)  # noqa: T201 -- the log
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # some converters' libraries crash while the interpreter shuts down
