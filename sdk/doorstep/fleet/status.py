"""A device's status: one small JSON document a visit, kept until it is delivered, never in the way of an update."""

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from doorstep import __version__
from doorstep.errors import DoorstepError, TransferError
from doorstep.files import write_atomic
from doorstep.fleet.kept import FORMAT, Outcome
from doorstep.fleet.state import State
from doorstep.fleet.store import Store

MAX_BYTES = 8 << 10
MOST_SPOOLED = 24
_MOST_TEXT = 500


class Sender(Protocol):
    """What delivers."""

    def send(self, url: str, method: str, data: bytes) -> int:
        """Send `data`; return the HTTP status.

        Raises:
            TransferError: no answer.
        """


@dataclass(frozen=True, slots=True)
class Status:
    """What a device tells.

    Attributes:
        device: sha256 of its id.
        release, version: what it serves; empty for the factory's bundle.
        kind, text, target, is_stale: as in `Outcome`.
        denied: releases that failed here, with the reasons.
        agreement, drift: of the newest shadowed release; None where there was none.
    """

    format: int
    device: str
    product: str
    channel: str
    time: str
    release: str
    version: str
    phase: str
    kind: str
    text: str
    target: int = 0
    received: int = 0
    is_stale: bool = False
    denied: dict[str, str] | None = None
    labels: tuple[str, ...] = ()
    doorstep: str = ""
    arch: str = ""
    agreement: float | None = None
    drift: float | None = None


@dataclass(frozen=True, slots=True)
class Sign:
    """Who reports: the hash of the device's id, product, channel, and the device's labels."""

    device: str
    product: str
    channel: str
    labels: tuple[str, ...] = ()


def status_of(store: Store, sign: Sign, state: State, outcome: Outcome) -> Status:
    """Return what there is to tell."""
    shadow = _newest_shadow(store)
    return Status(
        format=FORMAT,
        device=sign.device,
        product=sign.product,
        channel=sign.channel,
        time=outcome.time,
        release=state.serving.id if state.serving else "",
        version=state.serving.version if state.serving else "",
        phase=state.phase,
        kind=outcome.kind,
        text=outcome.text[:_MOST_TEXT],
        target=outcome.target,
        received=outcome.received,
        is_stale=outcome.is_stale,
        denied={denied.id: denied.reason[:_MOST_TEXT] for denied in state.denied[-3:]},
        labels=sign.labels,
        doorstep=__version__,
        arch=platform.machine(),
        agreement=shadow.get("agreement"),
        drift=shadow.get("drift"),
    )


def spool(store: Store, status: Status) -> None:
    """Keep a status for delivery; the oldest go where there are too many. A full disk loses it, and nothing else."""
    folder = store.folder / "spool"
    try:
        folder.mkdir(exist_ok=True)
        kept = sorted(folder.glob("*.json"))
        for path in kept[: max(0, len(kept) - MOST_SPOOLED + 1)]:
            path.unlink(missing_ok=True)
        number = int(kept[-1].stem) + 1 if kept and kept[-1].stem.isdecimal() else 0
        data = json.dumps(asdict(status), ensure_ascii=False, sort_keys=True).encode()
        write_atomic(folder / f"{number:010}.json", data[:MAX_BYTES] if len(data) <= MAX_BYTES else b"{}")
    except OSError:
        return


def deliver(store: Store, url: str, device: str, sender: Sender) -> int:
    """Send what is spooled, oldest first, until one fails; return how many were delivered.

    `url` may hold `{device}`. `put+https://…` stores each status there (a bucket's pre-signed address), `https://…`
    posts it to a hook, `file:///FOLDER` writes it into a folder.
    """
    method = "PUT" if url.startswith("put+") else "POST"
    place = url.removeprefix("put+").replace("{device}", device)
    delivered = 0
    for path in sorted((store.folder / "spool").glob("*.json")):
        try:
            data = path.read_bytes()
            if place.startswith("file://"):
                write_atomic(Path(unquote(urlsplit(place).path)) / f"{device}.json", data)
            elif not 200 <= sender.send(place, method, data) < 300:
                break
            path.unlink()
        except (OSError, TransferError, DoorstepError):
            break
        delivered += 1
    return delivered


def _newest_shadow(store: Store) -> dict[str, float]:
    paths = sorted((store.folder / "shadow").glob("*.json"), key=lambda path: path.stat().st_mtime)
    try:
        plain = json.loads(paths[-1].read_bytes()[: 1 << 20]) if paths else {}
    except (OSError, ValueError):
        return {}
    return {name: plain[name] for name in ("agreement", "drift") if isinstance(plain.get(name), float)}
