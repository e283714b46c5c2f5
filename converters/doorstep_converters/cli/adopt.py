"""`doorstep adopt`."""

import argparse
from pathlib import Path
from typing import Any

from doorstep.bundle import Bundle
from doorstep.cli.inspect import describe
from doorstep.errors import UsageError
from doorstep_converters.adopt import TASKS, Adoption, adopt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="an .onnx, a .tflite, or an OpenVINO .xml with its .bin beside it")
    parser.add_argument("--task", default="tensors", help=f"{', '.join(TASKS)} (default: tensors)")
    parser.add_argument("--labels", type=Path, help="one label a line, in the order of the outputs")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, or the folder that holds it")
    parser.add_argument("--option", nargs="+", default=[], metavar="NAME=VALUE", help="task options")
    parser.add_argument("--samples", type=Path, nargs="+", default=[], help="raw items for the golden examples")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--name")
    parser.add_argument("--licence", default="")
    parser.add_argument("--sign", type=Path, metavar="KEY")


def run(arguments: argparse.Namespace) -> int:
    adoption = Adoption(
        model=arguments.model,
        out=arguments.out,
        task=arguments.task,
        name=arguments.name,
        labels=arguments.labels,
        tokenizer=arguments.tokenizer,
        options=dict(_option(text) for text in arguments.option),
        samples=tuple(arguments.samples),
        licence=arguments.licence,
        key=arguments.sign,
    )
    manifest = adopt(adoption)
    folder = arguments.out / f"{manifest.name}.bundle"
    print(describe(manifest, Bundle.open(folder).digest))
    print(f"\nbundle  {folder}")
    return 0


def _option(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"--option: expected NAME=VALUE, got {text!r}")
    if "," in value:
        return name, [float(part) for part in value.split(",")]
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
