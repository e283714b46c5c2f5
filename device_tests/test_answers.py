"""A bundle on a device gives the checkpoint's answers, in every variant and within every budget.

pytest device_tests --bundle dist/reviews.bundle --device board:arm64-cortex-a72 --device ssh://kiosk-17
"""

from typing import Any

from device_tests.places import Place
from device_tests.suite import variants_for
from doorstep.selection import has_int8_units


def test_every_variant_that_claims_the_device_runs_on_it(
    place: Place, doctor: dict[str, Any], checked: dict[str, Any]
) -> None:
    ran = {variant["variant"] for variant in checked["variants"] if variant["engine"]}
    assert ran == {variant.name for variant in variants_for(place, doctor["engines"])}
    assert ran


def test_every_variant_that_ran_gave_every_golden_answer_from_the_servers_tokens(checked: dict[str, Any]) -> None:
    outcomes = {
        (variant["variant"], item["name"]): item["outcome"]
        for variant in checked["variants"]
        for item in variant["checks"]
        if variant["engine"] and item["name"] in ("golden", "tokens")
    }
    assert outcomes
    assert outcomes == dict.fromkeys(outcomes, "passed")


def test_no_check_failed(checked: dict[str, Any]) -> None:
    failed = [
        f"{variant['variant']} {item['name']}: {item['value']} (bound {item['limit']}) {item['detail']}"
        for variant in checked["variants"]
        for item in variant["checks"]
        if item["outcome"] == "failed"
    ]
    assert failed == []
    assert checked["passed"]


def test_the_figures_say_where_they_come_from(place: Place, doctor: dict[str, Any], checked: dict[str, Any]) -> None:
    origin = checked["origin"]
    assert origin["board"]["is_emulated"] is place.is_emulated
    assert origin["board"]["features"] == sorted(doctor["features"])
    assert origin["engines"] == doctor["engines"]
    assert all(origin[name] for name in ("system", "python", "doorstep", "bundle", "digest", "time", "commit"))


def test_the_choice_follows_the_cpu(doctor: dict[str, Any], answer: dict[str, Any]) -> None:
    """Without int8 units an int8 variant is only chosen where it was measured to be quicker on such a CPU."""
    if has_int8_units(frozenset(doctor["features"])):
        assert answer["variant"] != "onnx-fp32"
    else:
        is_quicker = "lowest p50 measured on a CPU of this kind" in answer["why"]
        assert is_quicker or answer["variant"].endswith(("fp32", "fp16"))
