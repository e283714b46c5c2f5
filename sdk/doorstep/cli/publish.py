"""`doorstep publish`."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.cli.depot import keys_of
from doorstep.cli.output import mib, print_json
from doorstep.cli.progress import Progress
from doorstep.signing import TrustKey

if TYPE_CHECKING:
    from doorstep.fleet.channel import Health
    from doorstep.fleet.depot import Depot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--depot", type=Path, required=True)
    parser.add_argument("--keys", type=Path, help="folder of the keys (default: DEPOT.keys)")
    parser.add_argument("--channel", default="stable")
    parser.add_argument("--product", default="", help="default: the bundle's name")
    parser.add_argument(
        "--rollout", default="", metavar="WAVES", help='"1%%, 10%% after 2h, 100%% after 1d"; none: all'
    )
    parser.add_argument("--spread", type=int, default=60, metavar="MINUTES", help="over which a wave's devices start")
    parser.add_argument("--cohort", action="append", default=[], help="devices with this label go first")
    parser.add_argument("--device", action="append", default=[], help="a device that goes first, by its id")
    parser.add_argument("--deny", action="append", default=[], metavar="LABEL", help="devices that stay out")
    parser.add_argument("--window", action="append", metavar="02:00-05:00", help="when devices may activate it")
    parser.add_argument("--report", metavar="URL", help="where devices send their status")
    parser.add_argument("--min-seq", type=int, help="refuse older releases even as a fallback")
    parser.add_argument("--no-deltas", action="store_true")
    parser.add_argument("--trust", type=Path, metavar="KEY.pub", help="refuse a bundle not signed by this key")
    _add_health(parser)
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    from doorstep.fleet.depot import Depot
    from doorstep.fleet.keys import KeyRing
    from doorstep.fleet.publishing import Plan, publish

    depot = Depot.open(arguments.depot)
    plan = Plan(
        channel=arguments.channel,
        product=arguments.product,
        waves=arguments.rollout,
        spread_minutes=arguments.spread,
        cohorts=tuple(arguments.cohort),
        devices=tuple(arguments.device),
        deny=tuple(arguments.deny),
        health=_health(arguments, depot),
        windows=tuple(arguments.window) if arguments.window else None,
        report=arguments.report,
        min_seq=arguments.min_seq,
        has_deltas=not arguments.no_deltas,
        trust=TrustKey.load(arguments.trust) if arguments.trust else None,
    )
    ring = KeyRing.open(arguments.keys or keys_of(arguments.depot))
    with Progress() as progress:
        done = publish(depot, ring, arguments.bundle, plan, progress)
    release = done.release
    if arguments.json:
        deltas = [{"to": delta.target, "bytes": delta.content.size} for delta in release.deltas]
        print_json({"id": release.id, "seq": release.seq, "new_bytes": done.new_bytes, "deltas": deltas})
        return 0
    new = mib(done.new_bytes)
    print(f"release {release.id} of {release.product}: {len(release.files)} files, {new} new in the depot")
    for path, share in sorted(done.delta_shares.items()):
        print(f"delta   {path}: {100 * share:.1f} % of the file")
    where = f"{release.product}/{arguments.channel}"
    who = [arguments.rollout] if arguments.rollout else []
    who += [f"{label} at once" for label in arguments.cohort] + [f"{device} at once" for device in arguments.device]
    print(f"channel {where}: {'; '.join(who) or 'every device'}")
    return 0


_HEALTH = {
    "confirm_requests": int, "confirm_minutes": int, "max_error_rate": float, "max_p95_ms": float,
    "max_rss_mib": float, "shadow_share": float, "min_agreement": float,
}  # fmt: skip


def _add_health(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("health", "what a release on trial must show; what is not given stays as it is")
    for name, kind in _HEALTH.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=kind)


def _health(arguments: argparse.Namespace, depot: "Depot") -> "Health | None":
    from doorstep.bundle import Bundle
    from doorstep.fleet.channel import Health

    given = {name: getattr(arguments, name) for name in _HEALTH if getattr(arguments, name) is not None}
    if not given:
        return None
    product = arguments.product or Bundle.open(arguments.bundle, is_lazy=True).manifest.name
    channel = depot.channel(product, arguments.channel)
    return replace(channel.health if channel else Health(), **given)
