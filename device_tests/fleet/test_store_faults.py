"""Faults 10, 27 to 34, 38 to 42, 44 to 46: what goes wrong on the device itself."""

import errno
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import zstandard

from device_tests.fleet.fault_server import serving
from device_tests.fleet.world import AT_ONCE, PRODUCT, World, model, noise, write_bundle
from doorstep.errors import FormatError, IntegrityError, StoreError, UsageError
from doorstep.fleet import care
from doorstep.fleet.channel import HALTED, PAUSED, Health, Rollout, Wave
from doorstep.fleet.delta import _HEAD, _OP, MAGIC, PACKED, RAW, decode_delta, encode_delta
from doorstep.fleet.explain import explain
from doorstep.fleet.kept import last_channel, last_outcome
from doorstep.fleet.publishing import change_rollout, cut
from doorstep.fleet.release import decode_release, encode_release
from doorstep.fleet.rollout import Subject, decide, opens_at, parse_waves, place_of, start_of
from doorstep.fleet.selftest import Verdict
from doorstep.fleet.settings import kept_settings
from doorstep.fleet.state import Start, gone_back
from doorstep.fleet.status import MOST_SPOOLED

ON_TRIAL = Health(confirm_requests=5, confirm_minutes=60)


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def model_of(world: World) -> Path:
    return world.store().current / "variants/numpy-int8/model.bin"


def test_10_bit_rot_is_passed_over_at_the_start_and_fetched_again_at_the_next_visit(world: World) -> None:
    world.run()
    world.publish(2)
    world.run()
    flip(model_of(world))
    assert world.served() == "1"
    outcome = world.run()
    assert (outcome.kind, "damaged" in outcome.text) == ("updated", True)
    assert (world.served(), world.state().denied, world.state().damaged) == ("2", (), ())


def test_10_a_check_finds_bit_rot_that_nobody_met(world: World) -> None:
    world.run()
    flip(model_of(world))
    assert world.run().kind == "current"
    assert world.updater().run(is_checked=True).kind == "updated"
    assert world.served() == "1"


def test_10_a_rotten_base_of_a_delta_costs_the_pieces_it_spoils(world: World) -> None:
    world.run()
    world.publish(2)
    blob = world.store().blobs / world.depot.release(PRODUCT, 1).content("variants/numpy-int8/model.bin").sha256  # type: ignore[union-attr]
    flip(blob)
    outcome = world.run()
    assert (outcome.kind, world.served()) == ("updated", "2")
    delta = world.depot.release(PRODUCT, 2).deltas[0].content.size
    assert delta < outcome.received < len(model(2))


class FullDisk:
    """The n-th write from now on, and all after it, find the disk full."""

    def __init__(self, after: int) -> None:
        self.left = after

    def wrap(self, real: Any, writes: Any = lambda arguments: True) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if writes(arguments):
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
            return real(*arguments, **options)

        return call


@pytest.mark.parametrize("after", range(0, 40, 3))
def test_27_a_full_disk_is_told_and_what_is_served_stays(world: World, after: int) -> None:
    world.run()
    world.publish(2)
    disk = FullDisk(after)
    creates = disk.wrap(os.open, lambda arguments: arguments[1] & os.O_CREAT and "lock" not in str(arguments[0]))
    with (
        mock.patch.object(os, "pwrite", disk.wrap(os.pwrite)),
        mock.patch.object(os, "open", creates),
        mock.patch.object(os, "mkdir", disk.wrap(os.mkdir)),
        mock.patch.object(os, "link", disk.wrap(os.link)),
    ):
        outcome = world.run()
    assert outcome.kind in ("failed", "updated")
    assert world.served() in ("1", "2")
    assert world.run().kind in ("current", "updated")
    assert world.served() == "2"


def test_28_the_quota_is_kept_and_told(world: World) -> None:
    world.run()
    world.publish(2, {"variants/numpy-int8/model.bin": noise(500_000, 4)}, has_deltas=False)
    outcome = world.run(quota_bytes=200_000)
    assert (outcome.kind, "the quota is 200000" in outcome.text, world.served()) == ("failed", True, "1")
    assert world.run(quota_bytes=2_000_000).kind == "updated"


def test_28_garbage_collection_spares_what_is_held_or_leased(world: World) -> None:
    world.run()
    store = world.store()
    first = store.state().current
    assert first is not None
    with store.lease(first):
        for version in (2, 3, 4):
            world.publish(version)
            assert world.run().kind == "updated"
        assert {path.name.split("-")[0] for path in store.releases.iterdir()} == {"1", "3", "4"}
    world.run()
    assert {path.name.split("-")[0] for path in store.releases.iterdir()} == {"3", "4"}
    assert len(list(store.blobs.iterdir())) == 2 * 3 + 2  # manifest, model, labels of each; tokenizer, golden examples


HOSTILE = (
    "../x", "a/../x", "/etc/passwd", "a//b", "a/./b", ".hidden", "a/.git", "a\\b", "C:x", "a:b", "a\0b", "a\nb", "",
    "a/", "con", "CON.txt", "a/nul", "lpt1.bin", "a.", "a./b", "a b", "\u202ecod.exe", "x" * 101, "ｆ", "a\u0301", "~",
    "a*", "a|b", "%2e%2e/x",
)  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_29_a_path_that_could_mean_another_place_is_refused(world: World, path: str) -> None:
    release = world.depot.release(PRODUCT, 1)
    hostile = replace(release, files=(*release.files, replace(release.files[1], path=path)))
    with pytest.raises(FormatError):
        encode_release(hostile)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"nul", b'{"format":1,"format":1}', b'{"format":NaN}', b"[" * 200_000, b'{"format":2}',
     b'{"format":true}', b'{"format":1}', b" " * (2 << 20), b'{"format":1e400}', "{}".encode("utf-16")],
    ids=["empty", "cut", "list", "word", "twice", "nan", "deep", "newer", "bool", "fields", "large", "huge", "utf-16"],
)  # fmt: skip
def test_30_a_malformed_release_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_release(data)


def bomb() -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(bytes(200_000_000))


@pytest.mark.parametrize(
    "told", [_OP.pack(PACKED, 1 << 20, 0, len(bomb())) + bomb(), _OP.pack(RAW, 1 << 20, 0, 5) + b"12345"]
)
def test_31_a_bomb_in_a_delta_is_never_expanded(tmp_path: Path, told: bytes) -> None:
    (tmp_path / "old").write_bytes(noise(1000, 1))
    (tmp_path / "new").write_bytes(bytes(1 << 20))
    (tmp_path / "delta").write_bytes(_HEAD.pack(MAGIC, 1000, 1 << 20) + told)
    with pytest.raises(IntegrityError):
        decode_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "out", cut(tmp_path / "new", 1 << 20))
    assert (tmp_path / "out").stat().st_size < 1 << 20


@pytest.mark.parametrize("where", ["part", "blob", "release"])
def test_32_a_link_laid_in_the_store_leads_nowhere(world: World, where: str, tmp_path: Path) -> None:
    world.run()
    world.publish(2, has_deltas=False)
    content = world.depot.release(PRODUCT, 2).content("variants/numpy-int8/model.bin")
    assert content is not None
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious" * 4000)
    store = world.store()
    places = {
        "part": store.parts / content.sha256,
        "blob": store.blobs / content.sha256,
        "release": store.releases / f".{world.depot.release(PRODUCT, 2).id}.tmp",
    }
    places[where].symlink_to(victim)
    world.run()
    assert victim.read_bytes() == b"precious" * 4000
    assert world.served() in ("1", "2")


def test_34_a_second_updater_does_nothing(world: World) -> None:
    with world.store().updating(), pytest.raises(StoreError, match="another updater"):
        world.run()
    assert world.run().kind == "updated"


def test_34_two_processes_end_with_one_whole_release(world: World) -> None:
    program = (
        "import sys; from pathlib import Path; from device_tests.fleet.world import World, error_of\n"
        "world = World(Path(sys.argv[1]))\nfor _ in range(15): error_of(world.run)\n"
    )
    world.run()
    world.publish(2, {"variants/numpy-int8/model.bin": noise(300_000, 2)}, has_deltas=False)
    processes = [subprocess.Popen([sys.executable, "-c", program, str(world.folder)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert world.served() == "2"


def test_34_without_a_lock_nothing_is_corrupted(world: World) -> None:
    """flock does nothing on some file systems: a part that another process cut is noticed before it gets a name."""
    world.run()
    world.publish(2, {"variants/numpy-int8/model.bin": noise(300_000, 2)}, has_deltas=False)
    content = world.depot.release(PRODUCT, 2).content("variants/numpy-int8/model.bin")
    assert content is not None
    real = os.replace

    def cut_before(source: Any, target: Any, **options: Any) -> None:
        if str(target).endswith(content.sha256) and not cuts:
            cuts.append(1)
            os.chmod(source, 0o644)
            os.truncate(source, 8192)
            os.truncate(source, content.size)
        real(source, target, **options)

    cuts: list[int] = []
    with mock.patch.object(os, "replace", cut_before):
        world.run()
    assert cuts
    assert world.served() in ("1", "2")
    world.run()
    assert world.served() == "2"


def test_38_a_delta_for_another_base_gives_way_to_the_whole_file(world: World) -> None:
    world.run()
    world.publish(2)
    delta = world.depot.release(PRODUCT, 2).deltas[0]
    for path in (world.depot_folder / "deltas").rglob(delta.content.sha256):
        path.write_bytes(bytes(delta.content.size))
    outcome = world.run()
    assert (outcome.kind, world.served()) == ("updated", "2")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(noise(3_000_000, 1), b"head" + noise(3_000_000, 1), id="shifted"),
        pytest.param(noise(100_000, 1), noise(100_000, 2), id="other"),
        pytest.param(b"", noise(5000, 1), id="from nothing"),
        pytest.param(noise(5000, 1), b"", id="to nothing"),
        pytest.param(noise(2_500_000, 1), noise(2_500_000, 1)[: 1 << 20], id="shorter"),
        pytest.param(model(1, 1 << 20), model(2, (1 << 20) + 7), id="longer"),
    ],
)
def test_a_delta_gives_the_new_bytes_and_is_never_much_larger(tmp_path: Path, old: bytes, new: bytes) -> None:
    for name, data in (("old", old), ("new", new)):
        (tmp_path / name).write_bytes(data)
    encode_delta(tmp_path / "old", tmp_path / "new", tmp_path / "delta")
    decode_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "out", cut(tmp_path / "new", 1 << 20))
    assert (tmp_path / "out").read_bytes() == new
    assert (tmp_path / "delta").stat().st_size <= len(new) + 100


def test_39_a_release_that_fails_its_self_test_is_refused_for_good(world: World) -> None:
    world.run()
    world.publish(2)

    def fails(*arguments: Any) -> Verdict:
        return Verdict("killed by SIGSEGV")

    outcome = world.run(prover=fails)
    assert (outcome.kind, "SIGSEGV" in outcome.text, world.served()) == ("refused", True, "1")
    assert world.run().kind == "refused"
    world.publish(3)
    assert world.run().kind == "updated"


def test_40_a_release_whose_processes_die_is_refused_after_three_starts(world: World) -> None:
    world.run()
    world.publish(2, health=ON_TRIAL)
    assert world.run().kind == "on trial"
    program = (
        "import os, sys; from pathlib import Path; from device_tests.fleet.world import World\n"
        "print(World(Path(sys.argv[1])).served(), flush=True); os._exit(1)\n"
    )
    command = [sys.executable, "-c", program, str(world.folder)]
    versions = [subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() for _ in range(5)]
    assert versions == ["2", "2", "2", "1", "1"]
    assert world.run().kind == "refused"


def test_40_processes_that_live_do_not_count_as_crashes(world: World) -> None:
    world.run()
    world.publish(2, health=ON_TRIAL)
    world.run()
    others = [subprocess.Popen(["sleep", "60"]) for _ in range(5)]
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = [int(Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[19]) for one in others]
        starts = tuple(Start(one.pid, tick, boot) for one, tick in zip(others, ticks, strict=True))
        world.store().change(lambda state: replace(state, starts=starts))
        assert world.served() == "2"
        assert world.state().crashes == 0
    finally:
        for one in others:
            one.kill()
            one.wait()


def test_41_a_first_release_that_fails_leaves_the_factory_bundle(world: World) -> None:
    write_bundle(world.folder / "devices/kiosk" / PRODUCT / "factory", "0", {"variants/numpy-int8/model.bin": b"f"})
    world.publish(2, health=ON_TRIAL)
    world.run()
    store = world.store()
    store.change(lambda state: gone_back(state, "it was wrong"))
    assert (world.served(), store.current.resolve().name) == ("0", "factory")


def test_41_with_nothing_to_serve_the_error_says_what_to_do(world: World) -> None:
    with pytest.raises(StoreError, match=r"nothing to serve .* run: doorstep agent"):
        world.served()


def test_a_lost_record_is_guessed_from_the_disk(world: World) -> None:
    world.run()
    world.publish(2)
    world.run()
    for number in (0, 1):
        (world.store().folder / f"state.{number}").write_bytes(b"garbage")
    assert world.served() == "2"
    world.publish(3)
    assert world.run().kind == "updated"


def test_a_trial_ends_by_time_where_no_app_follows(world: World) -> None:
    world.run()
    world.publish(2, health=ON_TRIAL)
    assert world.run().kind == "on trial"
    world.clock.go(59 * 60)
    assert world.run().kind == "on trial"
    world.clock.go(61)
    assert (world.run().kind, world.state().phase) == ("current", "idle")


def test_44_a_halt_ends_a_trial_and_a_pause_stops_those_not_there(world: World) -> None:
    world.run()
    world.publish(2, waves="100%", spread_minutes=0, health=ON_TRIAL)
    assert world.run().kind == "on trial"

    def set_state(state: str) -> None:
        change_rollout(world.depot, world.ring, PRODUCT, "stable", lambda rollout: replace(rollout, state=state))

    set_state(PAUSED)
    assert world.run("other").text.startswith("release 1-")
    assert world.run().kind == "on trial"
    set_state(HALTED)
    outcome = world.run()
    assert "is halted" in outcome.decision
    assert (world.served(), world.state().denied) == ("1", ())


def test_44_a_halt_stops_a_transfer_under_way(world: World) -> None:
    world.run()
    world.publish(2, {"variants/numpy-int8/model.bin": noise(300_000, 2)}, waves="100%", spread_minutes=0)
    with serving(world.depot_folder) as served:

        def halts(exchange: Any) -> bool:
            if len(exchange.data) == 300_000:
                change_rollout(world.depot, world.ring, PRODUCT, "stable", lambda one: replace(one, state=HALTED))
                exchange.range_head()
                exchange.send(exchange.body[:100_000])
                exchange.close()
                return True
            return False

        served.misbehave("blobs/", halts)
        outcome = world.run(depots=(served.address,), recheck_s=0.0)
    assert (outcome.kind, "no longer wanted" in outcome.text, world.served()) == ("failed", True, "1")


def test_45_the_devices_of_a_wave_start_at_even_distances() -> None:
    waves = (Wave(1000, "2026-03-01T00:00:00Z"), Wave(10_000, "2026-03-01T06:00:00Z"))
    rollout = Rollout(2, "r2", "salt", "running", waves, spread_minutes=90)
    chance = random.Random(3)  # noqa: S311 -- made-up devices
    minutes: dict[int, int] = {}
    for _ in range(100_000):
        place = place_of("salt", f"{chance.getrandbits(128):032x}")
        start = start_of(rollout, place)
        assert start is not None
        if place >= 1000:
            minute = int((start - start.replace(hour=6, minute=0, second=0)).total_seconds() // 600)
            minutes[minute] = minutes.get(minute, 0) + 1
    assert set(minutes) == set(range(9))
    assert all(abs(count - 10_000) < 1000 for count in minutes.values())


def test_46_a_report_endpoint_that_is_down_costs_neither_updates_nor_disk(world: World) -> None:
    with serving(world.folder) as served:
        world.publish(1, report=f"{served.address}/refuse")
        for _ in range(MOST_SPOOLED + 6):
            world.run()
        assert len(list((world.store().folder / "spool").iterdir())) == MOST_SPOOLED
        world.publish(2, report=f"{served.address}/take")
        assert world.run().kind == "updated"
        assert list((world.store().folder / "spool").iterdir()) == []


def test_waves_windows_and_cohorts_decide(world: World) -> None:
    world.run()
    world.publish(2, waves="1%, 100% after 2h", cohorts=("lab",), deny=("rev-a",), health=AT_ONCE)
    channel = world.depot.channel(PRODUCT, "stable")
    assert channel is not None
    now = world.clock.now()
    assert decide(channel, Subject("any", frozenset({"lab"})), now).seq == 2
    assert decide(channel, Subject("any", frozenset({"lab", "rev-a"})), now).seq == 1
    late = decide(channel, Subject("kiosk"), now)
    assert (late.seq, late.due is not None) == (1, True)
    assert decide(channel, Subject("kiosk"), now + timedelta(hours=4)).seq == 2
    assert world.run().kind == "waiting"


def test_a_maintenance_window_delays_activation_not_the_transfer(world: World) -> None:
    world.run()
    local = world.clock.now().astimezone()
    later = local + timedelta(hours=3)
    world.publish(2, windows=(f"{later:%H:%M}-{later + timedelta(hours=1):%H:%M}",))
    outcome = world.run()
    assert (outcome.kind, outcome.received > 0, world.served()) == ("waiting", True, "1")
    world.clock.go(3 * 3600 + 60)
    outcome = world.run()
    assert (outcome.kind, outcome.received, world.served()) == ("updated", 0, "2")
    assert opens_at((), local) is None


@pytest.mark.parametrize("text", ["", "1", "101%", "10%, 5%", "10% after 2h, 20% after 1h", "1% later", "0%", "1%,,2%"])
def test_waves_that_make_no_sense_are_refused(world: World, text: str) -> None:
    with pytest.raises(UsageError, match="rollout"):
        parse_waves(text, world.clock.now())


def test_explain_tells_why_in_one_paragraph(world: World) -> None:
    world.run()
    world.publish(2, waves="1%, 100% after 2h")
    world.run()
    store = world.store()
    kept = kept_settings(world.folder / "devices/kiosk", PRODUCT)
    text = explain(kept, store.state(), last_channel(store), last_outcome(store), world.clock.now())
    assert "serves release 1-" in text
    assert "its turn is at 2026-03-01T" in text
    assert "\n" not in text


def test_a_depot_on_a_stick_updates_a_device_and_a_reader_between_two_publishers_sees_one(world: World) -> None:
    world.run()
    world.publish(2)
    copied = care.export(world.depot, world.folder / "stick")
    shutil.rmtree(world.depot_folder / "blobs")
    assert copied > 0
    assert world.run(depots=((world.folder / "stick").as_uri(),)).kind == "updated"


@pytest.mark.parametrize("damage", ["blob", "release", "timestamp", "expired"])
def test_fsck_finds_what_devices_would_meet(world: World, damage: str) -> None:
    assert care.fsck(world.depot) == []
    if damage == "blob":
        flip(next(path for path in (world.depot_folder / "blobs").rglob("*") if path.is_file()))
    elif damage == "release":
        next((world.depot_folder / "targets/releases").rglob("*.json")).unlink()
    elif damage == "timestamp":
        path = world.depot_folder / "metadata/timestamp.json"
        path.write_bytes(path.read_bytes().replace(b'"version":1,', b'"version":7,', 1).replace(b"2026", b"2027"))
    else:
        world.clock.go(8 * 86400)
    assert any(finding.is_error for finding in care.fsck(world.depot))


def test_garbage_in_the_depot_waits_for_its_time(world: World) -> None:
    for version in (2, 3, 4):
        world.publish(version)
    before = {path for path in (world.depot_folder / "blobs").rglob("*") if path.is_file()}
    done = care.gc(world.depot, world.ring, keep=2, grace=timedelta(days=30))
    assert (done.releases, done.files) == (2, 0)
    world.clock.go(29 * 86400)
    assert care.gc(world.depot, world.ring, keep=2, grace=timedelta(days=30)).files == 0
    world.clock.go(2 * 86400)
    assert care.gc(world.depot, world.ring, keep=2, grace=timedelta(days=30)).files > 0
    after = {path for path in (world.depot_folder / "blobs").rglob("*") if path.is_file()}
    assert len(before - after) == 2 * 3
    care.resign(world.depot, world.ring)
    assert care.fsck(world.depot) == []
    assert world.run().kind == "updated"


def test_the_bytes_of_a_release_for_half_a_gigabyte_are_few(world: World) -> None:
    from doorstep.fleet.release import Content, ReleaseFile, piece_size_for

    size = 500_000_000
    piece = piece_size_for(size)
    content = Content("0" * 64, size, piece, ("1" * 64,) * -(-size // piece))
    release = world.depot.release(PRODUCT, 1)
    data = encode_release(replace(release, files=(*release.files, ReleaseFile("variants/big/model.onnx", content))))
    assert len(data) <= 64_000


def test_rollback_goes_to_the_release_before_and_stays_there(world: World) -> None:
    world.run()
    world.publish(2)
    world.run()
    world.store().change(lambda state: gone_back(state, "the shop asked for it"))
    assert world.served() == "1"
    assert world.run().kind == "refused"
    assert world.served() == "1"
