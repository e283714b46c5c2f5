"""A small world for tests: a depot with its keys, bundles of a few kilobytes, devices, and a clock that obeys."""

import hashlib
import json
import random
import shutil
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from doorstep.bundle import Bundle, seal
from doorstep.errors import DoorstepError
from doorstep.fleet.channel import Health
from doorstep.fleet.depot import Depot, Terms
from doorstep.fleet.download import Limits
from doorstep.fleet.kept import Outcome
from doorstep.fleet.keys import KeyRing
from doorstep.fleet.publishing import Plan, Published, publish
from doorstep.fleet.release import Release
from doorstep.fleet.selftest import Verdict
from doorstep.fleet.settings import Settings
from doorstep.fleet.state import State
from doorstep.fleet.store import Store
from doorstep.fleet.transport import AnyTransport, Network, Transport
from doorstep.fleet.updater import Prover, Updater
from doorstep.manifest import FORMAT, Manifest, Variant
from doorstep.tensors import TensorSpec

PRODUCT = "reviews"
PIECE = 4 << 10
AT_ONCE = Health(confirm_requests=0, confirm_minutes=0)
_SPEC = (TensorSpec("x", "float32", ("batch", 1)),)


class ObedientClock:
    """A clock that goes only when told, or when somebody sleeps."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self.seconds = 1000.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.go(seconds)

    def go(self, seconds: float) -> None:
        self.seconds += seconds
        self.time += timedelta(seconds=seconds)


def passes(store: Store, release: Release, health: Health) -> Verdict:
    """A self-test that every release passes."""
    return Verdict("", "numpy-int8", 1.0, 10.0)


def write_bundle(folder: Path, version: str, files: dict[str, bytes]) -> Path:
    """Write a sealed bundle whose model is `files["variants/numpy-int8/model.bin"]`; no engine opens it."""
    contents = {"golden.json": b'{"format": 1, "examples": [], "tolerances": {}}', **files}
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    entry = "variants/numpy-int8/model.bin"
    mine = tuple(sorted(path for path in contents if path.startswith("variants/numpy-int8/")))
    variant = Variant("numpy-int8", "numpy", "weight_only_wi8_afp32", entry, mine, _SPEC, _SPEC, {})
    head = Manifest(FORMAT, PRODUCT, version, "2026-01-01T00:00:00Z", "tensors", {}, (), (variant,))
    seal(folder, head, is_packed=True)
    return folder


def noise(size: int, seed: int) -> bytes:
    """Return bytes that do not compress."""
    return random.Random(seed).randbytes(size)  # noqa: S311 -- test data


def model(version: int, size: int = 30_000) -> bytes:
    """Return weights: those of version 1, with every tenth byte moved by one in each later version."""
    data = bytearray(noise(size, 1))
    for place in range(0, size, 10):
        data[place] = (data[place] + version) % 256
    return bytes(data)


def files_of(version: int) -> dict[str, bytes]:
    """Return a bundle's files: a model that moves with every version, a tokenizer that stays, labels that change."""
    return {
        "variants/numpy-int8/model.bin": model(version),
        "tokenizer.json": b'{"tokens": "%s"}' % noise(3000, 7).hex().encode(),
        "labels.json": json.dumps([f"label {version}"]).encode(),
    }


@dataclass
class World:
    """A depot in `folder`/depot, its keys, and devices in folders of their own."""

    folder: Path
    clock: ObedientClock = field(default_factory=ObedientClock)
    terms: Terms = field(default_factory=Terms)

    @classmethod
    def make(cls, folder: Path) -> "World":
        world = cls(folder)
        ring = KeyRing(folder / "keys", {})
        Depot.init(world.depot_folder, ring, clock=world.clock)
        return world

    @property
    def depot_folder(self) -> Path:
        return self.folder / "depot"

    @property
    def depot(self) -> Depot:
        return Depot.open(self.depot_folder, clock=self.clock)

    @property
    def ring(self) -> KeyRing:
        return KeyRing.open(self.folder / "keys")

    @property
    def root(self) -> bytes:
        return (self.depot_folder / "root.json").read_bytes()

    @property
    def address(self) -> str:
        return self.depot_folder.as_uri()

    def publish(self, version: int, files: dict[str, bytes] | None = None, **plan: Any) -> Published:
        """Publish a bundle of that version; by default for every device at once, committed at once."""
        folder = self.folder / "drafts" / str(version)
        shutil.rmtree(folder, ignore_errors=True)
        write_bundle(folder, str(version), files or files_of(version))
        made = Plan(piece_size=PIECE, health=AT_ONCE)
        made = replace(made, **plan)
        return publish(self.depot, self.ring, folder, made, tell=lambda text: None)

    def settings(self, device: str = "kiosk", **changes: Any) -> Settings:
        made = Settings(
            depots=(self.address,),
            product=PRODUCT,
            channel="stable",
            root=self.root,
            store=self.folder / "devices" / device,
            device=device,
            limits=Limits(min_rate=0, tries=3),
            network=Network(connect_s=2.0, stall_s=2.0),
        )
        return replace(made, **changes)

    def updater(
        self, device: str = "kiosk", *, prover: Prover = passes, transport: Transport | None = None, **changes: Any
    ) -> Updater:
        settings = self.settings(device, **changes)
        return Updater(settings, clock=self.clock, transport=transport or AnyTransport(settings.network), prover=prover)

    def run(self, device: str = "kiosk", **changes: Any) -> Outcome:
        """Let a device visit the depot once."""
        outcome: Outcome = self.updater(device, **changes).run()
        return outcome

    def store(self, device: str = "kiosk") -> Store:
        return Store.open(self.folder / "devices" / device, PRODUCT)

    def state(self, device: str = "kiosk") -> State:
        return self.store(device).state()

    def served(self, device: str = "kiosk") -> str:
        """Return the version of what the device serves, all of it verified."""
        return self.store(device).boot(Bundle.open).opened.manifest.version


def stray(store: Store) -> list[str]:
    """Return what a finished update must not leave behind."""
    found = [path.name for path in store.parts.iterdir()]
    found += [path.name for path in store.releases.iterdir() if path.name.startswith(".")]
    found += [path.name for path in store.folder.iterdir() if path.name.startswith(".")]
    return found


def digest_of(folder: Path) -> str:
    """Return a digest of a whole tree: names, links and bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(path.relative_to(folder).as_posix().encode())
        if path.is_symlink():
            digest.update(str(path.readlink()).encode())
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def error_of(call: Any) -> str:
    """Return the message of the known error that `call` ends in; empty where it does not."""
    try:
        call()
    except DoorstepError as error:
        return str(error)
    return ""
