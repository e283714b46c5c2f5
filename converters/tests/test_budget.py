"""Budgets: what is read, what is refused, and what counts as kept."""

import doctest

import pytest

from doorstep.errors import UsageError
from doorstep_converters import budget
from doorstep_converters.budget import KINDS, Limit, parse_budget


def test_the_examples_in_the_documentation_hold() -> None:
    assert doctest.testmod(budget).failed == 0


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("size<=2MB", Limit("size", 2e6)),
        ("size <= 600 kB", Limit("size", 6e5)),
        ("size≤1MiB", Limit("size", 1048576.0)),
        ("p95<=500us", Limit("p95", 0.5)),
        ("p50<0.5ms", Limit("p50", 0.5)),
        ("cold<=1s", Limit("cold", 1000.0)),
        ("rss<=64MiB", Limit("rss", 64.0)),
        ("drop<=0.5", Limit("drop", 0.5)),
        ("drop<=0", Limit("drop", 0.0)),
        ("agreement>=0.97", Limit("agreement", 0.97)),
        ("agreement≥97%", Limit("agreement", 0.97)),
        ("slice_gap<=3points", Limit("slice_gap", 3.0)),
        ("ece<=.05", Limit("ece", 0.05)),
    ],
)
def test_a_bound_is_read_in_its_unit(text: str, limit: Limit) -> None:
    (got,) = parse_budget(text).limits
    assert (got.name, got.value) == (limit.name, pytest.approx(limit.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got none"),
        (" , ;", "got none"),
        ("siez<=2MB", "unknown bound 'siez'; did you mean 'size'"),
        ("P95<=2ms", "did you mean 'p95'"),
        ("weight<=2", "known: size, download"),
        ("size>=2MB", "expected size<=…"),
        ("agreement<=0.9", "expected agreement>=…"),
        ("size=2MB", "expected size<=…"),
        ("size<=2", "one of the units B, kB"),
        ("size<=2ms", "got 'ms'"),
        ("p95<=2", "one of the units us"),
        ("drop<=0.5%", "got '%'"),
        ("p95<=0ms", "more than 0"),
        ("ece<=3", "share of 0 to 1"),
        ("p95<=2ms, p95<=3ms", "got p95 twice"),
        ("p95<=2ms and drop<=1", "expected a bound such as"),
        ("size<=-2MB", "expected a bound such as"),
        ("size<=nanMB", "expected a bound such as"),
        ("__import__('os')", "expected a bound such as"),
    ],
)
def test_a_misspelt_budget_is_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        parse_budget(text)


def test_every_bound_reads_back_as_it_is_shown() -> None:
    for name, kind in KINDS.items():
        unit = next(unit for unit in ("kB", "ms", "MiB", "") if unit in kind.units)
        found = parse_budget(f"{name}{'<=' if kind.is_most else '>='}0.5{unit}")
        assert parse_budget(str(found)) == found


def test_a_miss_is_described_with_figure_and_bound() -> None:
    found = parse_budget("size<=2MB, p95<=2ms, agreement>=0.97")
    assert found.misses({"size": 1e6, "p95": 3.1, "agreement": 0.98}) == ["p95 3.1 ms, bound 2 ms"]


def test_what_was_not_measured_keeps_to_no_bound() -> None:
    assert parse_budget("slice_gap<=3").misses({"slice_gap": None}) == ["slice_gap not measured, bound 3"]


def test_figures_on_the_bound_keep_to_it() -> None:
    assert (
        parse_budget("p95<=2ms, drop<=0.5, agreement>=0.97").misses({"p95": 2.0, "drop": 0.5, "agreement": 0.97}) == []
    )
