"""Counting instructions with valgrind's callgrind."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from device_tests.cost import walk
from device_tests.cost.stage import Stage

NAMES = ("import", "load", "predict")
_LIMIT_S = 300


class CostError(Exception):
    """The counting failed; the message says why."""


class ValgrindMissing(CostError):
    """Valgrind is not installed."""


def count(stage: Stage, dumps: Path) -> dict[str, int]:
    """Return the instructions of doorstep's own part of each of `NAMES`.

    Args:
        dumps: where callgrind's files are put, for `callgrind_annotate`.

    Raises:
        ValgrindMissing: it is not installed.
        CostError: the counted process failed.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise ValgrindMissing("valgrind is not installed; run: apt-get install valgrind")
    dumps.mkdir(parents=True, exist_ok=True)
    walked = [sys.executable, "-S", "-s", "-P", walk.__file__, *map(str, (stage.site, stage.bundle, stage.machine))]
    _run(walked, stage)  # writes bytecode where the installer left some out
    out = dumps / "callgrind.out"
    options = ["--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"]
    lines = _run([valgrind, "--quiet", *options, *walked], stage).splitlines()
    found = {}
    for number, line in enumerate(lines):
        name, repeats = line.split("\t")
        found[name] = round(_total(out.with_name(f"{out.name}.{2 * number + 2}")) / int(repeats))
    return {name: found[name] - found.get(f"{name}, tokenizer", 0) for name in NAMES}


def _total(dump: Path) -> int:
    match = re.search(r"^totals: (\d+)$", dump.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    if match is None:
        raise CostError(f"{dump.name}: no totals in it; is this another callgrind?")
    return int(match[1])


def _run(command: list[str], stage: Stage) -> str:
    """Run in an environment that is the same everywhere, but for where Python's own library lies."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    environment = {
        **kept,
        "PATH": "/usr/bin:/bin",
        "HOME": str(stage.machine),
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=65535:glibc.malloc.tcache_max=65536:glibc.malloc.arena_max=1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=stage.site, timeout=_LIMIT_S, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CostError(f"the counted process ended with {done.returncode}: {last}")
    return done.stdout
