"""`doorstep augment`."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from doorstep.cli.output import print_json
from doorstep.device import Device
from doorstep.errors import UsageError
from doorstep.files import write_atomic
from doorstep_converters.augment.ablation import ablation_table, plain_ablation
from doorstep_converters.augment.stage import CORPUS, ablate_stage, augment_stage
from doorstep_converters.cli.augmentation import add_augment_arguments, plan_of
from doorstep_converters.data import Columns, load_data
from doorstep_converters.progress import Watch, watch_stderr
from doorstep_converters.stages import Output, Stage, StageRunner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="labelled texts: .csv, .tsv, .jsonl (also .gz), or a folder of splits")
    add_augment_arguments(parser)
    parser.add_argument("--teacher", help="checkpoint that drops what it is unsure of")
    parser.add_argument("--ablation", action="store_true", help="train a fast student with and without each transform")
    parser.add_argument("--text-column")
    parser.add_argument("--label-column")
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--out", type=Path, default=Path("augmented.jsonl"), help="file that gets the texts")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("DOORSTEP_CACHE", ".cache/doorstep")))
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    plan = plan_of(arguments)
    if plan is None:
        raise UsageError("augment: name what to make: --augment typo,pinyin,splice")
    data = load_data(arguments.data, Columns(arguments.text_column, arguments.label_column))
    arguments.cache.mkdir(parents=True, exist_ok=True)
    logs = arguments.out.with_suffix(".logs")
    runner = StageRunner(arguments.cache.resolve(), logs.resolve())
    with tempfile.TemporaryDirectory(dir=arguments.cache.resolve(), prefix="work-") as work, watch_stderr() as watch:
        try:
            stage = augment_stage(data, plan, arguments.seed, Path(work))
            made = _run(runner, stage, watch)
            ablation = (
                _run(runner, ablate_stage(data, made, arguments.seed, Path(work)), watch)
                if arguments.ablation
                else None
            )
        finally:
            runner.close()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(arguments.out, (made.folder / CORPUS).read_bytes())
    shutil.rmtree(logs, ignore_errors=True)
    found = {"counts": made.result["counts"], "ablation": ablation.result if ablation else None}
    if ablation:
        write_atomic(arguments.out.with_suffix(".ablation.json"), plain_ablation(found).encode())
    if arguments.json:
        print_json({**found, "out": str(arguments.out)})
    else:
        print(ablation_table(found["counts"], ablation.result if ablation else None))
        print(f"texts   {arguments.out}")
    return 0


def _run(runner: StageRunner, stage: Stage, watch: Watch) -> Output:
    with watch.stage(stage.name) as report:
        output = runner.run(stage, report, Device.detect().cores)
        watch.done(stage.name, output.is_cached)
    return output
