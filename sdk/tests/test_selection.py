"""Which variant, and why."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from doorstep.device import Device, parse_version
from doorstep.errors import IncompatibleError, UsageError
from doorstep.manifest import Board, Measured, Variant
from doorstep.selection import Ranking, has_int8_units, rank

MakeVariant = Callable[..., Variant]
REQUIRES = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "ai-edge-litert"}
ENGINES = {"onnxruntime": "1.20.0", "openvino": "2025.0.0", "ai-edge-litert": "2.0.0"}
PLAIN = Device("x86_64", "a CPU", frozenset({"avx2"}), 2, 4096, ENGINES)
VNNI = PLAIN._replace(features=frozenset({"avx2", "avx512_vnni"}))
ARM = PLAIN._replace(arch="aarch64", features=frozenset({"asimd"}))
ARM_DOT = ARM._replace(features=frozenset({"asimd", "asimddp"}))


@pytest.fixture
def variants(make_variant: MakeVariant) -> list[Variant]:
    """fp32 and int8, for every engine."""
    recipes = {"fp32": "none", "int8": "dynamic_wi8_afp32"}
    return [
        make_variant(f"{runtime}-{precision}", runtime=runtime, recipe=recipe, requires={distribution: "1"})
        for runtime, distribution in REQUIRES.items()
        for precision, recipe in recipes.items()
    ]


def measured(p50: float, board: Device = VNNI, **changes: Any) -> Measured:
    made = Board(board.arch, board.cpu, tuple(board.features))
    return replace(Measured(1 << 20, p50_ms=p50, board=made), **changes)


def names(ranking: Ranking) -> list[str]:
    return [variant.name for variant in ranking.usable]


def best(variants: list[Variant], device: Device, wanted: str | None = None) -> str:
    return rank(variants, device, wanted, lambda _: True).usable[0].name


def reason(variant: Variant, device: Device, is_present: bool = True) -> str:
    with pytest.raises(IncompatibleError) as caught:
        rank([variant], device, None, lambda _: is_present)
    return str(caught.value)


@pytest.mark.parametrize(
    "device, chosen",
    [(PLAIN, "onnx-fp32"), (VNNI, "tflite-int8"), (ARM, "onnx-fp32"), (ARM_DOT, "tflite-int8")],
    ids=["x86-64", "VNNI", "ARM", "ARM with dot product"],
)
def test_without_figures_int8_is_chosen_only_where_int8_units_are(
    variants: list[Variant], device: Device, chosen: str
) -> None:
    assert best(variants, device) == chosen


@pytest.mark.parametrize(
    "features, expected",
    [
        ({"avx2"}, False),
        ({"avx512f"}, False),
        ({"asimd", "asimdhp"}, False),
        (set(), False),
        ({"avx512_vnni"}, True),
        ({"avx_vnni"}, True),
        ({"amx_int8"}, True),
        ({"asimddp"}, True),
        ({"i8mm"}, True),
    ],
)
def test_int8_units_are_known_by_their_flags(features: set[str], expected: bool) -> None:
    assert has_int8_units(frozenset(features)) is expected


def test_figures_of_a_like_cpu_decide(make_variant: MakeVariant) -> None:
    slow = make_variant("onnx-int8", measured=measured(9.0))
    quick = make_variant("onnx-fp32", measured=measured(3.0))
    ranking = rank([slow, quick], VNNI, None, lambda _: True)
    assert names(ranking) == ["onnx-fp32", "onnx-int8"]
    assert ranking.rule == "lowest p50 measured on a CPU of this kind"


@pytest.mark.parametrize(
    "figures",
    [
        None,
        measured(1.0, PLAIN),
        measured(1.0, ARM_DOT),
        measured(1.0, board=VNNI, p50_ms=None),
        Measured(1, p50_ms=1.0),
        Measured(1, p50_ms=1.0, board=Board("x86_64", features=("avx512_vnni",), is_emulated=True)),
    ],
    ids=["none", "a CPU without int8 units", "another architecture", "no p50", "no board", "an emulated board"],
)
def test_figures_that_say_nothing_of_this_cpu_do_not_decide(
    make_variant: MakeVariant, figures: Measured | None
) -> None:
    variants = [make_variant("onnx-fp32", measured=figures), make_variant("onnx-int8", measured=measured(9.0))]
    ranking = rank(variants, VNNI, None, lambda _: True)
    assert names(ranking) == ["onnx-int8", "onnx-fp32"]
    assert "not measured on a CPU of this kind" in ranking.rule


@pytest.mark.parametrize(
    "p50, first", [(3.0, "quick-start"), (3.4, "quick-start"), (3.6, "slow-start")], ids=["level", "a tie", "no tie"]
)
def test_within_a_tie_the_quicker_cold_start_decides(make_variant: MakeVariant, p50: float, first: str) -> None:
    variants = [
        make_variant("slow-start", measured=measured(3.0, cold_start_ms=900.0)),
        make_variant("quick-start", measured=measured(p50, cold_start_ms=100.0)),
    ]
    assert best(variants, VNNI) == first


REFUSALS: dict[str, tuple[dict[str, Any], Device, str]] = {
    "an architecture": ({"arch": ("aarch64", "armv7l")}, PLAIN, "made for aarch64 and armv7l, this is x86_64"),
    "a CPU flag": ({"cpu_features": ("avx512_vnni", "amx_int8")}, PLAIN, "the CPU lacks amx_int8 avx512_vnni"),
    "memory": ({"measured": measured(1, peak_rss_mib=5000.4)}, PLAIN, "about 5000 MiB of memory, 4096 MiB are left"),
    "memory not measured": (
        {"measured": Measured(3000 << 20)},
        PLAIN,
        "needs about 6060 MiB of memory, 4096 MiB are left",
    ),
    "an engine not installed": (
        {"requires": {"onnxruntime": "1.17"}},
        PLAIN._replace(engines={}),
        "onnxruntime is not installed; run: pip install 'doorstep[onnx]'",
    ),
    "either of two engines": (
        {"runtime": "tflite", "requires": {"ai-edge-litert": "1", "tflite-runtime": "2"}},
        PLAIN._replace(engines={}),
        "ai-edge-litert or tflite-runtime is not installed; run: pip install 'doorstep[tflite]'",
    ),
    "any engine of the runtime": (
        {"runtime": "tflite", "requires": {}},
        PLAIN._replace(engines={}),
        "ai-edge-litert or tflite-runtime is not installed; run: pip install 'doorstep[tflite]'",
    ),
    "an engine that doorstep itself needs": (
        {"runtime": "numpy", "requires": {"numpy": "1.24"}},
        PLAIN._replace(engines={}),
        "numpy is not installed; run: pip install doorstep",
    ),
    "an old engine": (
        {"requires": {"onnxruntime": "1.21"}},
        PLAIN,
        "onnxruntime 1.20.0 is older than 1.21; run: pip install -U onnxruntime",
    ),
    "an unknown runtime": (
        {"runtime": "ncnn"},
        PLAIN,
        "knows no runtime 'ncnn'; upgrade with: pip install -U doorstep",
    ),
}


@pytest.mark.parametrize("changes, device, message", REFUSALS.values(), ids=REFUSALS)
def test_a_variant_that_does_not_fit_is_refused_with_its_reason(
    make_variant: MakeVariant, changes: dict[str, Any], device: Device, message: str
) -> None:
    assert message in reason(make_variant("onnx-fp32", **changes), device)


@pytest.mark.parametrize("device", [PLAIN, VNNI, ARM, ARM_DOT], ids=["x86-64", "VNNI", "ARM", "ARM with dot product"])
def test_numpy_is_the_last_resort(make_variant: MakeVariant, variants: list[Variant], device: Device) -> None:
    recipes = ("weight_only_wfp16_afp32", "weight_only_wi8_afp32")
    resort = [
        make_variant(f"numpy-{recipe}", runtime="numpy", recipe=recipe, requires={"numpy": "1"}) for recipe in recipes
    ]
    unknown = make_variant("onnx-unknown", recipe="as_exported")
    numpy_too = device._replace(engines={**ENGINES, "numpy": "1.24.2"})
    ordered = names(rank([*resort, unknown, *variants], numpy_too, None, lambda _: True))
    assert ordered[-2:] == ["numpy-weight_only_wi8_afp32", "numpy-weight_only_wfp16_afp32"]


@pytest.mark.parametrize(
    "p50, p95, first",
    [
        (0.90, 1.20, "onnx-fp32"),
        (0.70, 0.75, "onnx-fp32"),
        (0.30, 0.90, "onnx-fp32"),
        (0.30, 0.50, "numpy-fp16"),
        (0.70, None, "onnx-fp32"),
        (0.50, None, "numpy-fp16"),
    ],
    ids=["within noise", "not by half", "in the median alone", "clearly", "not by half, no p95", "clearly, no p95"],
)
def test_numpy_goes_before_an_engine_only_where_it_was_clearly_quicker(
    make_variant: MakeVariant, p50: float, p95: float | None, first: str
) -> None:
    engines = [
        make_variant("onnx-fp32", measured=measured(1.0, p95_ms=1.1, cold_start_ms=300.0)),
        make_variant("onnx-int8", measured=measured(4.0, p95_ms=4.2, cold_start_ms=300.0)),
    ]
    figures = measured(p50, p95_ms=p95, cold_start_ms=90.0)
    resort = make_variant("numpy-fp16", runtime="numpy", requires={"numpy": "1"}, measured=figures)
    ranking = rank([resort, *engines], VNNI._replace(engines={**ENGINES, "numpy": "2.0"}), None, lambda _: True)
    assert names(ranking)[0] == first
    assert names(ranking).index("numpy-fp16") in (0, 2)
    assert ("not clearly quicker" in str(ranking.why(ranking.usable[0]))) is (first != "numpy-fp16")


def test_numpy_alone_is_chosen(make_variant: MakeVariant) -> None:
    resort = make_variant("numpy-fp16", runtime="numpy", requires={"numpy": "1"}, measured=measured(50.0, p95_ms=60.0))
    engine = make_variant("onnx-fp32", measured=measured(1.0))
    assert best([engine, resort], VNNI._replace(engines={"numpy": "2.0"})) == "numpy-fp16"


def test_a_variant_whose_files_are_absent_is_refused(make_variant: MakeVariant) -> None:
    assert "its files are not on this device" in reason(make_variant("onnx-fp32"), PLAIN, is_present=False)


@pytest.mark.parametrize("changes", [{"requires": {}}, {"measured": None}, {"arch": ("x86_64",)}])
def test_a_variant_that_asks_for_nothing_more_is_usable(make_variant: MakeVariant, changes: dict[str, Any]) -> None:
    assert best([make_variant("onnx-fp32", **changes)], PLAIN) == "onnx-fp32"


def test_unknown_memory_refuses_nothing(make_variant: MakeVariant) -> None:
    variant = make_variant("onnx-fp32", measured=measured(1, peak_rss_mib=1e6))
    assert best([variant], PLAIN._replace(memory_mib=None)) == "onnx-fp32"


@pytest.mark.parametrize("wanted, chosen", [("openvino-int8", "openvino-int8"), ("openvino", "openvino-fp32")])
def test_a_variant_or_a_runtime_can_be_asked_for(variants: list[Variant], wanted: str, chosen: str) -> None:
    assert best(variants[::-1], PLAIN, wanted).startswith(wanted)
    assert chosen in names(rank(variants, PLAIN, wanted, lambda _: True))


def test_a_misspelt_variant_is_refused_with_the_known_ones(variants: list[Variant]) -> None:
    with pytest.raises(UsageError, match=r"expected one of onnx, onnx-fp32, .*tflite-int8, got 'onxx'"):
        rank(variants, PLAIN, "onxx", lambda _: True)


def test_the_choice_explains_every_variant(variants: list[Variant]) -> None:
    ranking = rank(variants, VNNI._replace(engines={"onnxruntime": "1.20.0"}), None, lambda _: True)
    text = str(ranking.why(ranking.usable[0], fallbacks=["tflite-int8 failed: it is ill"]))
    assert text.splitlines()[0].startswith("onnx-int8 in onnxruntime 1.20.0: ")
    assert all(variant.name in text for variant in variants)
    assert "→ onnx-int8" in text
    assert "- openvino-int8" in text
    assert "! tflite-int8 failed: it is ill" in text


@pytest.mark.parametrize(
    "low, high",
    [("1.9", "1.10"), ("1.20", "1.20.1"), ("1.2.3", "1.3"), ("2024.6", "2025.0"), ("0.9", "1"), ("", "0.0.1")],
)
def test_versions_are_compared_as_numbers(low: str, high: str) -> None:
    assert parse_version(low) < parse_version(high)


@pytest.mark.parametrize(
    "one, other", [("1.20", "1.20.0"), ("2024.6.0", "2024.6"), ("1.32.0+cpu", "1.32.0"), ("1.20.0rc1", "1.20")]
)
def test_versions_that_differ_in_form_only_are_equal(one: str, other: str) -> None:
    assert parse_version(one) == parse_version(other)


@pytest.mark.parametrize("text", ["9" * 5000, "a.b.c", "-", "1..2", "٣.٤"])
def test_an_odd_version_is_no_error(text: str) -> None:
    assert len(parse_version(text)) == 4
