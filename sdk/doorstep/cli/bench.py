"""`doorstep bench`."""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from doorstep.bench import BenchReport, Setup, bench
from doorstep.bench_tables import tables
from doorstep.bundle import Bundle
from doorstep.check import typical
from doorstep.cli.arguments import count, counts, cpus, default_threads
from doorstep.cli.output import print_json, table
from doorstep.cli.progress import Progress
from doorstep.device import Device
from doorstep.errors import InputError, UsageError
from doorstep.files import write_atomic
from doorstep.golden import load_golden
from doorstep.origin import Origin
from doorstep.selection import rank
from doorstep.signing import TrustKey

_LEAST_ITEMS = 200
_MAX_TEXT_BYTES = 16 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--variant", help="a variant (onnx-int8) or a runtime (onnx); default: what would be chosen")
    which.add_argument("--all", action="store_true", help="every variant this device can run")
    parser.add_argument("--cold", action="store_true", help="also time cold starts")
    parser.add_argument("--starts", type=count, default=5, metavar="N", help="cold starts, each a process (5)")
    parser.add_argument("--threads", type=counts, default=default_threads(), metavar="1,2", help="the cores granted")
    parser.add_argument("--batch", type=counts, default="1,8,32", metavar="1,8,32")
    parser.add_argument("--iterations", type=count, default=100, metavar="N", help="timed predictions (100)")
    parser.add_argument("--text-file", type=Path, metavar="FILE", help="items for throughput, one text a line")
    parser.add_argument("--cpu", type=cpus, default=(), metavar="0", help="run on these CPUs only")
    parser.add_argument("--html", type=Path, metavar="FILE.html", help="a page with plots")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle, trust=TrustKey.configured())
    device = Device.detect()
    wanted = arguments.variant or (None if arguments.all else os.environ.get("DOORSTEP_VARIANT") or None)
    ranking = rank(bundle.manifest.variants, device, wanted, bundle.has)
    setup, words = _setup(bundle, arguments)
    origin = Origin.here(bundle, device)
    with Progress() as progress:
        benched = tuple(
            bench(setup, variant.name, ranking.engines[variant.name], progress)
            for variant in (ranking.usable if arguments.all else ranking.usable[:1])
        )
    report = BenchReport(origin, setup, words, _command(arguments), benched)
    if arguments.html:
        from doorstep.bench_page import page

        write_atomic(arguments.html, page(report).encode())
    if arguments.json:
        print_json(_plain(report))
    else:
        print(describe(report))
    return 1 if any(one.failures for one in benched) else 0


def describe(report: BenchReport) -> str:
    """Return a report as text for people."""
    lines = [*report.origin.lines(), f"items    {report.items}"]
    for part in tables(report):
        lines += ["", part.title, "", table(part.head, part.rows)]
    failures = [f"failed   {failure}" for one in report.variants for failure in one.failures]
    return "\n".join([*lines, "", *failures]).rstrip()


def _setup(bundle: Bundle, arguments: argparse.Namespace) -> tuple[Setup, str]:
    """Return the setup, and words on its items."""
    examples = load_golden(bundle).examples
    example = typical(examples)
    texts = _lines(arguments.text_file) if arguments.text_file else []
    given = texts or [one.item for one in examples]
    if not given:
        raise UsageError("the bundle holds no golden examples to measure with; name texts with --text-file")
    items = tuple(given * -(-_LEAST_ITEMS // len(given)))
    setup = Setup(
        bundle=str(arguments.bundle),
        item=example.item if example else given[len(given) // 2],
        items=items,
        threads=arguments.threads,
        batches=arguments.batch,
        iterations=arguments.iterations,
        cold_starts=arguments.starts if arguments.cold else 0,
        cpus=arguments.cpu,
    )
    origin = f"lines of {arguments.text_file.name}" if texts else "golden examples"
    tokens = f" of {example.tokens} tokens" if example and example.tokens else ""
    again = ", repeated" if len(items) > len(given) else ""
    return setup, f"latency: one item{tokens}; throughput: {len(items)} ({len(given)} {origin}{again})"


def _lines(path: Path) -> list[str]:
    with open(path, "rb") as file:
        data = file.read(_MAX_TEXT_BYTES + 1)
    if len(data) > _MAX_TEXT_BYTES:
        raise InputError(f"{path.name}: expected at most {_MAX_TEXT_BYTES >> 20} MiB, got more")
    try:
        lines = [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: expected UTF-8 ({error})") from error
    if not lines:
        raise InputError(f"{path.name}: expected one text a line, got none")
    return lines


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that measures the same again."""
    words = ["doorstep", "bench", str(arguments.bundle)]
    words += ["--variant", arguments.variant] if arguments.variant else ["--all"] if arguments.all else []
    words += ["--cold", "--starts", str(arguments.starts)] if arguments.cold else []
    words += ["--threads", _commas(arguments.threads), "--batch", _commas(arguments.batch)]
    words += ["--iterations", str(arguments.iterations)]
    words += ["--text-file", str(arguments.text_file)] if arguments.text_file else []
    words += ["--cpu", _commas(arguments.cpu)] if arguments.cpu else []
    return shlex.join(words)


def _commas(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _plain(report: BenchReport) -> dict[str, Any]:
    plain = asdict(report)
    plain["setup"]["items"] = len(report.setup.items)
    return plain
