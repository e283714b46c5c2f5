"""`doorstep finetune`."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from doorstep.cli.output import print_json
from doorstep.device import Device
from doorstep.errors import ConversionError, DataError, UsageError
from doorstep.files import folder_aside
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.cli.training import FINETUNE, add_training_arguments, training_of
from doorstep_converters.data import Columns, load_data
from doorstep_converters.finetune.compare import comparison, comparison_table
from doorstep_converters.finetune.stage import finetune_stage
from doorstep_converters.progress import Watch, watch_stderr
from doorstep_converters.stages import Output, Stage, StageRunner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a Hugging Face folder, a hub id, or package:NAME")
    parser.add_argument(
        "--data", type=Path, required=True, help="labelled texts: .csv, .tsv, .jsonl (also .gz), or a folder"
    )
    parser.add_argument(
        "--compare", nargs="?", const=",".join(FINETUNE), metavar="METHODS", help="several, and one table"
    )
    add_training_arguments(parser)
    parser.add_argument("--text-column")
    parser.add_argument("--label-column")
    parser.add_argument(
        "--out", type=Path, default=Path("finetuned"), help="folder that gets the checkpoint (not with --compare)"
    )
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="for tensorboard --logdir")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("DOORSTEP_CACHE", ".cache/doorstep")))
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    methods = arguments.compare.split(",") if arguments.compare else [arguments.finetune]
    for method in methods:
        if method not in FINETUNE:
            raise UsageError(f"finetune: expected some of {', '.join(FINETUNE)}, got {method!r}")
    if arguments.out.exists() and not arguments.compare:
        raise UsageError(f"{arguments.out}: something is there already; it is left as it is; choose another --out")
    outputs = _train(arguments, methods)
    results: dict[str, Mapping[str, Any] | str] = {
        name: found if isinstance(found, str) else found.result for name, found in outputs.items()
    }
    if not arguments.compare:
        found = outputs[methods[0]]
        assert not isinstance(found, str)  # noqa: S101 -- a failure was raised
        with folder_aside(arguments.out) as aside:
            shutil.copytree(found.folder / "checkpoint", aside, dirs_exist_ok=True)
    rows = comparison(results)
    if arguments.json:
        print_json(rows)
    else:
        print(comparison_table(rows))
        if not arguments.compare:
            print(f"checkpoint  {arguments.out}")
    return 0


def _train(arguments: argparse.Namespace, methods: list[str]) -> dict[str, Output | str]:
    """Train by each method, one after the other; where several are compared, a failure is a row of its own."""
    data = load_data(arguments.data, Columns(arguments.text_column, arguments.label_column))
    if not data.train:
        raise DataError(f"{data.source}: no training split to learn from; expected rows with split train")
    source = find_checkpoint(arguments.checkpoint)
    training = training_of(arguments, is_forced=True)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    runner = StageRunner(arguments.cache.resolve(), arguments.logs.resolve())
    outputs: dict[str, Output | str] = {}
    with tempfile.TemporaryDirectory(dir=arguments.cache.resolve(), prefix="work-") as work, watch_stderr() as watch:
        try:
            for method in methods:
                chosen = replace(training, method=method)
                stage = replace(finetune_stage(source, data, chosen, Path(work)), name=f"finetune-{method}")
                outputs[method] = _run(runner, stage, watch, is_alone=len(methods) == 1)
        finally:
            runner.close()
    return outputs


def _run(runner: StageRunner, stage: Stage, watch: Watch, is_alone: bool) -> Output | str:
    try:
        with watch.stage(stage.name) as report:
            output = runner.run(stage, report, Device.detect().cores)
            watch.done(stage.name, output.is_cached)
    except ConversionError as error:
        if is_alone:
            raise
        return str(error)
    for note in output.result.get("notes", []):
        watch.note(stage.name, note)
    return output
