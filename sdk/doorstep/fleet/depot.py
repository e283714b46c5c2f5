"""The depot: signed metadata, content by digest, nothing but static files. Any web server, CDN or bucket serves it.

    metadata/  timestamp.json, N.root.json, N.snapshot.json, N.targets.json, N.releases.json, N.channels.json
    targets/   channels/PRODUCT/SHA256.CHANNEL.json, releases/PRODUCT/SHA256.SEQ.json
    blobs/     AB/SHA256
    deltas/    AB/SHA256

Roles, as in The Update Framework (https://theupdateframework.github.io/specification/latest/): `root` and `targets`
offline; `releases` and `channels` delegated by `targets`, the first offline, the second online with `snapshot` and
`timestamp`. Every file but timestamp.json is immutable, and timestamp.json is written last: at any moment a reader
sees the old depot or the new one.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from doorstep.errors import DepotError, FormatError
from doorstep.files import write_atomic
from doorstep.fleet.channel import Channel, decode_channel, encode_channel
from doorstep.fleet.clock import Clock, SystemClock
from doorstep.fleet.keys import KeyRing
from doorstep.fleet.release import Release, decode_release, encode_release

ONLINE = ("channels", "snapshot", "timestamp")
ROLES = ("root", "targets", "releases", *ONLINE)
_DELEGATED = {"releases": "releases/*/*", "channels": "channels/*/*"}
_MAX_METADATA_BYTES = 8 << 20
_COMPACT = JSONSerializer(compact=True)


@dataclass(frozen=True, slots=True)
class Terms:
    """How long each role's signature is valid (days), and how many root keys there are and are needed."""

    days: dict[str, int] = field(
        default_factory=lambda: {
            "root": 365, "targets": 365, "releases": 180, "channels": 14, "snapshot": 14, "timestamp": 7,
        }
    )  # fmt: skip
    root_keys: int = 3
    root_threshold: int = 2


class Depot:
    """A depot's folder and its newest metadata. Made by `Depot.init` and `Depot.open`."""

    def __init__(self, folder: Path, metadata: dict[str, Metadata[Any]], terms: Terms, clock: Clock) -> None:
        self.folder = folder
        self.terms = terms
        self.clock = clock
        self._metadata = metadata

    @classmethod
    def init(cls, folder: Path, ring: KeyRing, terms: Terms | None = None, clock: Clock | None = None) -> "Depot":
        """Make an empty depot and its keys; devices are to be given `root.json`.

        Raises:
            DepotError: there is a depot already, or keys of the same names.
        """
        terms, clock = terms or Terms(), clock or SystemClock()
        if (folder / "metadata").exists():
            raise DepotError(f"{folder}: there is a depot already; nothing was changed")
        root = Root(consistent_snapshot=True)
        for number in range(terms.root_keys):
            root.add_key(ring.make(f"root-{number + 1}"), "root")
        root.roles["root"].threshold = terms.root_threshold
        for role in ("targets", "snapshot", "timestamp"):
            root.add_key(ring.make(f"{role}-1"), role)
        targets = Targets(delegations=Delegations({}, {}))
        delegations = targets.delegations
        assert delegations is not None and delegations.roles is not None  # noqa: S101 -- made two lines above
        for role, pattern in _DELEGATED.items():
            delegations.roles[role] = DelegatedRole(role, [], 1, True, [pattern])
            targets.add_key(ring.make(f"{role}-1"), role)
        metadata: dict[str, Metadata[Any]] = {
            "root": Metadata(root), "targets": Metadata(targets), "releases": Metadata(Targets()),
            "channels": Metadata(Targets()), "snapshot": Metadata(Snapshot()), "timestamp": Metadata(Timestamp()),
        }  # fmt: skip
        for made in metadata.values():
            made.signed.version = 0
        depot = cls(folder, metadata, terms, clock)
        (folder / "metadata").mkdir(parents=True)
        depot.save_root(ring)
        depot.save(ring, "targets", "releases", "channels")
        write_atomic(folder / "root.json", (folder / "metadata" / "1.root.json").read_bytes())
        return depot

    @classmethod
    def open(cls, folder: Path, terms: Terms | None = None, clock: Clock | None = None) -> "Depot":
        """Read a depot's newest metadata.

        Raises:
            DepotError: no depot there, or its metadata is damaged.
        """
        place = folder / "metadata"
        if not place.is_dir():
            raise DepotError(f"{folder}: expected a depot; make one with: doorstep depot init {folder}")
        timestamp: Metadata[Timestamp] = _load(place / "timestamp.json")
        snapshot: Metadata[Snapshot] = _load(place / f"{timestamp.signed.snapshot_meta.version}.snapshot.json")
        metadata: dict[str, Metadata[Any]] = {"timestamp": timestamp, "snapshot": snapshot}
        metadata["root"] = _load(place / f"{newest_root(folder)}.root.json")
        for role in ("targets", "releases", "channels"):
            metadata[role] = _load(place / f"{snapshot.signed.meta[f'{role}.json'].version}.{role}.json")
        return cls(folder, metadata, terms or Terms(), clock or SystemClock())

    def signed(self, role: str) -> Any:
        """Return the newest metadata of `role`, as python-tuf has it."""
        return self._metadata[role].signed

    def key_ids(self, role: str) -> tuple[list[str], int]:
        """Return the ids of the keys that may sign for `role`, and how many must."""
        owner = self.signed("targets") if role in _DELEGATED else self.signed("root")
        found = owner.get_delegated_role(role)
        return list(found.keyids), found.threshold

    def save(self, ring: KeyRing, *roles: str) -> None:
        """Sign and write `roles`, then snapshot, then timestamp; on return readers see them.

        Raises:
            DepotError: a key is not in `ring`; nothing that a reader sees was changed.
        """
        for role in (*roles, "snapshot", "timestamp"):
            ring.signers(role, *self.key_ids(role))
        snapshot, timestamp = self.signed("snapshot"), self.signed("timestamp")
        for role in roles:
            data = self._sign(role, ring)
            write_atomic(self._place(role), data)
            snapshot.meta[f"{role}.json"] = MetaFile(self.signed(role).version)
        data = self._sign("snapshot", ring)
        write_atomic(self._place("snapshot"), data)
        timestamp.snapshot_meta = MetaFile(snapshot.version, len(data))
        data = self._sign("timestamp", ring)
        write_atomic(self.folder / "metadata" / "timestamp.json", data)

    def save_root(self, ring: KeyRing, before: tuple[list[str], int] | None = None) -> None:
        """Sign and write the root, by its own keys and, after a change of keys, by those `before` too."""
        own = ring.signers("root", *self.key_ids("root"))
        old = ring.signers("root", *before) if before else []
        self._date("root")
        made = self._metadata["root"]
        made.signatures.clear()
        for signer in {signer.public_key.keyid: signer for signer in (*old, *own)}.values():
            made.sign(signer, append=True)
        write_atomic(self._place("root"), made.to_bytes(_COMPACT))

    def add_target(self, role: str, path: str, data: bytes) -> None:
        """Write a target's bytes under its digest and list it; `save` makes it seen."""
        made = TargetFile.from_data(path, data, ["sha256"])
        place = self.folder / "targets" / hashed_name(path, made.hashes["sha256"])
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, data)
        self.signed(role).targets[path] = made

    def read_target(self, role: str, path: str) -> bytes | None:
        """Return a target's bytes, compared with its digest; None where none is listed.

        Raises:
            DepotError: missing or altered.
        """
        listed = self.signed(role).targets.get(path)
        if listed is None:
            return None
        place = self.folder / "targets" / hashed_name(path, listed.hashes["sha256"])
        try:
            data = place.read_bytes()
            listed.verify_length_and_hashes(data)
        except (OSError, RepositoryError) as error:
            raise DepotError(f"{place}: missing or altered ({error!s:.120}); publish again") from error
        return data

    def channel(self, product: str, channel: str) -> Channel | None:
        """Return a channel; None where nothing was published to it yet."""
        data = self.read_target("channels", channel_path(product, channel))
        return None if data is None else decode_channel(data)

    def set_channel(self, channel: Channel) -> None:
        """Write a channel; `save(ring, "channels")` makes it seen."""
        self.add_target("channels", channel_path(channel.product, channel.channel), encode_channel(channel))

    def release(self, product: str, seq: int) -> Release:
        """Return a release.

        Raises:
            DepotError: no such release.
        """
        data = self.read_target("releases", release_path(product, seq))
        if data is None:
            raise DepotError(f"{self.folder}: no release {seq} of {product}; there are {self.seqs(product) or 'none'}")
        return decode_release(data)

    def add_release(self, release: Release) -> None:
        """Write a release; `save(ring, "releases")` makes it seen."""
        self.add_target("releases", release_path(release.product, release.seq), encode_release(release))

    def seqs(self, product: str) -> list[int]:
        """Return the numbers of a product's releases, rising."""
        prefix = f"releases/{product}/"
        paths = (path for path in self.signed("releases").targets if path.startswith(prefix))
        return sorted(int(path[len(prefix) : -len(".json")]) for path in paths)

    def channels(self) -> list[Channel]:
        """Return every channel."""
        found = []
        for path in sorted(self.signed("channels").targets):
            data = self.read_target("channels", path)
            if data is not None:
                found.append(decode_channel(data))
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other publishers out.

        Raises:
            DepotError: another one is at work.
        """
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DepotError(f"{self.folder}: another publisher is at work; try again when it is done") from error
            yield
        finally:
            os.close(handle)

    def _sign(self, role: str, ring: KeyRing) -> bytes:
        self._date(role)
        made = self._metadata[role]
        made.signatures.clear()
        for signer in ring.signers(role, *self.key_ids(role)):
            made.sign(signer, append=True)
        return made.to_bytes(_COMPACT)

    def _date(self, role: str) -> None:
        signed = self.signed(role)
        signed.version += 1
        signed.expires = self.clock.now().replace(microsecond=0) + timedelta(days=self.terms.days[role])

    def _place(self, role: str) -> Path:
        return self.folder / "metadata" / f"{self.signed(role).version}.{role}.json"


def newest_root(folder: Path) -> int:
    """Return the highest version of a root in a depot.

    Raises:
        DepotError: there is none.
    """
    names = [path.name.partition(".")[0] for path in (folder / "metadata").glob("*.root.json")]
    versions = [int(name) for name in names if name.isdecimal()]
    if not versions:
        raise DepotError(f"{folder}: no root metadata; this is no depot, or a part of one")
    return max(versions)


def channel_path(product: str, channel: str) -> str:
    """Return the target path of a channel."""
    return f"channels/{product}/{channel}.json"


def release_path(product: str, seq: int) -> str:
    """Return the target path of a release."""
    return f"releases/{product}/{seq}.json"


def hashed_name(path: str, digest: str) -> str:
    """Return where a target's bytes lie below `targets`: TUF's consistent snapshots put the digest into the name."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{digest}.{name}"


def blob_path(digest: str) -> str:
    """Return where a blob lies below the depot."""
    return f"blobs/{digest[:2]}/{digest}"


def delta_path(digest: str) -> str:
    """Return where a delta lies below the depot."""
    return f"deltas/{digest[:2]}/{digest}"


def _load(path: Path) -> Metadata[Any]:
    try:
        with open(path, "rb") as file:
            return Metadata.from_bytes(file.read(_MAX_METADATA_BYTES))
    except (OSError, RepositoryError, ValueError, FormatError) as error:
        raise DepotError(f"{path}: expected signed metadata ({error!s:.120}); restore it from a backup") from error
