"""`doorstep predict`."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from doorstep.cli.output import print_json
from doorstep.errors import InputError
from doorstep.predictor import LoadOptions, Predictor
from doorstep.results import Classification
from doorstep.signing import TrustKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("items", nargs="*", metavar="item", help="texts or paths; none: one text a line from stdin")
    parser.add_argument("--variant", help="a variant (onnx-int8) or a runtime (onnx)")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--top-k", type=int, metavar="K")
    parser.add_argument("--strict", action="store_true", help="no fallback to another variant")
    parser.add_argument("--race", action="store_true", help="time the best variants here first")
    parser.add_argument("--trust", type=Path, metavar="KEY.pub")
    parser.add_argument("--why", action="store_true", help="say which variant was chosen and why, on stderr")
    parser.add_argument("--json", action="store_true", help="one JSON document a line")


def run(arguments: argparse.Namespace) -> int:
    options = LoadOptions(
        trust=TrustKey.load(arguments.trust) if arguments.trust else None,
        is_raced=arguments.race,
        task_options={"top_k": arguments.top_k} if arguments.top_k is not None else {},
    )
    with Predictor.load(
        arguments.bundle,
        variant=arguments.variant,
        threads=arguments.threads,
        strict=arguments.strict,
        options=options,
    ) as predictor:
        if arguments.why:
            print(predictor.why, file=sys.stderr)
        items = arguments.items or _lines()
        for result in predictor.stream(items):
            _show(result, arguments.json)
    return 0


def _lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"stdin, line {number}: expected UTF-8 ({error})") from error


def _show(result: Any, is_json: bool) -> None:
    if is_json or not isinstance(result, Classification):
        print_json(result.to_dict())
        return
    best = result.label if result.label is not None else "(not sure)"
    others = "   ".join(f"{label.label} {label.score:.3f}" for label in result.scores[1:3])
    print(f"{best}  {result.score:.3f}   {others}", flush=True)
