"""`doorstep check`."""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from doorstep.budgets import BOUNDS, Budgets, load_budgets
from doorstep.bundle import Bundle
from doorstep.check import Request, check
from doorstep.cli.arguments import count, default_threads
from doorstep.cli.output import print_json, table
from doorstep.cli.progress import Progress
from doorstep.junit import write_junit
from doorstep.signing import TrustKey
from doorstep.verdicts import FAILED, Check, Report, to_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--variant", help="a variant (onnx-int8) or a runtime (onnx); default: what would be chosen")
    which.add_argument("--all", action="store_true", help="every variant this device can run")
    parser.add_argument("--budgets", type=Path, metavar="FILE.toml", help=f"bounds: {', '.join(BOUNDS)}")
    parser.add_argument("--threads", type=count, default=default_threads(), help="default: the cores granted")
    parser.add_argument("--examples", type=count, metavar="N", help="golden examples to answer (all)")
    parser.add_argument("--junit", type=Path, metavar="FILE.xml")
    parser.add_argument("--results", type=Path, metavar="FILE.jsonl", help="append one line a variant")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    budgets = load_budgets(arguments.budgets) if arguments.budgets else Budgets()
    bundle = Bundle.open(arguments.bundle, trust=TrustKey.configured())
    _mention_strangers(budgets, bundle)
    wanted = arguments.variant or (None if arguments.all else os.environ.get("DOORSTEP_VARIANT") or None)
    with Progress() as progress:
        request = Request(wanted, arguments.all, arguments.threads, arguments.examples, budgets)
        report = check(bundle, request, progress)
    if arguments.junit:
        write_junit(report, arguments.junit)
    if arguments.results:
        _append(report, arguments.results)
    if arguments.json:
        print_json({"passed": report.is_passed, **asdict(report)})
    else:
        print(describe(report))
    return 0 if report.is_passed else 1


def describe(report: Report) -> str:
    """Return a report as text for people."""
    rows = [
        (checked.variant, item.name, item.value, item.limit, _verdict(item))
        for checked in report.variants
        for item in checked.checks
    ]
    failed = sum(item.outcome == FAILED for checked in report.variants for item in checked.checks)
    head = [*report.origin.lines(), f"threads  {report.threads}"]
    end = "every check passed" if report.is_passed else f"{failed} of {len(rows)} checks failed"
    return "\n".join([*head, "", table(("variant", "check", "found", "allowed", "verdict"), rows), "", end])


def _verdict(item: Check) -> str:
    outcome = item.outcome.upper() if item.outcome == FAILED else item.outcome
    return f"{outcome}: {item.detail}" if item.detail else outcome


def _mention_strangers(budgets: Budgets, bundle: Bundle) -> None:
    """Say which budgets are for variants of other bundles: one of them may be misspelt."""
    for name in sorted(budgets.variants.keys() - {variant.name for variant in bundle.manifest.variants}):
        print(f"doorstep: budgets: this bundle has no variant {name!r}", file=sys.stderr)


def _append(report: Report, path: Path) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in to_lines(report)))
