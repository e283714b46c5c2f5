"""The script of a fresh process: a message from stdin, one call, its result as JSON on stdout.

It is run by its path and imports only the standard library, so that nothing of doorstep, nor NumPy, is loaded before
its turn, and CPU affinity is set before a library asks how many cores there are.
"""

import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    """Answer the message: `call` is `module:function`, given the dict `plan`; it returns a dict."""
    message = json.load(sys.stdin)
    sys.path[:] = message["path"]
    if message["cpus"]:
        os.sched_setaffinity(0, message["cpus"])
    rss_mib: dict[str, float] = {}
    if message["imports"]:
        rss_mib["interpreter"] = memory_mib("VmRSS")
    for name in message["imports"]:
        importlib.import_module(name)
        rss_mib[name] = memory_mib("VmRSS")
    module, _, function = message["call"].partition(":")
    result: dict[str, Any] = getattr(importlib.import_module(module), function)(message["plan"])
    result["rss_mib"] = {**rss_mib, **result.get("rss_mib", {})}
    print(json.dumps(result))  # noqa: T201 -- to the parent


def memory_mib(name: str) -> float:
    """Return a line of this process's memory in MiB: `VmRSS` now, `VmHWM` at its highest (Linux)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    main()
