"""A bundle on a device answers under every fault a shop has, or says what to do."""

import json
from pathlib import Path
from typing import Any

import pytest

from device_tests.places import Limits, Place
from device_tests.suite import GUEST, load_under, packages_of, variants_for
from doorstep.session import RUNTIMES

_ENGINES = tuple(name for name, runtime in RUNTIMES.items() if runtime.extra)
_NO_FOLDER = "/dev/null/none"  # not even root can make it


def test_a_read_only_file_system_changes_nothing(place: Place, answer: dict[str, Any]) -> None:
    """Python's writes fail as on a read-only disk; what an engine writes past Python, the kernel denies."""
    assert load_under(place, "read-only", limits=Limits(denied="writes"))["label"] == answer["label"]


@pytest.mark.parametrize("runtime", _ENGINES)
def test_no_socket_is_ever_opened(place: Place, doctor: dict[str, Any], answer: dict[str, Any], runtime: str) -> None:
    """Some seconds are waited, since an engine may report to its maker from a thread of its own."""
    if runtime not in {variant.runtime for variant in variants_for(place, doctor["engines"])}:
        pytest.skip(f"the bundle has no {runtime} variant for this device")
    limits = Limits(denied="sockets")
    said = load_under(place, "idle:15", env={"DOORSTEP_VARIANT": runtime}, limits=limits)
    assert said["label"] == answer["label"]


@pytest.mark.parametrize(
    ("denied", "code"),
    [
        ("writes", "open('here', 'w')"),
        ("writes", "import ctypes; assert ctypes.CDLL(None).mkdir(b'here', 0o777) == 0"),
        ("sockets", "import socket; socket.socket()"),
        ("sockets", "import ctypes; ctypes.CDLL(None).socket(2, 1, 0)"),
    ],
)
def test_what_is_denied_is_denied(place: Place, denied: str, code: str) -> None:
    assert place.run(["-c", code], limits=Limits(denied=denied)).returncode != 0


def test_no_writable_home_changes_nothing(place: Place, answer: dict[str, Any]) -> None:
    nowhere = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "DOORSTEP_CACHE"), _NO_FOLDER)
    assert load_under(place, "none", env=nowhere)["label"] == answer["label"]


@pytest.mark.parametrize("clock", [0, 4_294_967_296], ids=["1970", "2106"])
def test_a_wrong_clock_changes_nothing(place: Place, answer: dict[str, Any], clock: int) -> None:
    assert load_under(place, f"clock:{clock}")["label"] == answer["label"]


def test_one_core_is_enough(place: Place, answer: dict[str, Any]) -> None:
    assert load_under(place, "none", limits=Limits(cores=1))["label"] == answer["label"]


def test_256_mib_are_enough_for_the_leanest_variant(
    place: Place, doctor: dict[str, Any], answer: dict[str, Any]
) -> None:
    able = variants_for(place, doctor["engines"])
    leanest = min(able, key=lambda variant: (variant.measured and variant.measured.peak_rss_mib) or 1e9)
    limited = load_under(place, "none", env={"DOORSTEP_VARIANT": leanest.name}, limits=Limits(memory_mib=256))
    assert limited["variant"] == leanest.name
    assert limited["label"] == answer["label"]


def test_a_missing_runtime_falls_back_and_says_so(place: Place, doctor: dict[str, Any], answer: dict[str, Any]) -> None:
    able = variants_for(place, doctor["engines"])
    chosen = next(variant.runtime for variant in able if variant.name == answer["variant"])
    said = load_under(place, f"without:{packages_of([chosen])}")
    others: set[str | None] = {variant.name for variant in able if variant.runtime != chosen}
    assert said.get("variant") in (others or {None})
    assert "is not installed; run: pip install 'doorstep[" in said.get("why", said.get("message", ""))


def test_without_any_engine_every_pip_install_is_named(place: Place, doctor: dict[str, Any]) -> None:
    """Variants that need no engine but NumPy are set aside: `DOORSTEP_VARIANT` asks for one of the others."""
    able = variants_for(place, doctor["engines"])
    runtimes = [variant.runtime for variant in able if variant.runtime in _ENGINES]
    said = load_under(place, f"without:{packages_of(_ENGINES)}", env={"DOORSTEP_VARIANT": runtimes[0]})
    assert said["error"] == "IncompatibleError"
    assert f"pip install 'doorstep[{RUNTIMES[runtimes[0]].extra}]'" in said["message"]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_killed_while_loading_leaves_a_sound_bundle(place: Place, answer: dict[str, Any], share: float) -> None:
    assert place.run(["-c", GUEST, f"killed:{share * answer['load_s']}", place.bundle]).returncode != 0
    assert load_under(place, "none")["label"] == answer["label"]


def test_killed_while_a_single_file_is_unpacked_leaves_no_half_a_bundle(
    place: Place, packed: Path, answer: dict[str, Any]
) -> None:
    file = place.put(packed)
    env = {"DOORSTEP_CACHE": f"{place.scratch}/cache"}
    seconds = 0.5 * answer["load_s"]
    assert place.run(["-c", GUEST, f"killed:{seconds}", file], env=env).returncode != 0
    again = place.run(["-c", GUEST, "none", file], env=env)
    assert json.loads(again.stdout.strip().splitlines()[-1])["label"] == answer["label"], again.stderr
