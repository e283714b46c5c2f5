"""Faults 4, 5, 19 to 26 and 35: replays, wrong keys, expiry, clocks, and what a power cut leaves of the metadata."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, TargetFile
from tuf.ngclient import Updater as TufUpdater

from device_tests.fleet.fault_server import Exchange, Served
from device_tests.fleet.world import PRODUCT, World
from doorstep.errors import DepotError
from doorstep.fleet import care
from doorstep.fleet.depot import Depot, hashed_name, release_path
from doorstep.fleet.floor import FloorFile
from doorstep.fleet.kept import Outcome
from doorstep.fleet.publishing import existing_channel
from doorstep.fleet.release import encode_release

WEEK = 7 * 86400


def keep_depot(world: World, name: str) -> Path:
    """Copy the depot as it is now, to be replayed."""
    return Path(shutil.copytree(world.depot_folder, world.folder / name))


def metadata_of(world: World) -> Path:
    return world.store().trust / "metadata"


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "emptied",
    [(), ("timestamp",), ("snapshot",), ("targets",), ("timestamp", "snapshot", "targets", "releases", "channels")],
    ids=["19 nothing lost", "timestamp", "snapshot", "targets", "4 all of it"],
)
def test_replayed_metadata_is_refused_whatever_a_power_cut_left(world: World, emptied: tuple[str, ...]) -> None:
    world.run()
    old = keep_depot(world, "old")
    world.publish(2)
    assert world.run().kind == "updated"
    for role in emptied:
        empty(metadata_of(world) / f"{role}.json")
    outcome = world.run(depots=(old.as_uri(),))
    assert outcome.kind == "failed"
    assert world.served() == "2"


def test_python_tuf_alone_accepts_that_replay(world: World) -> None:
    """The reason for the floor: should this fail one day, python-tuf has closed the hole itself."""
    world.run()
    old = keep_depot(world, "old")
    world.publish(2)
    world.run()
    for role in ("timestamp", "snapshot", "targets"):
        empty(metadata_of(world) / f"{role}.json")
    trust = world.updater()._trust
    updater = trust._refresh_from(old.as_uri(), world.updater()._transport, trust.floor_file.load())
    assert isinstance(updater, TufUpdater)


def test_5_metadata_by_revoked_keys_is_refused_when_the_newer_root_was_lost(world: World) -> None:
    world.run()
    old = keep_depot(world, "old")
    for role in ("timestamp", "snapshot", "targets"):
        care.rotate_key(world.depot, world.ring, role)
    assert world.run().kind == "current"
    for path in (metadata_of(world) / "root_history").iterdir():
        if not path.name.startswith("1."):
            empty(path)
    for role in ("timestamp", "snapshot", "targets", "releases", "channels"):
        empty(metadata_of(world) / f"{role}.json")
    outcome = world.run(depots=(old.as_uri(),))
    assert (outcome.kind, outcome.is_stale) == ("failed", True)
    assert "root version 1 is older than version 4" in outcome.text


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 300])
@pytest.mark.parametrize("name", ["root.json", "root_history/1.root.json", "timestamp.json", "channels.json"])
def test_damaged_metadata_on_the_disk_is_fetched_again(world: World, name: str, damage: bytes) -> None:
    world.run()
    world.publish(2)
    (metadata_of(world) / name).unlink()
    (metadata_of(world) / name).write_bytes(damage)
    assert world.run().kind == "updated"


def test_20_a_channel_that_points_back_moves_nobody_back(world: World) -> None:
    world.run()
    world.publish(2)
    world.run()
    depot = world.depot
    depot.set_channel(replace(existing_channel(depot, PRODUCT, "stable"), default=1, epoch=9))
    depot.save(world.ring, "channels")
    outcome = world.run()
    assert "older than release 2" in outcome.text
    assert world.served() == "2"
    assert world.run("new").text.startswith("release 1-")


def test_20_going_back_is_publishing_again_and_fetches_no_content(world: World) -> None:
    first = world.depot.release(PRODUCT, 1)
    world.run()
    world.publish(2)
    world.run()
    world.publish(1)
    outcome = world.run()
    assert (outcome.kind, outcome.received) == ("updated", 0)
    assert world.served() == "1"
    assert world.state().current.id == f"3-{first.bundle[:12]}"  # type: ignore[union-attr]


def test_21_expired_metadata_is_reported_and_what_is_installed_goes_on(world: World) -> None:
    world.run()
    world.publish(2)
    world.clock.go(2 * WEEK)
    outcome = world.run()
    assert (outcome.kind, outcome.is_stale) == ("failed", True)
    assert "expired" in outcome.text
    assert world.served() == "1"
    care.resign(world.depot, world.ring)
    assert world.run().kind == "updated"


def test_22_a_device_starts_though_everything_has_expired(world: World) -> None:
    world.run()
    world.clock.go(5000 * 86400)
    shutil.rmtree(world.depot_folder)
    assert world.served() == "1"


def sign_with_others(world: World, role: str) -> None:
    """Sign the newest metadata of `role` with keys that nobody trusts."""
    made = World.make(world.folder / "theirs")
    theirs = made.ring.signers(role, *made.depot.key_ids(role))
    depot = world.depot
    signed = depot.signed(role)
    path = depot.folder / "metadata" / ("timestamp.json" if role == "timestamp" else f"{signed.version}.{role}.json")
    data: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
    data.signatures.clear()
    data.sign(theirs[0])
    path.write_bytes(data.to_bytes())


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "releases", "channels"])
def test_23_metadata_by_a_wrong_key_is_refused(world: World, role: str) -> None:
    world.run()
    world.publish(2)
    sign_with_others(world, role)
    assert (world.run().kind, world.served()) == ("failed", "1") if role != "targets" else (world.run().kind, "1")
    assert world.run("new").kind == "failed"
    assert care.fsck(world.depot)[0].is_error


@pytest.mark.parametrize("copies", [1, 2])
def test_23_a_root_under_its_threshold_is_not_followed(world: World, copies: int) -> None:
    """One of two signatures that are needed, also where it stands there twice."""
    world.run()
    care.rotate_key(world.depot, world.ring, "timestamp")
    path = world.depot_folder / "metadata/2.root.json"
    plain = json.loads(path.read_bytes())
    plain["signatures"] = plain["signatures"][:1] * copies
    path.write_text(json.dumps(plain))
    assert world.run().kind == "failed"
    assert world.served() == "1"


def test_24_a_device_that_slept_through_three_roots_follows_them(world: World) -> None:
    world.run()
    for role in ("root", "timestamp", "root", "releases", "root"):
        care.rotate_key(world.depot, world.ring, role)
    world.publish(2)
    world.clock.go(300 * 86400)
    care.resign(world.depot, world.ring)
    care.rotate_key(world.depot, world.ring, "targets")
    assert world.run().kind == "updated"
    assert FloorFile(world.store().trust).load().root == 6


def test_24_new_timestamp_keys_undo_a_timestamp_far_in_the_future(world: World) -> None:
    depot = world.depot
    depot.signed("timestamp").version = 10**6
    depot.save(world.ring, "channels")
    assert world.run().kind == "updated"
    depot = world.depot
    depot.signed("timestamp").version = 5
    depot.save(world.ring, "channels")
    assert world.run().kind == "failed"
    care.rotate_key(world.depot, world.ring, "timestamp")
    assert world.run().kind == "current"


def test_25_the_channels_key_cannot_sign_a_release(world: World) -> None:
    world.run()
    world.publish(2)
    depot = world.depot
    data = encode_release(replace(depot.release(PRODUCT, 2), seq=3, version="theirs"))
    path = release_path(PRODUCT, 3)
    made = TargetFile.from_data(path, data, ["sha256"])
    place = depot.folder / "targets" / hashed_name(path, made.hashes["sha256"])
    place.write_bytes(data)
    depot.signed("channels").targets[path] = made
    depot.set_channel(replace(existing_channel(depot, PRODUCT, "stable"), default=3, epoch=9))
    depot.save(world.ring, "channels")
    outcome = world.run()
    assert outcome.kind == "failed"
    assert "not signed in this depot" in outcome.text
    assert world.served() == "1"


def test_26_a_clock_in_1970_counts_as_the_latest_time_surely_past(world: World) -> None:
    world.run()
    now = world.clock.time
    world.publish(2, waves="100%", spread_minutes=0)
    world.clock.time = now.replace(year=1970)
    outcome = world.run()
    assert (outcome.kind, outcome.is_stale) == ("updated", True)
    world.clock.time = now
    assert (world.run().is_stale, world.served()) == (False, "2")


def test_26_a_clock_ten_years_ahead_changes_nothing_and_is_forgotten(world: World) -> None:
    world.run()
    world.publish(2)
    now = world.clock.time
    world.clock.time = now.replace(year=now.year + 10)
    assert (world.run().kind, world.served()) == ("failed", "1")
    world.clock.time = now
    assert world.run().kind == "updated"


def test_26_a_publisher_ten_years_ahead_stops_no_device_for_good(world: World) -> None:
    now = world.clock.time
    world.clock.time = now.replace(year=now.year + 10)
    world.publish(2)
    world.clock.time = now
    assert world.run().kind == "updated"
    world.depot.save(world.ring, "releases", "channels")
    assert world.run().kind == "current"


def test_35_a_cdn_that_mixes_versions_is_asked_again_later(
    world: World, web: Callable[..., Outcome], served: Served
) -> None:
    web()
    stale = (world.depot_folder / "metadata" / f"{world.depot.signed('snapshot').version}.snapshot.json").read_bytes()
    world.publish(2)

    def old_snapshot(exchange: Exchange) -> bool:
        exchange.head(200, Content_Length=len(stale))
        exchange.send(stale)
        return True

    served.misbehave("snapshot.json", old_snapshot)
    assert (web().kind, world.served()) == ("failed", "1")
    served.faults.clear()
    assert web().kind == "updated"


def test_a_second_mirror_serves_where_the_first_is_damaged(world: World) -> None:
    assert world.run(depots=((world.folder / "nowhere").as_uri(), world.address)).kind == "updated"


def test_both_slots_of_the_floor_damaged_refuses_updates_and_says_what_to_do(world: World) -> None:
    world.run()
    world.publish(2)
    for number in (0, 1):
        (world.store().trust / f"floor.{number}").write_bytes(b"?")
    outcome = world.run()
    assert (outcome.kind, world.served()) == ("failed", "1")
    assert "no longer knows what it trusted" in outcome.text


def test_a_missing_key_stops_publishing_before_anything_changes(world: World) -> None:
    before = (world.depot_folder / "metadata/timestamp.json").read_bytes()
    (world.folder / "keys/releases-1.pem").unlink()
    with pytest.raises(DepotError, match="role 'releases' needs 1 of 1 keys"):
        world.publish(2)
    assert (world.depot_folder / "metadata/timestamp.json").read_bytes() == before
    assert isinstance(Depot.open(world.depot_folder), Depot)
