"""Bringing a bundle into a depot: blobs first, then deltas, the release, the channel, and the timestamp last."""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.errors import DepotError
from doorstep.files import sync_folder
from doorstep.fleet import channel as channels
from doorstep.fleet.channel import RUNNING, Channel, Health, Poll, Rollout
from doorstep.fleet.clock import to_text
from doorstep.fleet.depot import Depot, blob_path, delta_path
from doorstep.fleet.keys import KeyRing
from doorstep.fleet.release import (
    FORMAT,
    PACKED_CODECS,
    Content,
    Delta,
    PackedContent,
    Release,
    ReleaseFile,
    check_product,
    piece_size_for,
)
from doorstep.fleet.rollout import is_complete, parse_waves
from doorstep.manifest import FileEntry
from doorstep.signing import TrustKey

PAYS_BELOW = 0.6
BASES = 3
_CHUNK = 1 << 20
_LEAST_DELTA_BYTES = 4 << 10


@dataclass(frozen=True, slots=True)
class Plan:
    """How a bundle shall be published.

    Attributes:
        product: empty for the bundle's own name.
        waves: `1%, 10% after 2h, 100% after 1d`; empty to make it the default for every device at once.
        cohorts, devices, deny: who goes first, and who never; devices by their plain ids.
        health, poll, windows, report, min_seq: new values of the channel; None keeps what it has.
        piece_size: bytes; 0 chooses.
        has_deltas: make deltas from the last three releases where they pay.
        trust: the key that must have signed the bundle.
    """

    channel: str = "stable"
    product: str = ""
    waves: str = ""
    spread_minutes: int = 60
    cohorts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    health: Health | None = None
    poll: Poll | None = None
    windows: tuple[str, ...] | None = None
    report: str | None = None
    min_seq: int | None = None
    piece_size: int = 0
    has_deltas: bool = True
    trust: TrustKey | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: bytes that were new in the depot, and every delta's share of its whole file."""

    release: Release
    new_bytes: int
    delta_shares: dict[str, float] = field(default_factory=dict)


def publish(depot: Depot, ring: KeyRing, folder: Path, plan: Plan, tell: Callable[[str], None] = print) -> Published:
    """Publish the bundle in `folder`; it is verified first.

    Raises:
        BundleError: the bundle does not verify.
        DepotError: a key is missing, or another publisher is at work; readers see the depot as it was.
        UsageError, FormatError: `plan` is out of range.
    """
    bundle = Bundle.open(folder, trust=plan.trust)
    product = check_product(plan.product or bundle.manifest.name)
    with depot.lock():
        for role in ("releases", "channels", "snapshot", "timestamp"):
            ring.signers(role, *depot.key_ids(role))
        seqs = depot.seqs(product)
        release, new_bytes = _store(depot, bundle, product, (seqs[-1] if seqs else 0) + 1, plan, tell)
        channel = _channel(depot, release, plan)
        channels.encode_channel(channel)
        shares: dict[str, float] = {}
        if plan.has_deltas:
            bases = [depot.release(product, seq) for seq in seqs[-BASES:]]
            release, shares = _with_deltas(depot, release, bases, plan, tell)
        depot.add_release(release)
        depot.set_channel(channel)
        depot.save(ring, "releases", "channels")
    return Published(release, new_bytes, shares)


def change_rollout(
    depot: Depot, ring: KeyRing, product: str, name: str, change: Callable[[Rollout], Rollout]
) -> Channel:
    """Change the rollout of a channel and publish that.

    Raises:
        DepotError: no such channel, or no rollout under way.
    """
    with depot.lock():
        channel = existing_channel(depot, product, name)
        if channel.rollout is None:
            raise DepotError(
                f"{product}/{name}: no rollout is under way; release {channel.default} is for every device"
            )
        changed = replace(channel, rollout=change(channel.rollout), epoch=channel.epoch + 1)
        depot.set_channel(changed)
        depot.save(ring, "channels")
    return changed


def finish_rollout(depot: Depot, ring: KeyRing, product: str, name: str) -> Channel:
    """Make a rollout's release the default for every device, now.

    Raises:
        DepotError: no such channel, or no rollout under way.
    """
    with depot.lock():
        channel = existing_channel(depot, product, name)
        if channel.rollout is None:
            raise DepotError(f"{product}/{name}: no rollout is under way; release {channel.default} is for all")
        changed = replace(channel, default=channel.rollout.seq, rollout=None, epoch=channel.epoch + 1)
        depot.set_channel(changed)
        depot.save(ring, "channels")
    return changed


def existing_channel(depot: Depot, product: str, name: str) -> Channel:
    """Return a channel of the depot.

    Raises:
        DepotError: nothing was published to it.
    """
    channel = depot.channel(product, name)
    if channel is None:
        known = ", ".join(f"{known.product}/{known.channel}" for known in depot.channels()) or "none"
        raise DepotError(f"{depot.folder}: no channel {name!r} of {product!r}; there are: {known}")
    return channel


def cut(path: Path, piece_size: int) -> Content:
    """Return the content of a file, cut into pieces."""
    whole, pieces, size = hashlib.sha256(), [], 0
    with open(path, "rb") as file:
        while piece := file.read(piece_size):
            whole.update(piece)
            pieces.append(hashlib.sha256(piece).hexdigest())
            size += len(piece)
    return Content(whole.hexdigest(), size, piece_size, tuple(pieces))


def keep(source: Path, place: Path) -> int:
    """Copy a file to `place`, aside and then renamed, unless it is there; return the bytes written."""
    size = source.stat().st_size
    if place.exists() and place.stat().st_size == size:
        return 0
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=place.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as target, open(source, "rb") as reader:
            for chunk in _chunks(reader):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, place)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    sync_folder(place.parent)
    return size


def _chunks(reader: BinaryIO) -> Iterator[bytes]:
    while chunk := reader.read(_CHUNK):
        yield chunk


def _store(
    depot: Depot, bundle: Bundle, product: str, seq: int, plan: Plan, tell: Callable[[str], None]
) -> tuple[Release, int]:
    paths = [MANIFEST, *([SIGNATURE] if (bundle.folder / SIGNATURE).exists() else [])]
    paths += [entry.path for entry in bundle.manifest.files if (bundle.folder / entry.path).exists()]
    if absent := [entry.path for entry in bundle.manifest.files if entry.path not in paths]:
        raise DepotError(f"{bundle.folder}: {absent[0]} is not here; publish the whole bundle, devices choose")
    total = sum((bundle.folder / path).stat().st_size for path in paths)
    piece_size = plan.piece_size or piece_size_for(total)
    files, new_bytes = [], 0
    for path in paths:
        tell(path)
        content = cut(bundle.folder / path, piece_size)
        new_bytes += keep(bundle.folder / path, depot.folder / blob_path(content.sha256))
        files.append(ReleaseFile(path, content))
    forms = []
    for entry in bundle.manifest.files:
        if entry.packed is not None and entry.packed.codec in PACKED_CODECS:
            tell(f"{entry.path}, packed")
            form, written = _store_packed(depot, bundle.folder / entry.path, entry, plan)
            forms.append(form)
            new_bytes += written
    created = to_text(depot.clock.now())
    head = (FORMAT, product, bundle.manifest.version, seq, created, bundle.digest)
    return Release(*head, tuple(files), packed=tuple(forms)), new_bytes


def _store_packed(depot: Depot, source: Path, entry: FileEntry, plan: Plan) -> tuple[PackedContent, int]:
    """Make a file's packed form again and keep it, as the manifest declares it.

    Raises:
        DepotError: it comes out otherwise.
    """
    from doorstep.sparse import encode

    assert entry.packed is not None  # noqa: S101 -- asked before
    with tempfile.NamedTemporaryFile(dir=depot.folder, prefix=".packed-") as aside:
        place = Path(aside.name)
        encode(source, place)
        content = cut(place, plan.piece_size or piece_size_for(place.stat().st_size))
        if (content.size, content.sha256) != (entry.packed.size, entry.packed.sha256):
            raise DepotError(f"{source}: its packed form is not as the manifest declares it; make the bundle again")
        written = keep(place, depot.folder / blob_path(content.sha256))
    return PackedContent(entry.sha256, entry.packed.codec, content), written


def _with_deltas(
    depot: Depot, release: Release, bases: list[Release], plan: Plan, tell: Callable[[str], None]
) -> tuple[Release, dict[str, float]]:
    """Add a delta from each earlier release's file of the same path, where it is below 60 % of the whole file."""
    from doorstep.fleet.delta import encode_delta

    known = {file.content.sha256 for base in bases for file in base.files}
    deltas: dict[tuple[str, str], Delta] = {}
    shares: dict[str, float] = {}
    for file in release.files:
        target = file.content
        if target.sha256 in known or target.size < _LEAST_DELTA_BYTES:
            continue
        for base in {content.sha256: content for one in bases if (content := one.content(file.path))}.values():
            tell(f"delta of {file.path}")
            with tempfile.NamedTemporaryFile(dir=depot.folder, prefix=".delta-") as aside:
                place = Path(aside.name)
                encode_delta(depot.folder / blob_path(base.sha256), depot.folder / blob_path(target.sha256), place)
                share = place.stat().st_size / target.size
                shares[file.path] = min(share, shares.get(file.path, share))
                if share >= PAYS_BELOW:
                    continue
                content = cut(place, plan.piece_size or piece_size_for(place.stat().st_size))
                keep(place, depot.folder / delta_path(content.sha256))
            deltas[base.sha256, target.sha256] = Delta(base.sha256, target.sha256, "seg1", content)
    return replace(release, deltas=tuple(deltas.values())), shares


def _channel(depot: Depot, release: Release, plan: Plan) -> Channel:
    now = depot.clock.now()
    before = depot.channel(release.product, plan.channel)
    channel = before or Channel(channels.FORMAT, release.product, plan.channel, 0, 0)
    default = channel.default
    if channel.rollout is not None and is_complete(channel.rollout, now):
        default = channel.rollout.seq
    rollout = None
    if plan.waves or plan.cohorts or plan.devices:
        rollout = Rollout(
            seq=release.seq,
            id=f"r{release.seq}",
            salt=secrets.token_hex(8),
            state=RUNNING,
            waves=parse_waves(plan.waves, now) if plan.waves else (),
            spread_minutes=plan.spread_minutes,
            cohorts=plan.cohorts,
            devices=tuple(hashlib.sha256(device.encode()).hexdigest() for device in plan.devices),
            deny=plan.deny,
        )
    else:
        default = release.seq
    return replace(
        channel,
        epoch=channel.epoch + 1,
        default=default,
        rollout=rollout,
        min_seq=channel.min_seq if plan.min_seq is None else plan.min_seq,
        health=plan.health or channel.health,
        poll=plan.poll or channel.poll,
        windows=channel.windows if plan.windows is None else plan.windows,
        report=channel.report if plan.report is None else plan.report,
    )
