"""`doorstep check`: a bundle proven on this device, and every check seen to fail."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tokenizers import Tokenizer

from doorstep.answers import spread
from doorstep.budgets import BOUNDS, Bounds, Budgets, load_budgets
from doorstep.bundle import Bundle
from doorstep.check import Request, check, size_bytes, typical
from doorstep.cli.check import describe
from doorstep.cli.main import main
from doorstep.errors import EngineError, FormatError, UsageError
from doorstep.fresh import PYTHON_VARIABLE, Call, call_fresh
from doorstep.golden import Example
from doorstep.junit import write_junit
from doorstep.manifest import Board, Variant
from doorstep.origin import BOARD_VARIABLE, COMMIT_VARIABLE, EMULATED_VARIABLE, Origin
from doorstep.verdicts import Check, Checked, Report, judge_bound

MakeBundle = Callable[..., Path]
MakeVariant = Callable[..., Variant]
Capture = pytest.CaptureFixture[str]
TIMES = {"p50_ms", "p95_ms", "cold_start_ms"}
TINY = "".join(f"{name} = 0.0001\n" for name in BOUNDS)


@pytest.fixture(autouse=True)
def _no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (EMULATED_VARIABLE, BOARD_VARIABLE, COMMIT_VARIABLE, PYTHON_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def ids_digest(ids: list[int]) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


@pytest.fixture(scope="session")
def golden(template: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """The template's golden examples, with the tokens a server would have told."""
    plain = json.loads((template / "golden.json").read_bytes())
    for example in plain["examples"]:
        ids = tokenizer.encode(example["item"]).ids
        example |= {"tokens": len(ids), "token_digest": ids_digest(ids)}
    return dict(plain)


@pytest.fixture(scope="session")
def make_proven(make_bundle: MakeBundle, golden: dict[str, Any]) -> MakeBundle:
    """Return a function that writes a bundle with golden examples and tokens; as `make_bundle`."""

    def make(folder: Path, *, files: dict[str, bytes] | None = None, **changes: Any) -> Path:
        return make_bundle(folder, files={"golden.json": json.dumps(golden).encode(), **(files or {})}, **changes)

    return make


@pytest.fixture
def proven(tmp_path: Path, make_proven: MakeBundle) -> Path:
    return make_proven(tmp_path / "proven.bundle")


def outcomes(report: Report, place: int = 0) -> dict[str, str]:
    return {item.name: item.outcome for item in report.variants[place].checks}


def checked(folder: Path, **request: Any) -> Report:
    return check(Bundle.open(folder), Request(**request))


def test_a_right_bundle_passes_every_check(proven: Path) -> None:
    report = checked(proven, variant="onnx-fp32")
    told = dict.fromkeys(BOUNDS, "no budget")
    assert outcomes(report) == {"golden": "passed", "tokens": "passed", **told}
    assert report.is_passed
    assert report.variants[0].figures.keys() == set(BOUNDS)


def test_the_table_is_for_people(proven: Path, capsys: Capture) -> None:
    assert main(["check", str(proven), "--variant", "onnx-fp32"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "every check passed" in out
    assert "onnx-fp32" in out


@pytest.mark.parametrize("is_emulated", [False, True], ids=["real", "emulated"])
def test_every_missed_budget_fails_but_for_times_under_an_emulator(
    proven: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, is_emulated: bool
) -> None:
    monkeypatch.setenv(EMULATED_VARIABLE, str(int(is_emulated)))
    (tmp_path / "budgets.toml").write_text(TINY)
    assert main(["check", str(proven), "--budgets", str(tmp_path / "budgets.toml"), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    skipped = {*TIMES, "peak_rss_mib"} if is_emulated else set()
    assert report["passed"] is False
    assert report["origin"]["board"]["is_emulated"] is is_emulated
    assert {item["name"]: item["outcome"] for item in report["variants"][0]["checks"]} == {
        "golden": "passed",
        "tokens": "passed",
        **{name: "skipped" if name in skipped else "failed" for name in BOUNDS},
    }


def test_another_answer_fails(tmp_path: Path, make_proven: MakeBundle, golden: dict[str, Any]) -> None:
    first = {**golden["examples"][0], "expected": {"negative": 0.5, "neutral": 0.3, "positive": 0.2}}
    changed = {**golden, "examples": [first, *golden["examples"][1:]]}
    folder = make_proven(tmp_path / "b", files={"golden.json": json.dumps(changed).encode()})
    report = checked(folder, variant="onnx-fp32")
    assert outcomes(report)["golden"] == "failed"
    assert outcomes(report)["tokens"] == "passed"
    assert "example 0: expected 'negative'" in report.variants[0].checks[0].detail


def test_a_changed_tokenizer_is_caught(tmp_path: Path, make_proven: MakeBundle, tokenizer: Tokenizer) -> None:
    changed = json.loads(tokenizer.to_str())
    changed["normalizer"] = {"type": "Lowercase"}  # Chinese is no longer taken apart
    folder = make_proven(tmp_path / "b", files={"tokenizer.json": json.dumps(changed).encode()})
    report = checked(folder, variant="onnx-fp32")
    assert outcomes(report)["tokens"] == "failed"
    assert report.variants[0].checks[1].value == 3


def test_as_many_tokens_with_other_ids_are_caught(
    tmp_path: Path, make_proven: MakeBundle, golden: dict[str, Any]
) -> None:
    changed = json.loads(json.dumps(golden))
    changed["examples"][1]["token_digest"] = ids_digest([0] * changed["examples"][1]["tokens"])
    folder = make_proven(tmp_path / "b", files={"golden.json": json.dumps(changed).encode()})
    report = checked(folder, variant="onnx-fp32")
    assert outcomes(report) | {"tokens": "failed"} == outcomes(report)
    assert outcomes(report)["golden"] == "passed"


def test_altered_bytes_are_one_line_and_exit_code_1(proven: Path, capsys: Capture) -> None:
    data = (proven / "tokenizer.json").read_bytes()
    (proven / "tokenizer.json").write_bytes(data.replace(b"[UNK]", b"[unk]"))
    assert main(["check", str(proven)]) == 1
    assert capsys.readouterr().err.startswith("doorstep: tokenizer.json: expected sha256")


def test_nothing_to_compare_with_is_no_pass(tmp_path: Path, make_bundle: MakeBundle) -> None:
    report = checked(make_bundle(tmp_path / "b"), variant="onnx-fp32")
    assert not report.is_passed
    assert outcomes(report)["golden"] == outcomes(report)["p50_ms"] == "failed"


def test_examples_without_tokens_skip_that_check(bundle: Path) -> None:
    assert outcomes(checked(bundle, variant="onnx-fp32"))["tokens"] == "skipped"


def test_an_engine_that_fails_fails_its_variant_and_no_other(tmp_path: Path, make_proven: MakeBundle) -> None:
    folder = make_proven(tmp_path / "b", files={"variants/onnx-int8/model.onnx": b"no model"})
    report = checked(folder, is_all=True)
    verdicts = {one.variant: outcomes(report, place) for place, one in enumerate(report.variants)}
    assert set(verdicts["onnx-int8"].values()) == {"failed", "no budget"}
    assert verdicts["onnx-int8"]["size_mb"] == "no budget"
    assert "failed" not in verdicts["onnx-fp32"].values()


def test_all_tells_what_cannot_run_here(
    tmp_path: Path, make_proven: MakeBundle, make_variant: MakeVariant, capsys: Capture
) -> None:
    foreign = make_variant("onnx-int8", cpu_features=("no-such-flag",))
    folder = make_proven(tmp_path / "b", variants=(make_variant("onnx-fp32"), foreign))
    results, junit = tmp_path / "results.jsonl", tmp_path / "junit.xml"
    assert main(["check", str(folder), "--all", "--results", str(results), "--junit", str(junit)]) == 0
    assert "skipped: the CPU lacks no-such-flag" in capsys.readouterr().out
    assert [json.loads(line)["variant"] for line in results.read_text().splitlines()] == ["onnx-fp32"]
    assert [suite.get("skipped") for suite in ElementTree.parse(junit).getroot()] == ["0", "1"]


def test_results_are_appended_with_all_that_tells_where_they_come_from(
    proven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results.jsonl"
    monkeypatch.setenv(COMMIT_VARIABLE, "abc123")
    monkeypatch.setenv(BOARD_VARIABLE, "kiosk-17")
    monkeypatch.setenv(EMULATED_VARIABLE, "1")
    for _ in range(2):
        assert main(["check", str(proven), "--variant", "onnx-int8", "--results", str(results)]) == 0
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["variant"] for line in lines] == ["onnx-int8"] * 2
    assert (lines[0]["commit"], lines[0]["board_name"]) == ("abc123", "kiosk-17")
    assert lines[0]["digest"] == Bundle.open(proven).digest
    assert lines[0]["board"]["arch"] == os.uname().machine
    assert lines[0]["board"]["is_emulated"] is True
    assert lines[0].keys() >= {"engines", "doorstep", "figures", "checks", "time", "threads"}


def test_size_is_what_a_device_needs_for_one_variant(tmp_path: Path, make_proven: MakeBundle) -> None:
    folder = make_proven(tmp_path / "b", files={"variants/onnx-int8/model.onnx": bytes(1 << 20)})
    bundle = Bundle.open(folder)
    whole = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size_bytes(bundle, bundle.manifest.variants[0]) == whole - (1 << 20)


@pytest.mark.parametrize(("limit", "places"), [(None, "abcde"), (9, "abcde"), (5, "abcde"), (2, "ac"), (1, "a")])
def test_fewer_examples_come_from_evenly_spread_places(limit: int | None, places: str) -> None:
    assert [example.item for example in spread([Example(item, {}) for item in "abcde"], limit)] == list(places)


def test_as_many_examples_are_answered_as_were_asked_for(proven: Path) -> None:
    report = checked(proven, variant="onnx-fp32", examples=2)
    golden, tokens = report.variants[0].checks[:2]
    assert (golden.value, golden.limit, tokens.value, tokens.limit) == (2, 2, 2, 2)


def test_latency_is_taken_with_the_example_of_median_length() -> None:
    examples = [Example(name, {}, tokens) for name, tokens in [("long", 9), ("short", 1), ("middle", 5)]]
    assert typical(examples) is examples[2]
    assert typical([]) is None


@pytest.mark.parametrize(
    "value, limit, is_emulated, outcome",
    [
        (1.0, 1.0, False, "passed"),
        (1.1, 1.0, False, "failed"),
        (1.1, None, False, "no budget"),
        (1.1, 1.0, True, "skipped"),
        (None, 1.0, False, "failed"),
        (None, None, False, "skipped"),
    ],
)
def test_a_time_is_judged_against_its_bound(
    value: float | None, limit: float | None, is_emulated: bool, outcome: str
) -> None:
    assert judge_bound("p50_ms", value, limit, is_emulated).outcome == outcome


def test_memory_under_an_emulator_is_told_and_not_judged() -> None:
    judged = judge_bound("peak_rss_mib", 2.0, 1.0, True)
    assert (judged.outcome, judged.value) == ("skipped", 2.0)
    assert judged.detail == "emulated: the emulator's own memory included"


def report_of(*checks: Check) -> Report:
    origin = Origin(
        Board("aarch64", "a CPU"), "", 4, "Linux", "3.11", "0.1", bundle="reviews 1", time="2025-01-01T00:00:00Z"
    )
    return Report(origin, 1, (Checked("onnx-int8", "onnxruntime 1.20", checks),))


def test_junit_reads_back(tmp_path: Path) -> None:
    report = report_of(
        Check("golden", "failed", 3, 5, "expected 'a\x00', got '\ud800 <b>'"),
        Check("size_mb", "passed", 2.5, 3.0),
        Check("p50_ms", "skipped", 2.5, 3.0, "emulated"),
    )
    write_junit(report, tmp_path / "junit.xml")
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert [suite.get(name) for name in ("name", "tests", "failures", "skipped")] == ["onnx-int8", "3", "1", "1"]
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases["golden"].find("failure").get("message") == "expected 'a\ufffd', got '\ufffd <b>'"
    assert cases["p50_ms"].find("skipped").get("message") == "emulated"
    assert cases["size_mb"].find("failure") is cases["size_mb"].find("skipped") is None
    assert cases["size_mb"].get("classname") == "reviews.onnx-int8"


def test_the_table_counts_what_failed() -> None:
    text = describe(report_of(Check("golden", "failed", detail="wrong"), Check("tokens", "passed")))
    assert "FAILED: wrong" in text
    assert text.endswith("1 of 2 checks failed")


def test_a_board_overrides_a_variant_and_a_variant_the_top(tmp_path: Path) -> None:
    (tmp_path / "budgets.toml").write_text(
        'size_mb = 9\np50_ms = 8\np95_ms = 7\n[variant."onnx-int8"]\np50_ms = 6\np95_ms = 5\n'
        '[board."aarch64"]\np95_ms = 4\ncold_start_ms = 3\n[board.kiosk]\ncold_start_ms = 2\n'
    )
    budgets = load_budgets(tmp_path / "budgets.toml")
    assert budgets.bounds("onnx-int8", "aarch64", "kiosk") == Bounds(9, 6, 4, 2)
    assert budgets.bounds("onnx-int8", "x86_64", "") == Bounds(9, 6, 5)
    assert budgets.bounds("onnx-fp32", "x86_64", "") == Bounds(9, 8, 7)
    assert Budgets().bounds("onnx-fp32") == Bounds()


@pytest.mark.parametrize(
    "text, message",
    [
        ("p59_ms = 1", "unknown bound 'p59_ms'; known: size_mb, p50_ms, p95_ms, cold_start_ms, peak_rss_mib"),
        ('[variant."onnx-int8"]\nsize = 1', "variant.onnx-int8: unknown bound 'size'; known"),
        ("[board.aarch64]\np50 = 1", "board.aarch64: unknown bound 'p50'; known"),
        ("[boards.aarch64]\np50_ms = 1", "unknown bound 'boards'; known"),
        ("p50_ms = 0", "expected p50_ms to be a number above 0, got 0"),
        ("p50_ms = nan", "number above 0"),
        ("p50_ms = inf", "number above 0"),
        ("p50_ms = true", "number above 0"),
        ('p50_ms = "1"', "number above 0"),
        ("variant = 1", "expected tables"),
        ("[variant]\np50_ms = 1", "expected tables"),
        ("p50_ms = ", "expected TOML"),
        ("\udcff", "expected TOML"),
        (f"#{'x' * (1 << 20)}", "expected at most"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "budgets.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(FormatError, match=message):
        load_budgets(tmp_path / "budgets.toml")


def test_a_misspelt_bound_is_one_line_and_exit_code_1(proven: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "budgets.toml").write_text("p59_ms = 1")
    assert main(["check", str(proven), "--budgets", str(tmp_path / "budgets.toml")]) == 1
    assert "known: size_mb" in capsys.readouterr().err


def test_a_budget_for_no_variant_of_the_bundle_is_mentioned(proven: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "budgets.toml").write_text('[variant."onnx-int9"]\np50_ms = 1')
    assert main(["check", str(proven), "--budgets", str(tmp_path / "budgets.toml")]) == 0
    assert "no variant 'onnx-int9'" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--threads", "0"], ["--all", "--variant", "onnx"], ["--junit"], []])
def test_wrong_usage_is_exit_code_2(capsys: Capture, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", *(["bundle"] if options else []), *options])
    assert caught.value.code == 2


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module for fresh processes."""
    (tmp_path / "calls.py").write_text(
        "import os, sys\n"
        "def die(plan): os.kill(os.getpid(), plan['signal'])\n"
        "def leave(plan): sys.exit(3)\n"
        "def loaded(plan): return {'cpus': list(os.sched_getaffinity(0)), 'doorstep': 'doorstep' in sys.modules}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "calls"


@pytest.mark.parametrize(
    "function, plan, message",
    [
        ("die", {"signal": 4}, "killed by SIGILL"),
        ("die", {"signal": 9}, "killed by SIGKILL"),
        ("leave", {}, "exit code 3"),
        ("nothing", {}, "AttributeError"),
    ],
)
def test_a_process_that_ends_early_is_explained(calls: str, function: str, plan: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=f"onnx-int8: the measuring process failed: .*{message}"):
        call_fresh(Call(f"{calls}:{function}", plan), "onnx-int8")


def test_a_fresh_process_keeps_to_its_cpus_and_loads_nothing_before_its_turn(calls: str) -> None:
    cpu = min(os.sched_getaffinity(0))
    found = call_fresh(Call(f"{calls}:loaded", {}, (cpu,), ("numpy",)), "x")
    assert found["cpus"] == [cpu]
    assert found["doorstep"] is False
    assert list(found["rss_mib"]) == ["interpreter", "numpy"]


def test_python_may_be_started_another_way(calls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\ntouch "$1"\nshift\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, json.dumps([str(launcher), str(tmp_path / "seen"), sys.executable]))
    assert call_fresh(Call(f"{calls}:loaded", {}), "x")["cpus"]
    assert (tmp_path / "seen").exists()


@pytest.mark.parametrize("text", ["python3", "{}", "[]", "[1]"])
def test_a_malformed_way_to_start_python_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, text)
    with pytest.raises(UsageError, match=PYTHON_VARIABLE):
        call_fresh(Call("calls:loaded", {}), "x")
