"""`doorstep convert`."""

import argparse
import os
import signal
from pathlib import Path

from doorstep.cli.arguments import between, whole
from doorstep.cli.output import print_json
from doorstep.errors import UsageError
from doorstep_converters.cli.augmentation import add_augment_arguments, plan_of
from doorstep_converters.cli.search import add_search_arguments, check_given, is_recipe, order_from, run_search
from doorstep_converters.cli.training import add_training_arguments, training_of
from doorstep_converters.data import Columns
from doorstep_converters.display_names import read_display_names
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert, require_bundle
from doorstep_converters.plan import describe_convert
from doorstep_converters.progress import watch_stderr
from doorstep_converters.recipe_file import read_recipe
from doorstep_converters.report import summary, to_plain, write_report
from doorstep_converters.search.order import Order
from doorstep_converters.targets import TARGETS
from doorstep_converters.tasks import TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a Hugging Face folder, a hub id, package:NAME, or a recipe.toml")
    parser.add_argument("--target", help=f"kind of device: {', '.join(TARGETS)}")
    parser.add_argument(
        "--data", type=Path, help="labelled texts: .csv, .tsv, .jsonl (also .gz), or a folder of splits"
    )
    parser.add_argument("--task", help=f"{', '.join(TASKS)}; default: what the checkpoint says")
    parser.add_argument("--out", type=Path, default=Path("dist"))
    parser.add_argument("--name", help="of the bundle; default: the data's or the checkpoint's")
    parser.add_argument("--version", help="of the bundle; default: the time")
    parser.add_argument("--variants", default="", help="comma-separated names of variants or runtimes; default: all")
    parser.add_argument("--max-length", type=int, help="tokens a text keeps, or seconds of sound; default: by the data")
    parser.add_argument("--text-column")
    parser.add_argument("--label-column")
    parser.add_argument("--file-column", help="of a table of pictures")
    parser.add_argument(
        "--agreement", type=between(0, 1), default=0.99, help="bound: share of equal labels (default 0.99)"
    )
    parser.add_argument("--drop", type=between(0, 100), default=0.5, help="or: points of accuracy lost (default 0.5)")
    parser.add_argument(
        "--eval-limit", type=whole(1, 1_000_000), default=1000, help="items taken of each held-out split"
    )
    parser.add_argument("--retrain", action="store_true", help="give the checkpoint a new head, learnt from the data")
    add_training_arguments(parser)
    add_augment_arguments(parser)
    parser.add_argument("--display-names", type=Path, action="append", default=[], metavar="labels.zh.json")
    parser.add_argument("--sign", type=Path, metavar="KEY", help="private key made by doorstep keygen")
    parser.add_argument("--allow-pickle", action="store_true", help="load weights that can run code; know their origin")
    parser.add_argument("--cache", type=Path, default=Path(os.environ.get("DOORSTEP_CACHE", ".cache/doorstep")))
    parser.add_argument("--json", action="store_true")
    add_search_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves as little behind as Ctrl-C does
    check_given(arguments, add_arguments)
    found = _asked(arguments)
    if isinstance(found, Order):
        return run_search(found, arguments)
    return _convert(found, arguments)


def _asked(arguments: argparse.Namespace) -> Order | Job:
    if is_recipe(arguments.checkpoint):
        return read_recipe(Path(arguments.checkpoint), arguments.cache)
    if not arguments.target:
        raise UsageError(f"target: expected one of {', '.join(TARGETS)}, got none; name it with --target")
    job = _job(arguments)
    return order_from(arguments, job) if arguments.budget else job


def _convert(job: Job, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        print(describe_convert(job))
        return 0
    with watch_stderr() as watch:
        report = convert(job, watch)
    page = write_report(report, job.out)
    if arguments.json:
        print_json(to_plain(report))
    else:
        print(summary(report))
        print(f"report  {page}")
    require_bundle(report)
    return 0


def _job(arguments: argparse.Namespace) -> Job:
    return Job(
        checkpoint=arguments.checkpoint,
        target=arguments.target,
        out=arguments.out,
        data=arguments.data,
        task=arguments.task,
        name=arguments.name,
        version=arguments.version,
        columns=Columns(arguments.text_column, arguments.label_column, file=arguments.file_column),
        variants=tuple(name for name in arguments.variants.split(",") if name),
        bound=Bound(arguments.agreement, arguments.drop),
        training=training_of(arguments, is_forced=arguments.retrain),
        max_length=arguments.max_length,
        cache=arguments.cache,
        key=arguments.sign,
        is_pickle_allowed=arguments.allow_pickle,
        eval_limit=arguments.eval_limit,
        augment=plan_of(arguments),
        unlabelled=arguments.unlabelled,
        display_names=read_display_names(arguments.display_names),
    )
