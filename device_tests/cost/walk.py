"""Runs inside valgrind: what is counted, each piece between two calls of `getppid`; callgrind dumps its counts there.

    python walk.py SITE BUNDLE MACHINE

Prints one line `name repeats` a piece, in order. Imports nothing at the top that doorstep might import, because that
would hide its cost.
"""

import gc
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

TEXT = "is the oat milk back in stock"
_WARM_UP = 60  # CPython specializes a function's code after some tens of calls
_REPEATS = 200


def main(site: str, bundle: str, machine: str) -> None:
    """Count import, load and predict, and beside the last two the tokenizer library's part of them."""
    gc.disable()  # else an allocation more or less moves a whole collection from one piece to the next
    sys.setswitchinterval(3600)  # seconds; under valgrind a thread's turn would end at another place in every run
    sys.path.insert(0, site)
    importlib.import_module("numpy")
    _count("import", 1, lambda: importlib.import_module("doorstep"))
    _stand_in(machine)

    with open(f"{bundle}/tokenizer.json", "rb") as file:
        data = file.read()
    _bare_load(data)
    _count("load, tokenizer", 1, lambda: _bare_load(data))
    predictor_class = importlib.import_module("doorstep").Predictor
    predictor = _count("load", 1, lambda: predictor_class.load(bundle))

    tokenizer = predictor._task._encoder._tokenizer  # not another: each seeds its hash tables with random numbers
    for _ in range(_WARM_UP):
        _bare_predict(tokenizer)
        predictor.predict(TEXT)
    _count("predict, tokenizer", _REPEATS, lambda: _bare_predict(tokenizer))
    _count("predict", _REPEATS, lambda: predictor.predict(TEXT))


def _count(name: str, repeats: int, call: Callable[[], Any]) -> Any:
    result = None
    os.getppid()
    for _ in range(repeats):
        result = call()
    os.getppid()
    print(name, repeats, sep="\t", flush=True)
    return result


def _stand_in(machine: str) -> None:
    """Put an engine that does nothing in the place of ONNX Runtime, and a written-down machine in that of this one."""
    from pathlib import Path

    from doorstep.device import Device
    from doorstep.session import RUNTIMES

    RUNTIMES["onnx"] = RUNTIMES["onnx"]._replace(module="cost_engine")
    importlib.import_module("cost_engine")  # an engine's import is its own part, and two threads would race for it
    Device.detect.__func__.__defaults__ = (Path(machine),)  # type: ignore[attr-defined]


def _bare_load(data: bytes) -> Any:
    """Load a tokenizer as a script without doorstep would."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(data)
    tokenizer.enable_truncation(64)
    tokenizer.no_padding()
    return tokenizer


def _bare_predict(tokenizer: Any) -> Any:
    encoding = tokenizer.encode(TEXT)
    return encoding.ids, encoding.attention_mask


if __name__ == "__main__":
    main(*sys.argv[1:])
