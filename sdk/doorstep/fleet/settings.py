"""What a device is told once: which depot, which product, and who it is. Kept in the store, so that the other verbs
need not be told again.
"""

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from doorstep.decoding import decode_json
from doorstep.errors import UsageError
from doorstep.files import write_atomic
from doorstep.fleet.download import Limits
from doorstep.fleet.release import check_product
from doorstep.fleet.rollout import Subject
from doorstep.fleet.transport import Network
from doorstep.signing import TrustKey

FORMAT = 1
DEFAULT_STORE = Path("/var/lib/doorstep")
_MACHINE_ID = Path("/etc/machine-id")
_MAX_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Settings:
    """One product on one device.

    Attributes:
        depots: addresses of the depot and its mirrors, the best first.
        root: the bytes of root.json, shipped with the device.
        store: folder that holds the products' stores.
        device: this device's id; hashed before it leaves.
        labels: cohorts and hardware revision.
        quota_bytes: most that the product's store may take; 0 for no bound but the disk's.
        report: address of this device's own for status reports; empty for the channel's.
        recheck_s: how often a long transfer asks whether the rollout was halted.
    """

    depots: tuple[str, ...]
    product: str
    channel: str
    root: bytes
    store: Path
    device: str
    labels: frozenset[str] = frozenset()
    factory: Path | None = None
    every_variant: bool = False
    quota_bytes: int = 0
    report: str = ""
    recheck_s: float = 60.0
    trust: TrustKey | None = None
    network: Network = field(default_factory=Network)
    limits: Limits = field(default_factory=Limits)

    @property
    def subject(self) -> Subject:
        """Who decides."""
        return Subject(self.device, self.labels)

    @property
    def device_hash(self) -> str:
        """What stands for the device outside of it."""
        return hashlib.sha256(self.device.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """What a store remembers of its agent."""

    format: int
    depots: tuple[str, ...]
    product: str
    channel: str
    device: str
    labels: tuple[str, ...]
    factory: str = ""


def keep_settings(settings: Settings) -> None:
    """Write down what other verbs need."""
    kept = Kept(
        FORMAT, settings.depots, settings.product, settings.channel, settings.device, tuple(sorted(settings.labels)),
        str(settings.factory or ""),
    )  # fmt: skip
    data = json.dumps(asdict(kept), ensure_ascii=False, indent=2, sort_keys=True).encode() + b"\n"
    place = _place(settings.store, settings.product)
    if not place.is_file() or place.read_bytes() != data:
        write_atomic(place, data)


def kept_settings(store: Path, product: str) -> Kept:
    """Read what an agent wrote down.

    Raises:
        UsageError: no agent ran with this store yet. FormatError: malformed.
    """
    place = _place(store, product)
    if not place.is_file():
        raise UsageError(f"{store}: no agent has run for {product!r} there; name the store with --store")
    with open(place, "rb") as file:
        return decode_json(file.read(_MAX_BYTES), Kept, str(place), FORMAT)


def only_product(store: Path) -> str:
    """Return the name of the one product in a store.

    Raises:
        UsageError: none, or several.
    """
    found = sorted(place.parent.name for place in store.glob("*/agent.json"))
    if len(found) != 1:
        what = f"several products ({', '.join(found)})" if found else "no product"
        raise UsageError(f"{store}: holds {what}; name one with --product, or another store with --store")
    return found[0]


def device_id(store: Path) -> str:
    """Return the machine's id, else one made once and kept in `store`."""
    try:
        text = _MACHINE_ID.read_text().strip()
        if len(text) == 32:
            return text
    except OSError:
        pass
    place = store / "device-id"
    if not place.is_file():
        store.mkdir(parents=True, exist_ok=True)
        write_atomic(place, uuid.uuid4().hex.encode() + b"\n")
    return place.read_text().strip()


def _place(store: Path, product: str) -> Path:
    return store / check_product(product) / "agent.json"
