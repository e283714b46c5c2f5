"""`doorstep agent`: bring this device up to its channel, once or every so often."""

import argparse
import random
import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.cli.output import print_json
from doorstep.errors import StoreError, UsageError
from doorstep.signing import TrustKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from doorstep.fleet.kept import Outcome
    from doorstep.fleet.settings import Settings

_EVERY = re.compile(r"(\d{1,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 6 * 3600.0
_MAX_ROOT_BYTES = 64 << 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--depot", action="append", required=True, help="address or folder; again for each mirror")
    parser.add_argument("--product", required=True)
    parser.add_argument("--channel", default="stable")
    parser.add_argument("--root", type=Path, required=True, help="root.json, shipped with the device")
    parser.add_argument("--store", type=Path, help="default: /var/lib/doorstep")
    parser.add_argument("--every", metavar="15m", help="go on, with this interval; without it one visit")
    parser.add_argument("--device-id", help="default: /etc/machine-id, else one made once")
    parser.add_argument("--label", action="append", default=[], help="a cohort or hardware revision of this device")
    parser.add_argument("--factory", type=Path, help="a bundle shipped with the device, the last resort")
    parser.add_argument("--every-variant", action="store_true", help="fetch every variant that fits, not the best one")
    parser.add_argument("--quota", type=int, default=0, metavar="MB", help="most that the store may take")
    parser.add_argument("--min-rate", type=int, default=2048, metavar="BYTES", help="a second; slower is dropped")
    parser.add_argument("--deadline", default="6h", help="for all that one visit fetches")
    parser.add_argument("--ca", type=Path, help="CA certificates (PEM) instead of the system's")
    parser.add_argument("--proxy", default="", help="default: HTTPS_PROXY, HTTP_PROXY, NO_PROXY")
    parser.add_argument("--report", default="", metavar="URL", help="where status reports go; default: the channel's")
    parser.add_argument("--trust", type=Path, metavar="KEY.pub", help="the bundle's own signature must be by this key")
    parser.add_argument("--check", action="store_true", help="hash what is served first; fetch again what is damaged")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    from doorstep.fleet.kept import FAILED, REFUSED
    from doorstep.fleet.updater import Updater

    settings = _settings(arguments)

    def visit() -> "Outcome":
        outcome = Updater(settings).run(is_checked=arguments.check)
        if arguments.json:
            print_json(asdict(outcome))
        else:
            print(f"{outcome.kind}: {outcome.text}{f' ({outcome.decision})' if outcome.decision else ''}", flush=True)
        return outcome

    if not arguments.every:
        return int(visit().kind in (FAILED, REFUSED))
    _stay(visit, _seconds(arguments.every, "every"))
    return 0


def _stay(visit: "Callable[[], Outcome]", every: float) -> None:
    """Visit for ever; after failures ever more seldom, up to six hours. SIGTERM ends it between two visits."""
    from doorstep.fleet.clock import SystemClock
    from doorstep.fleet.kept import FAILED

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    clock, pause = SystemClock(), every
    try:
        while True:
            try:
                is_failed = visit().kind == FAILED
            except StoreError as error:
                print(f"doorstep: {error}", file=sys.stderr, flush=True)
                is_failed = True
            pause = min(pause * 2, max(_LONGEST_S, every)) if is_failed else every
            clock.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 -- jitter, no secret
    except KeyboardInterrupt:
        print("doorstep: the agent ends; what is installed stays", file=sys.stderr)


def _settings(arguments: argparse.Namespace) -> "Settings":
    from doorstep.fleet.download import Limits
    from doorstep.fleet.settings import DEFAULT_STORE, Settings, device_id
    from doorstep.fleet.transport import Network

    store = arguments.store or DEFAULT_STORE
    try:
        root = arguments.root.read_bytes()
    except OSError as error:
        raise UsageError(f"{arguments.root}: expected the depot's root.json ({error.strerror})") from error
    if len(root) > _MAX_ROOT_BYTES:
        raise UsageError(f"{arguments.root}: expected at most {_MAX_ROOT_BYTES} bytes, got {len(root)}")
    return Settings(
        depots=tuple(_address(depot) for depot in arguments.depot),
        product=arguments.product,
        channel=arguments.channel,
        root=root,
        store=store,
        device=arguments.device_id or device_id(store),
        labels=frozenset(arguments.label),
        factory=arguments.factory.absolute() if arguments.factory else None,
        every_variant=arguments.every_variant,
        report=arguments.report,
        quota_bytes=arguments.quota * 1_000_000,
        trust=TrustKey.load(arguments.trust) if arguments.trust else TrustKey.configured(),
        network=Network(ca=arguments.ca, proxy=arguments.proxy),
        limits=Limits(min_rate=arguments.min_rate, deadline_s=_seconds(arguments.deadline, "deadline")),
    )


def _address(text: str) -> str:
    return text if "://" in text else Path(text).absolute().as_uri()


def _seconds(text: str, name: str) -> float:
    match = _EVERY.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{name}: expected such as 90s, 15m, 6h or 1d, got {text!r}")
    return float(int(match[1]) * _SECONDS[match[2]])
