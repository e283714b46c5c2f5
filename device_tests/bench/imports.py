"""What an import costs, in fresh processes that take turns."""

import statistics
import subprocess
import sys

_CODE = "import time; start = time.perf_counter(); import {}; print(1e3 * (time.perf_counter() - start))"


def import_times(rounds: int) -> dict[str, float]:
    """Return the median time in ms of `import numpy` and of `import doorstep`."""
    times: dict[str, list[float]] = {"numpy": [], "doorstep": []}
    for _ in range(rounds):
        for name, found in times.items():
            done = subprocess.run(
                [sys.executable, "-c", _CODE.format(name)], capture_output=True, text=True, check=True
            )
            found.append(float(done.stdout))
    return {name: statistics.median(found) for name, found in times.items()}
