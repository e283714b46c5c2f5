"""`doorstep fleet`: what a device did and why; what all of them report."""

import argparse
from dataclasses import asdict
from pathlib import Path

from doorstep.cli.output import print_json
from doorstep.errors import UsageError

ACTIONS = ("explain", "report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("reports", type=Path, nargs="?", help="report: folder of the devices' status reports")
    parser.add_argument("--product", help="explain: default: the store's only product")
    parser.add_argument("--store", type=Path, help="explain: default: /var/lib/doorstep")
    parser.add_argument("--html", type=Path, metavar="FILE", help="report: write a page")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "explain":
        return _explain(arguments)
    if arguments.reports is None:
        raise UsageError("report: expected the folder of the devices' status reports")
    from doorstep.fleet.report import load_fleet, to_html, to_text

    fleet = load_fleet(arguments.reports)
    if arguments.html:
        from doorstep.files import write_atomic

        write_atomic(arguments.html, to_html(fleet).encode())
        print(f"{arguments.html}: {len(fleet.devices)} devices")
    elif arguments.json:
        print_json([asdict(device) for device in fleet.devices])
    else:
        print(to_text(fleet))
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from doorstep.fleet.clock import SystemClock
    from doorstep.fleet.explain import explain
    from doorstep.fleet.kept import last_channel, last_outcome
    from doorstep.fleet.settings import DEFAULT_STORE, kept_settings, only_product
    from doorstep.fleet.store import Store

    root = arguments.store or DEFAULT_STORE
    product = arguments.product or only_product(root)
    kept = kept_settings(root, product)
    store = Store.open(root, product, Path(kept.factory) if kept.factory else None)
    state, channel, outcome = store.state(), last_channel(store), last_outcome(store)
    if arguments.json:
        print_json({
            "state": asdict(state),
            "outcome": asdict(outcome) if outcome else None,
            "channel": asdict(channel) if channel else None,
        })  # fmt: skip
    else:
        print(explain(kept, state, channel, outcome, SystemClock().now()))
    return 0
