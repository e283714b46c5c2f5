"""The trust floor: what this device has once trusted, it never trusts less.

python-tuf keeps its own memory of versions in files it does not flush. After a power cut those may be empty, and an
empty file counts as "never seen anything": metadata replayed from last year would be accepted. The floor is kept in
two flushed slots and compared after every refresh.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from doorstep.decoding import decode_json
from doorstep.errors import IntegrityError, TrustError
from doorstep.fleet.slots import Slots

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Floor:
    """The highest versions that were trusted.

    Attributes:
        timestamp_keys, snapshot_keys: digests of the key sets that signed those roles. A root that changes them
            starts their versions anew: whoever stole an online key may have signed very high ones.
        seq: highest release committed here.
        latest: a time that is surely past (UTC, ISO 8601): a clock before it is wrong.
    """

    format: int = FORMAT
    root: int = 0
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    timestamp_keys: str = ""
    snapshot_keys: str = ""
    seq: int = 0
    latest: str = ""


class FloorFile:
    """The floor kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self._slots = Slots(folder, "floor")
        self._folder = folder

    def load(self) -> Floor:
        """Return the floor; the lowest one where none was kept yet.

        Raises:
            TrustError: it was kept and cannot be read.
        """
        try:
            body = self._slots.load()
        except IntegrityError as error:
            raise TrustError(
                f"{error}; this device no longer knows what it trusted: give it a new root.json, remove {self._folder}"
            ) from error
        return Floor() if body is None else decode_json(body, Floor, "trust floor", FORMAT)

    def save(self, floor: Floor) -> None:
        """Keep `floor`; on return it outlives a power cut."""
        self._slots.save(json.dumps(asdict(floor), sort_keys=True).encode())


def raise_floor(floor: Floor, seen: Floor) -> Floor:
    """Return the floor after `seen` was trusted; `seen` has no seq of its own.

    Raises:
        TrustError: `seen` is below the floor.
    """
    _require("root", floor.root, seen.root)
    is_new_root = seen.root > floor.root
    _require("targets", floor.targets, seen.targets)
    if not (is_new_root and floor.timestamp_keys != seen.timestamp_keys):
        _require("timestamp", floor.timestamp, seen.timestamp)
    if not (is_new_root and floor.snapshot_keys != seen.snapshot_keys):
        _require("snapshot", floor.snapshot, seen.snapshot)
    return replace(seen, seq=floor.seq, latest=max(floor.latest, seen.latest))


def _require(role: str, floor: int, seen: int) -> None:
    if seen < floor:
        raise TrustError(
            f"{role} version {seen} is older than version {floor}, which this device has trusted; it was replayed, or "
            f"the depot was restored from an old backup"
        )
