"""`doorstep rollout`: look at a rollout, stop it, let it go on, end it."""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.cli.depot import keys_of
from doorstep.cli.output import print_json, table
from doorstep.errors import UsageError

if TYPE_CHECKING:
    from doorstep.fleet.channel import Channel, Rollout
    from doorstep.fleet.depot import Depot

ACTIONS = ("status", "pause", "resume", "halt", "finish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("product", nargs="?", help="default: the depot's only product")
    parser.add_argument("--channel", default="stable")
    parser.add_argument("--depot", type=Path, default=Path("depot"))
    parser.add_argument("--keys", type=Path, help="folder of the keys (default: DEPOT.keys)")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    from doorstep.fleet import publishing
    from doorstep.fleet.channel import HALTED, PAUSED, RUNNING
    from doorstep.fleet.depot import Depot
    from doorstep.fleet.keys import KeyRing

    depot = Depot.open(arguments.depot)
    product = arguments.product or _only_product(depot)
    if arguments.action == "status":
        return _status(publishing.existing_channel(depot, product, arguments.channel), arguments.json)
    ring = KeyRing.open(arguments.keys or keys_of(arguments.depot))
    if arguments.action == "finish":
        channel = publishing.finish_rollout(depot, ring, product, arguments.channel)
        print(f"{product}/{arguments.channel}: release {channel.default} is for every device now")
        return 0

    def to(state: str, *allowed: str) -> "Callable[[Rollout], Rollout]":
        def change(rollout: "Rollout") -> "Rollout":
            if rollout.state not in allowed:
                raise UsageError(f"rollout {rollout.id} is {rollout.state}; it cannot be made {state}")
            return replace(rollout, state=state)

        return change

    changes = {"pause": to(PAUSED, RUNNING), "resume": to(RUNNING, PAUSED), "halt": to(HALTED, RUNNING, PAUSED)}
    changed = publishing.change_rollout(depot, ring, product, arguments.channel, changes[arguments.action])
    assert changed.rollout is not None  # noqa: S101 -- change_rollout has seen it
    print(f"{product}/{arguments.channel}: rollout {changed.rollout.id} is {changed.rollout.state}")
    return 0


def _only_product(depot: "Depot") -> str:
    products = sorted({channel.product for channel in depot.channels()})
    if len(products) != 1:
        raise UsageError(f"{depot.folder}: holds {', '.join(products) or 'no product'}; name one")
    return str(products[0])


def _status(channel: "Channel", is_json: bool) -> int:
    if is_json:
        print_json(asdict(channel))
        return 0
    print(f"{channel.product}/{channel.channel}: release {channel.default or 'none'} for every device")
    rollout = channel.rollout
    if rollout is None:
        return 0
    print(f"rollout {rollout.id} of release {rollout.seq}: {rollout.state}")
    rows = [(f"{wave.share / 100:g} %", wave.at) for wave in rollout.waves]
    if rows:
        print(table(("devices", "from (UTC)"), rows))
    for what, names in (("at once", rollout.cohorts), ("never", rollout.deny)):
        if names:
            print(f"{what}: {', '.join(names)}")
    return 0
