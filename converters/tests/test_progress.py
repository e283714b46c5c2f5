"""What people see while a convert runs."""

import os
import pty
import re
import subprocess
import sys

import pytest

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HALF_A_STAGE = (
    "import time; from doorstep_converters.progress import watch_stderr\n"
    "with watch_stderr() as watch:\n"
    "    with watch.stage('teach') as report:\n"
    "        for step in range(1, 9):\n"
    "            time.sleep(0.15)\n"
    "            report(step / 16)\n"
    "        time.sleep(0.3)\n"
    "        watch.note('teach', 'memory was short')\n"
    "{end}"
)


def _shown(end: str = "") -> str:
    """Return what a program that stops in the middle of a stage shows on a terminal, without colours."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-c", _HALF_A_STAGE.format(end=end)], stderr=theirs, stdout=subprocess.PIPE, env=environment
    ) as process:
        os.close(theirs)
        found = b""
        while part := _read(ours):
            found += part
        os.close(ours)
        assert process.stdout is not None
        assert process.stdout.read() == b""  # results alone go to stdout
    return _ANSI.sub("", found.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux ends a terminal that nobody holds any more so
        return b""


def test_a_terminal_shows_how_much_is_done_and_how_long_the_rest_takes() -> None:
    shown = _shown()
    halves = re.findall(r"teach .* 50 % 0:00:0\d (\S+)", shown)
    assert halves, shown
    assert re.fullmatch(r"0:00:0\d", halves[-1])  # what the first half took, about
    assert "teach: memory was short" in shown


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("    watch.done('teach', False)", r"teach +\S+ 100 %"),
        ("    watch.done('teach', True)", r"teach \(kept\) .* 100 %"),
    ],
)
def test_a_stage_that_ended_is_shown_as_done_or_kept(end: str, expected: str) -> None:
    assert re.search(expected, _shown(end))


def test_a_stage_that_failed_says_so() -> None:
    failing = "        raise SystemExit(1)\n"
    assert re.search(r"teach failed .* 50 %", _shown(failing))
