"""The depot's upkeep: check it, collect garbage, sign again before signatures expire, change keys, copy it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from doorstep.decoding import parse_json
from doorstep.errors import DepotError, FormatError, UsageError
from doorstep.files import write_atomic
from doorstep.fleet.clock import from_text, to_text
from doorstep.fleet.depot import (
    ONLINE,
    ROLES,
    Depot,
    blob_path,
    delta_path,
    hashed_name,
    newest_root,
    release_path,
)
from doorstep.fleet.keys import KeyRing
from doorstep.fleet.release import Content, decode_release

_SOON = timedelta(days=3)
_RETIRED = ".retired.json"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a depot, or soon will be."""

    is_error: bool
    text: str


@dataclass(frozen=True, slots=True)
class Collected:
    """What garbage collection did: releases no longer listed, files deleted, and files that wait for their time."""

    releases: int
    files: int
    bytes: int
    waiting: int


def fsck(depot: Depot) -> list[Finding]:
    """Compare everything a device could ask for with its signature and digest, and look at expiry dates."""
    findings = [*_check_signatures(depot), *_check_expiry(depot)]
    for role in ("releases", "channels"):
        for path in sorted(depot.signed(role).targets):
            try:
                data = depot.read_target(role, path)
            except DepotError as error:
                findings.append(Finding(True, str(error)))
                continue
            if role == "releases" and data is not None:
                findings += _check_contents(depot, path, data)
    for channel in depot.channels():
        wanted = {channel.default, channel.rollout.seq if channel.rollout else 0} - {0}
        for seq in sorted(wanted - set(depot.seqs(channel.product))):
            text = f"channel {channel.product}/{channel.channel} points at release {seq}, which is not listed"
            findings.append(Finding(True, text))
    return findings


def gc(depot: Depot, ring: KeyRing, keep: int, grace: timedelta) -> Collected:
    """Delist releases that no channel names, but the newest `keep` of each product; delete files `grace` after that.

    A device that reads an older timestamp must still find what that names, so a file is deleted only when it has been
    without a reference for `grace`.

    Raises:
        UsageError: `keep` below 1.
        DepotError: the releases key is needed and not there, or another publisher is at work.
    """
    if keep < 1:
        raise UsageError(f"keep: expected at least 1, got {keep}")
    with depot.lock():
        old = _old_releases(depot, keep)
        for product, seq in old:
            del depot.signed("releases").targets[release_path(product, seq)]
        if old:
            depot.save(ring, "releases")
        now = depot.clock.now()
        retired = _load_retired(depot)
        referenced = _referenced(depot)
        waiting: dict[str, str] = {}
        files = size = 0
        for path in _all_files(depot.folder):
            if path in referenced:
                continue
            since = retired.get(path, to_text(now))
            if now - from_text(since) < grace:
                waiting[path] = since
                continue
            size += (depot.folder / path).stat().st_size
            (depot.folder / path).unlink()
            files += 1
        write_atomic(depot.folder / _RETIRED, json.dumps(waiting, indent=0, sort_keys=True).encode())
    return Collected(len(old), files, size, len(waiting))


def resign(depot: Depot, ring: KeyRing) -> list[str]:
    """Sign again what the keys in `ring` allow, so that nothing expires; return the roles. To be run once a day.

    Raises:
        DepotError: an online key is missing, or another publisher is at work.
    """
    with depot.lock():
        half = {role: timedelta(days=depot.terms.days[role]) / 2 for role in ROLES}
        now = depot.clock.now()
        due = [role for role in ("targets", "releases", "channels") if depot.signed(role).expires - now < half[role]]
        able = [role for role in due if role in ONLINE or _is_able(depot, ring, role)]
        depot.save(ring, *able)
    return [*able, "snapshot", "timestamp"]


def rotate_key(depot: Depot, ring: KeyRing, role: str, key_id: str | None = None) -> str:
    """Make a new key for `role` and revoke an old one (the first, where `key_id` names none); return its id.

    A new root is signed by the old keys and the new ones; devices follow from version to version. Where the keys of
    timestamp or snapshot change, devices forget the versions they knew of those: whoever stole such a key may have
    signed very high ones.

    Raises:
        UsageError: no such role or key. DepotError: a key that must sign is missing.
    """
    if role not in ROLES:
        raise UsageError(f"role: expected one of {', '.join(ROLES)}, got {role!r}")
    with depot.lock():
        ids, _ = depot.key_ids(role)
        if key_id is not None and key_id not in ids:
            raise UsageError(f"{role}: expected one of its keys {', '.join(ids)}, got {key_id!r}")
        before = depot.key_ids("root")
        is_delegated = role in ("releases", "channels")
        needed = ("targets", role) if is_delegated else (role,)
        for one in {*needed, "snapshot", "timestamp", *([] if is_delegated else ["root"])} - {role}:
            ring.signers(one, *depot.key_ids(one))
        made = ring.make(ring.unused_name(role))
        owner = depot.signed("targets") if is_delegated else depot.signed("root")
        owner.add_key(made, role)
        owner.revoke_key(key_id or ids[0], role)
        ring.signers(role, *depot.key_ids(role))
        if not is_delegated:
            depot.save_root(ring, before)
        depot.save(ring, *(one for one in needed if one in ("targets", "releases", "channels")))
    return str(made.keyid)


def export(depot: Depot, out: Path) -> int:
    """Copy what devices can ask for to `out`, for a USB stick or a mirror; return the bytes copied.

    The timestamp is copied last, so that a copy cut short is an older depot, not a broken one.
    """
    copied = 0
    paths = [*sorted(_referenced(depot)), "root.json", "metadata/timestamp.json"]
    for path in paths:
        source, place = depot.folder / path, out / path
        is_same = place.exists() and place.stat().st_size == source.stat().st_size and "timestamp" not in path
        if is_same or not source.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f".{place.name}.part")
        shutil.copyfile(source, aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        aside.replace(place)
        copied += source.stat().st_size
    return copied


def _check_signatures(depot: Depot) -> Iterator[Finding]:
    place = depot.folder / "metadata"
    try:
        before = Metadata.from_bytes((place / "1.root.json").read_bytes())
        for version in range(1, newest_root(depot.folder) + 1):
            data = Metadata.from_bytes((place / f"{version}.root.json").read_bytes())
            before.signed.verify_delegate("root", data.signed_bytes, data.signatures)
            data.signed.verify_delegate("root", data.signed_bytes, data.signatures)
            before = data
        for role in ROLES[1:]:
            owner = depot.signed("targets") if role in ("releases", "channels") else depot.signed("root")
            name = "timestamp.json" if role == "timestamp" else f"{depot.signed(role).version}.{role}.json"
            data = Metadata.from_bytes((place / name).read_bytes())
            owner.verify_delegate(role, data.signed_bytes, data.signatures)
    except (RepositoryError, OSError, ValueError) as error:
        yield Finding(True, f"metadata: {error!s:.200}")


def _check_expiry(depot: Depot) -> Iterator[Finding]:
    now = depot.clock.now()
    for role in ROLES:
        left = depot.signed(role).expires - now
        if left < timedelta():
            yield Finding(True, f"{role}: expired {-left.days} days ago; run: doorstep depot resign")
        elif left < _SOON:
            yield Finding(False, f"{role}: expires in {left.days} days; run: doorstep depot resign")


def _check_contents(depot: Depot, path: str, data: bytes) -> Iterator[Finding]:
    try:
        release = decode_release(data)
    except FormatError as error:
        yield Finding(True, f"{path}: {error}")
        return
    contents = [(blob_path(file.content.sha256), file.content) for file in release.files]
    contents += [(delta_path(delta.content.sha256), delta.content) for delta in release.deltas]
    contents += [(blob_path(packed.content.sha256), packed.content) for packed in release.packed]
    for name, content in contents:
        if problem := _difference(depot.folder / name, content):
            yield Finding(True, f"{path}: {name} {problem}; publish the bundle again")


def _difference(place: Path, content: Content) -> str:
    if not place.is_file():
        return "is missing"
    if place.stat().st_size != content.size:
        return f"has {place.stat().st_size} bytes, expected {content.size}"
    digest = hashlib.sha256()
    with open(place, "rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return "" if digest.hexdigest() == content.sha256 else "is altered"


def _old_releases(depot: Depot, keep: int) -> list[tuple[str, int]]:
    named = {
        (one.product, seq) for one in depot.channels() for seq in (one.default, one.rollout.seq if one.rollout else 0)
    }
    products = {path.split("/")[1] for path in depot.signed("releases").targets}
    return [
        (product, seq)
        for product in sorted(products)
        for seq in depot.seqs(product)[:-keep]
        if (product, seq) not in named
    ]


def _referenced(depot: Depot) -> set[str]:
    found = {f"metadata/{version}.root.json" for version in range(1, newest_root(depot.folder) + 1)}
    found |= {f"metadata/{depot.signed(role).version}.{role}.json" for role in ROLES[1:-1]}
    found.add("metadata/timestamp.json")
    for role in ("releases", "channels"):
        for path, target in depot.signed(role).targets.items():
            found.add(f"targets/{hashed_name(path, target.hashes['sha256'])}")
            if role == "releases" and (data := depot.read_target(role, path)) is not None:
                release = decode_release(data)
                found |= {blob_path(file.content.sha256) for file in release.files}
                found |= {delta_path(delta.content.sha256) for delta in release.deltas}
                found |= {blob_path(packed.content.sha256) for packed in release.packed}
    return found


def _all_files(folder: Path) -> Iterator[str]:
    for part in ("metadata", "targets", "blobs", "deltas"):
        for root, _, names in os.walk(folder / part):
            for name in names:
                yield (Path(root) / name).relative_to(folder).as_posix()


def _load_retired(depot: Depot) -> dict[str, str]:
    place = depot.folder / _RETIRED
    if not place.exists():
        return {}
    plain = parse_json(place.read_bytes(), _RETIRED)
    return {str(path): str(since) for path, since in plain.items()} if isinstance(plain, dict) else {}


def _is_able(depot: Depot, ring: KeyRing, role: str) -> bool:
    try:
        ring.signers(role, *depot.key_ids(role))
    except DepotError:
        return False
    return True
