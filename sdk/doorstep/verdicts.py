"""Verdicts: what was found, what was allowed, and whether that will do."""

from dataclasses import asdict, dataclass, field
from typing import Any

from doorstep.answers import Answers
from doorstep.origin import Origin

PASSED, FAILED, SKIPPED, NO_BUDGET = "passed", "failed", "skipped", "no budget"
_TIMES = frozenset({"p50_ms", "p95_ms", "cold_start_ms"})
_EMULATED_MEMORY = "emulated: the emulator's own memory included"


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found, what was allowed (in the unit that the name ends with), and the verdict."""

    name: str
    outcome: str
    value: float | None = None
    limit: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Checked:
    """One variant's checks.

    Attributes:
        engine: distribution and version; empty where this device cannot run the variant.
        figures: what was measured, by the names of `Bounds`.
    """

    variant: str
    engine: str
    checks: tuple[Check, ...]
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """Every variant's checks, and where they were made."""

    origin: Origin
    threads: int
    variants: tuple[Checked, ...]

    @property
    def is_passed(self) -> bool:
        """Tell whether no check failed."""
        return all(check.outcome != FAILED for checked in self.variants for check in checked.checks)


def to_lines(report: Report) -> list[dict[str, Any]]:
    """Return one plain dict for every variant that this device can run: what `--results` keeps."""
    origin = asdict(report.origin)
    return [
        {
            **origin,
            "variant": checked.variant,
            "engine": checked.engine,
            "threads": report.threads,
            "figures": checked.figures,
            "checks": [asdict(check) for check in checked.checks],
        }
        for checked in report.variants
        if checked.engine
    ]


def judge_golden(answers: Answers) -> Check:
    """Judge the answers: none to compare with proves nothing, and fails."""
    if not answers.examples:
        return Check("golden", FAILED, detail="the bundle holds no golden examples, so nothing can be proven here")
    right = answers.examples - len(answers.differences)
    if not answers.differences:
        return Check("golden", PASSED, right, answers.examples, f"all within {answers.tolerance:g}")
    first = answers.differences[0]
    found = f"example {first.place}: expected {first.expected!r}, got {first.got!r}, off by {first.error:.4g}"
    return Check("golden", FAILED, right, answers.examples, f"{found} of {answers.tolerance:g} allowed")


def judge_tokens(answers: Answers) -> Check:
    """Judge the tokens against those of the server that converted the checkpoint."""
    if not answers.tokenized:
        return Check("tokens", SKIPPED, detail="the golden examples tell no tokens")
    right = answers.tokenized - len(answers.retokenized)
    if not answers.retokenized:
        return Check("tokens", PASSED, right, answers.tokenized, "the server's, id for id")
    detail = f"example {answers.retokenized[0]}: other token ids than the server's"
    return Check("tokens", FAILED, right, answers.tokenized, detail)


def judge_bound(name: str, value: float | None, limit: float | None, is_emulated: bool) -> Check:
    """Judge a figure against its bound; times and memory taken under an emulator are never compared."""
    if is_emulated and name in _TIMES:
        return Check(name, SKIPPED, value, limit, "emulated")
    if is_emulated and name == "peak_rss_mib":
        return Check(name, SKIPPED, value, limit, _EMULATED_MEMORY)
    if value is None:
        outcome = SKIPPED if limit is None else FAILED
        return Check(name, outcome, limit=limit, detail="not told by this system")
    if limit is None:
        return Check(name, NO_BUDGET, value)
    if value <= limit:
        return Check(name, PASSED, value, limit)
    return Check(name, FAILED, value, limit, f"{value / limit:.3g} × the budget")
