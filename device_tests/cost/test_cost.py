"""The cost guard: what it lets pass, what it does not. The guard itself is part of `make check`."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from device_tests.cost import __main__ as command
from device_tests.cost.baseline import BASELINE, Counts, compare
from device_tests.cost.callgrind import NAMES
from doorstep.errors import FormatError

BEFORE = Counts({"import": 1000, "load": 2000}, "3.11.7", "2.4.6", "x86_64, GCC 12.2.0, optimized")


def _run(monkeypatch: pytest.MonkeyPatch, now: Counts, *arguments: str) -> int:
    monkeypatch.setattr(command, "_count", lambda keep: now)
    return command.main(list(arguments))


@pytest.fixture
def baseline(tmp_path: Path) -> str:
    BEFORE.write(tmp_path / "baseline.json")
    return str(tmp_path / "baseline.json")


@pytest.mark.parametrize("count", [1, 1000, 1100])
def test_a_count_within_the_margin_passes(count: int) -> None:
    assert compare(replace(BEFORE, counts={"import": count}), BEFORE).over == []


def test_a_count_over_the_margin_fails_and_the_message_says_how_to_accept_it(
    monkeypatch: pytest.MonkeyPatch, baseline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = replace(BEFORE, counts={"import": 1101, "load": 2000})
    assert _run(monkeypatch, slower, "--check", "--baseline", baseline) == 1
    said = capsys.readouterr()
    assert said.err.startswith("import: expected at most 1.10 × 1,000 instructions, got 1.101 × (1,101)")
    assert command.ACCEPT in said.err
    assert "load" in said.out


def test_the_baselines_margin_counts() -> None:
    assert compare(replace(BEFORE, counts={"import": 1090}), replace(BEFORE, margin=0.05)).over


def test_without_a_baseline_the_check_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _run(monkeypatch, BEFORE, "--check", "--baseline", str(tmp_path / "none.json")) == 1


def test_a_count_that_the_baseline_lacks_fails() -> None:
    now = replace(BEFORE, counts={**BEFORE.counts, "predict": 1})
    assert compare(now, BEFORE).over == ["predict: not in the baseline"]


def test_update_writes_what_check_then_passes(monkeypatch: pytest.MonkeyPatch, baseline: str) -> None:
    now = replace(BEFORE, counts={"import": 5000, "predict": 1})
    assert _run(monkeypatch, now, "--update", "--baseline", baseline) == 0
    assert Counts.read(Path(baseline)) == now
    assert _run(monkeypatch, now, "--check", "--baseline", baseline) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"python": "3.12.1"}, "Python 3.11.7, this is 3.12.1"),
        ({"numpy": "2.5.0"}, "NumPy 2.4.6, this is 2.5.0"),
        ({"interpreter": "aarch64, GCC 12.2.0, optimized"}, "this one is aarch64"),
    ],
)
@pytest.mark.parametrize(("strict", "code"), [([], 0), (["--strict"], 1)])
def test_another_python_or_numpy_is_not_compared(
    monkeypatch: pytest.MonkeyPatch,
    baseline: str,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    said: str,
    strict: list[str],
    code: int,
) -> None:
    now = Counts(**{**{name: getattr(BEFORE, name) for name in BEFORE.__slots__}, "counts": {"import": 9999}, **change})
    assert _run(monkeypatch, now, "--check", "--baseline", baseline, *strict) == code
    error = capsys.readouterr().err
    assert error.startswith("not comparable: ")
    assert said in error


def test_another_patch_release_is_compared() -> None:
    assert compare(replace(BEFORE, python="3.11.9", numpy="2.4.9"), BEFORE).difference == ""


@pytest.mark.parametrize(("arguments", "code"), [(["--check"], 0), (["--check", "--strict"], 1), (["--update"], 1)])
def test_without_valgrind_only_a_lenient_check_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert command.main(arguments) == code
    assert "apt-get install valgrind" in capsys.readouterr().err


def test_a_damaged_baseline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text('{"counts": {"import": "many"}}', encoding="utf-8")
    with pytest.raises(FormatError, match=r"counts\.import"):
        Counts.read(tmp_path / "baseline.json")


def test_the_committed_baseline_names_everything_that_is_counted() -> None:
    committed = Counts.read(BASELINE)
    assert committed is not None
    assert tuple(committed.counts) == NAMES
