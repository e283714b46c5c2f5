"""The part of `doorstep convert` that searches under a budget."""

import argparse
from pathlib import Path

from doorstep.cli.output import print_json
from doorstep.errors import UsageError
from doorstep_converters.budget import parse_budget
from doorstep_converters.cli.given import Add, given_options
from doorstep_converters.job import Job
from doorstep_converters.progress import watch_stderr
from doorstep_converters.search.order import PREFERENCES, Order
from doorstep_converters.search.plan import describe
from doorstep_converters.search.report import summary, to_plain, write_search_report
from doorstep_converters.search.run import require_found, search

_BESIDE_RECIPE = ("cache", "dry_run", "json")
_WITHOUT_BUDGET = ("budget", "dry_run")
_INSTEAD_OF_BUDGET = ("--agreement", "--drop")


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only a search under a budget takes."""
    group = parser.add_argument_group("search under a budget")
    group.add_argument("--budget", default="", help="bounds: 'size<=2MB, p95<=2ms, drop<=0.5'; others in the docs")
    group.add_argument("--dry-run", action="store_true", help="print the plan of the convert or the search")
    group.add_argument("--students", default="", help="comma-separated names; default: the ladder")
    group.add_argument(
        "--unlabelled", type=Path, metavar="FILE",
        help="texts that the teacher labels: .txt (one a line), .csv, .tsv, .jsonl (also .gz)",
    )  # fmt: skip
    group.add_argument("--trials", type=int, default=16, help="most students that are tried (default 16)")
    group.add_argument("--minutes", type=float, default=12.0, help="none is begun after so many (default 12)")
    group.add_argument("--prefer", default="", choices=("", *PREFERENCES), help="what decides within the budget")
    group.add_argument("--price-per-hour", type=float, default=0.0, help="of this machine, for the report")
    group.add_argument("--slice-column", default="", help="column of the data whose values are slices")
    group.add_argument(
        "--measure-on",
        default="",
        metavar="USER@BOARD[:DOORSTEP]",
        help="a device where each candidate is timed, over ssh",
    )
    group.add_argument("--workers", type=int, default=0, help="on a Ray cluster; default: here, one by one")


def is_recipe(name: str) -> bool:
    """Tell whether the argument is a recipe file."""
    return name.endswith(".toml")


def order_from(arguments: argparse.Namespace, job: Job) -> Order:
    """Make an order of the arguments and the job they describe.

    Raises:
        UsageError: a misspelt bound.
    """
    return Order(
        job,
        parse_budget(arguments.budget),
        students=tuple(name.strip() for name in arguments.students.split(",") if name.strip()),
        trials=arguments.trials,
        minutes=arguments.minutes,
        prefer=arguments.prefer,
        price_per_hour=arguments.price_per_hour,
        slice_column=arguments.slice_column,
        workers=arguments.workers,
        measure_on=arguments.measure_on,
    )


def check_given(arguments: argparse.Namespace, add_arguments: Add) -> None:
    """Refuse options that nobody would read: beside a recipe file, or a search's without a budget.

    Args:
        add_arguments: adds to a parser what `arguments` holds.

    Raises:
        UsageError: such an option was given.
    """
    if is_recipe(arguments.checkpoint):
        if given := given_options(arguments, add_arguments, _BESIDE_RECIPE):
            raise UsageError(
                f"{arguments.checkpoint}: it says everything itself; write {given[0]} into it, or leave it out"
            )
    elif arguments.budget:
        if beside := [name for name in given_options(arguments, add_arguments) if name in _INSTEAD_OF_BUDGET]:
            bound = beside[0].removeprefix("--")
            raise UsageError(f"{beside[0]}: the budget holds the bounds of a search; write {bound} into --budget")
    elif given := given_options(arguments, add_search_arguments, _WITHOUT_BUDGET):
        raise UsageError(f"{given[0]}: a search alone reads it; add --budget, or leave it out")


def run_search(order: Order, arguments: argparse.Namespace) -> int:
    """Search, print and write what came of it; `--dry-run` prints the plan."""
    if arguments.dry_run:
        print(describe(order))
        return 0
    with watch_stderr() as watch:
        found = search(order, watch)
    page = write_search_report(found, order.job.out)
    if arguments.json:
        print_json(to_plain(found))
    else:
        print(summary(found))
        print(f"report    {page}")
    require_found(found)
    return 0
