"""An engine does not report to its maker."""

import os
import subprocess
import sys

import pytest

_NAME = "ORT_DISABLE_TELEMETRY"


@pytest.mark.parametrize(("given", "found"), [({}, "1"), ({_NAME: "0"}, "0")], ids=["by default", "unless asked to"])
def test_onnx_runtime_keeps_silent(given: dict[str, str], found: str) -> None:
    """The suite for devices shows that it opens no socket then; it reads the variable when it is imported."""
    environment = {name: value for name, value in os.environ.items() if name != _NAME} | given
    code = (
        "import os, sys, importlib.abc\n"
        "class Look(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'onnxruntime': print(os.environ.get({_NAME!r}))\n"
        "sys.meta_path.insert(0, Look())\n"
        "import doorstep_runtimes.onnx"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [found]
