"""A bundle on a device: the same answers as the checkpoint, under every fault a shop has.

pytest device_tests/test_device.py --bundle dist/reviews.bundle --device board:arm64-cortex-a72 --device ssh://kiosk-17
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from device_tests.places import FREE, Limits, Place
from doorstep.bundle import Bundle
from doorstep.manifest import Variant
from doorstep.selection import has_int8_units

HERE = Path(__file__).parent
GUEST = (HERE / "guest.py").read_text(encoding="utf-8")
RESULTS = Path(os.environ.get("DOORSTEP_RESULTS", HERE.parent / "dist/device_results.jsonl"))


def _under(place: Place, fault: str, *, env: dict[str, str] | None = None, limits: Limits = FREE) -> dict[str, Any]:
    """Load and predict on the device under one fault; return what it said."""
    done = place.run(["-c", GUEST, fault, place.bundle], env=env, limits=limits)
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


@pytest.fixture(scope="session")
def answer(place: Place) -> dict[str, Any]:
    """What the device says when nothing is wrong."""
    return _under(place, "none")


@pytest.fixture(scope="session")
def checked(place: Place) -> dict[str, Any]:
    """What `doorstep check` finds there for every variant the device can run."""
    budgets = () if place.name.startswith("ssh://") else ("--budgets", str(HERE / "budgets.toml"))
    done = place.run(["-m", "doorstep.cli.main", "check", place.bundle, "--all", "--json", "--threads", "1", *budgets])
    assert done.stdout, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"place": place.name, **report}, ensure_ascii=False) + "\n")
    return report


def test_every_variant_the_device_can_run_passes_every_check(checked: dict[str, Any]) -> None:
    wrong = [
        f"{variant['variant']} {item['name']}: {item['value']} (bound {item['limit']})"
        for variant in checked["variants"]
        for item in variant["checks"]
        if item["outcome"] == "failed"
    ]
    assert checked["variants"]
    assert wrong == []


def test_every_variant_with_an_engine_there_was_checked(place: Place, checked: dict[str, Any]) -> None:
    assert {variant["variant"] for variant in checked["variants"]} == {variant.name for variant in _able(place)}


def _able(place: Place) -> list[Variant]:
    """Return the variants that an engine on the device runs."""
    engines = _engines(place).keys()
    bundle: Path = place.source
    manifest = Bundle.open(bundle, is_lazy=True).manifest
    return [variant for variant in manifest.variants if engines & variant.requires.keys()]


def _engines(place: Place) -> dict[str, str]:
    done = place.run(["-m", "doorstep.cli.main", "doctor", "--json"])
    found: dict[str, str] = json.loads(done.stdout)["engines"]
    return found


def test_a_read_only_file_system_changes_nothing(place: Place, answer: dict[str, Any]) -> None:
    assert _under(place, "read-only")["label"] == answer["label"]


def test_no_socket_is_ever_opened(place: Place, answer: dict[str, Any]) -> None:
    assert _under(place, "no-network")["label"] == answer["label"]


def test_no_writable_home_changes_nothing(place: Place, answer: dict[str, Any]) -> None:
    nowhere = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"}
    assert _under(place, "none", env=nowhere)["label"] == answer["label"]


def test_a_wrong_clock_changes_nothing(place: Place, answer: dict[str, Any]) -> None:
    assert _under(place, "wrong-clock")["label"] == answer["label"]


def test_one_core_is_enough(place: Place, answer: dict[str, Any]) -> None:
    assert _under(place, "none", limits=Limits(cores=1))["label"] == answer["label"]


def test_256_mib_are_enough_for_the_leanest_variant(place: Place, answer: dict[str, Any]) -> None:
    leanest = min(_able(place), key=lambda variant: (variant.measured and variant.measured.peak_rss_mib) or 1e9)
    limited = _under(place, "none", env={"DOORSTEP_VARIANT": leanest.name}, limits=Limits(memory_mib=256))
    assert limited["variant"] == leanest.name
    assert limited["label"] == answer["label"]


def test_the_choice_follows_the_cpu(place: Place, answer: dict[str, Any]) -> None:
    """Without int8 units an int8 variant is only chosen where it was measured to be quicker on such a CPU."""
    device = json.loads(place.run(["-m", "doorstep.cli.main", "doctor", "--json"]).stdout)
    if has_int8_units(frozenset(device["features"])):
        assert answer["variant"] != "onnx-fp32"
    else:
        assert answer["variant"].endswith(("fp32", "fp16"))


def test_a_missing_runtime_falls_back_and_says_so(place: Place, answer: dict[str, Any]) -> None:
    chosen = answer["variant"].partition("-")[0]
    hidden = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "ai_edge_litert,tflite_runtime"}[chosen]
    said = _under(place, f"without:{hidden}")
    assert said.get("variant", "").partition("-")[0] != chosen
    assert "is not installed; run: pip install 'doorstep[" in said.get("why", said.get("message", ""))


def test_no_runtime_at_all_names_every_pip_install(place: Place) -> None:
    said = _under(place, "without:onnxruntime,openvino,ai_edge_litert,tflite_runtime")
    assert said["error"] == "IncompatibleError"
    assert "pip install 'doorstep[tflite]'" in said["message"]


@pytest.mark.parametrize("seconds", [0.02, 0.08, 0.15])
def test_killed_while_loading_leaves_a_sound_bundle(place: Place, answer: dict[str, Any], seconds: float) -> None:
    scale = 10 if place.is_emulated else 1
    assert place.kill_after(["-c", GUEST, "none", place.bundle], scale * seconds) != 0
    assert _under(place, "none")["label"] == answer["label"]
