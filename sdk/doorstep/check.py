"""Checks of a bundle on this very device: does it answer as the checkpoint did, and within its budgets?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from doorstep.answers import Answers, ask
from doorstep.budgets import BOUNDS, Bounds, Budgets
from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.device import Device
from doorstep.errors import EngineError
from doorstep.golden import Example, load_golden
from doorstep.manifest import Variant
from doorstep.measure import Plan, measure
from doorstep.origin import Origin
from doorstep.selection import rank

PASSED, FAILED, SKIPPED, NO_BUDGET = "passed", "failed", "skipped", "no budget"
_TIMES = frozenset({"p50_ms", "p95_ms", "cold_start_ms"})
_ROUNDS = {"iterations": 50, "warmup": 5, "cold_starts": 3}
_EMULATED_ROUNDS = {"iterations": 10, "warmup": 1, "cold_starts": 1}  # no one may compare these times


@dataclass(frozen=True, slots=True)
class Request:
    """What to check.

    Attributes:
        variant: a variant's or a runtime's name; None takes the one this device would choose.
        is_all: check every variant this device can run.
        threads: threads a prediction may use.
    """

    variant: str | None = None
    is_all: bool = False
    threads: int = 1
    budgets: Budgets = field(default_factory=Budgets)


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
    """One variant's checks; `figures` holds what was measured, by the names of `Bounds`."""

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


def check(bundle: Bundle, request: Request, tell: Callable[[str], None] = lambda text: None) -> Report:
    """Check one or all variants of `bundle`; `tell` is given a word on what is done next.

    Raises:
        IncompatibleError: no variant fits this device.
        UsageError: `request.variant` names nothing in the bundle.
        BundleError: the golden examples are malformed.
    """
    device = Device.detect()
    origin = Origin.here(bundle, device)
    ranking = rank(bundle.manifest.variants, device, request.variant, bundle.has)
    examples = load_golden(bundle).examples
    variants = []
    for variant in ranking.usable if request.is_all else ranking.usable[:1]:
        tell(variant.name)
        variants.append(_check_variant(bundle, variant, ranking.engines[variant.name], examples, request, origin))
    if request.is_all:
        refused = [verdict for verdict in ranking.verdicts if not verdict.is_usable]
        variants += [Checked(v.variant, "", (Check("runs here", SKIPPED, detail=v.reason),)) for v in refused]
    return Report(origin, request.threads, tuple(variants))


def to_lines(report: Report) -> list[dict[str, Any]]:
    """Return one plain dict a checked variant: what `--results` keeps."""
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
    ]


def typical(examples: Sequence[Example]) -> Example | None:
    """Return the example of median length, which latency is measured with; None where there is none."""
    if not examples:
        return None
    return sorted(examples, key=lambda example: example.tokens)[len(examples) // 2]


def size_bytes(bundle: Bundle, variant: Variant) -> int:
    """Return the bytes a device needs on its disk for `variant`: its own files and the shared ones."""
    others = {path for other in bundle.manifest.variants for path in other.files} - set(variant.files)
    listed = sum(entry.size for entry in bundle.manifest.files if entry.path not in others)
    heads = (bundle.folder / MANIFEST, bundle.folder / SIGNATURE)
    return listed + sum(path.stat().st_size for path in heads if path.exists())


def _check_variant(
    bundle: Bundle, variant: Variant, engine: str, examples: Sequence[Example], request: Request, origin: Origin
) -> Checked:
    checks = list(_check_answers(bundle, variant, request.threads))
    figures = {"size_mb": round(size_bytes(bundle, variant) / 1e6, 3)}
    failure = ""
    try:
        figures |= _measure(bundle, variant, typical(examples), request.threads, origin.board.is_emulated)
    except EngineError as error:
        failure = str(error)
    boards = (origin.board.arch, origin.board_name)
    bounds = request.budgets.bounds(variant.name, *boards)
    checks += [_compare(name, figures.get(name), bounds, failure, origin.board.is_emulated) for name in BOUNDS]
    return Checked(variant.name, engine, tuple(checks), figures)


def _check_answers(bundle: Bundle, variant: Variant, threads: int) -> Iterable[Check]:
    try:
        answers = ask(str(bundle.folder), variant.name, threads)
    except EngineError as error:
        return [Check(name, FAILED, detail=str(error)) for name in ("golden", "tokens")]
    return [_judge_golden(answers), _judge_tokens(answers)]


def _judge_golden(answers: Answers) -> Check:
    if not answers.examples:
        return Check("golden", FAILED, detail="the bundle holds no golden examples, so nothing can be proven here")
    right = answers.examples - len(answers.differences)
    if not answers.differences:
        return Check("golden", PASSED, right, answers.examples, f"all within {answers.tolerance:g}")
    first = answers.differences[0]
    found = f"example {first.place}: expected {first.expected!r}, got {first.got!r}, off by {first.error:.4g}"
    return Check("golden", FAILED, right, answers.examples, f"{found} of {answers.tolerance:g} allowed")


def _judge_tokens(answers: Answers) -> Check:
    if not answers.tokenized:
        return Check("tokens", SKIPPED, detail="the golden examples tell no tokens")
    right = answers.tokenized - len(answers.retokenized)
    if not answers.retokenized:
        return Check("tokens", PASSED, right, answers.tokenized, "the server's, id for id")
    detail = f"example {answers.retokenized[0]}: other token ids than the server's"
    return Check("tokens", FAILED, right, answers.tokenized, detail)


def _measure(
    bundle: Bundle, variant: Variant, example: Example | None, threads: int, is_emulated: bool
) -> dict[str, float]:
    if example is None:
        raise EngineError("no golden example to measure with")
    rounds = _EMULATED_ROUNDS if is_emulated else _ROUNDS
    figures = asdict(measure(Plan(str(bundle.folder), variant.name, example.item, threads, **rounds)))
    return {name: round(figures[name], 3) for name in BOUNDS if name in figures}


def _compare(name: str, value: float | None, bounds: Bounds, failure: str, is_emulated: bool) -> Check:
    limit: float | None = getattr(bounds, name)
    if value is None:
        return Check(name, FAILED, limit=limit, detail=failure)
    if name in _TIMES and is_emulated:
        return Check(name, SKIPPED, value, limit, "emulated")
    if limit is None:
        return Check(name, NO_BUDGET, value)
    if value <= limit:
        return Check(name, PASSED, value, limit)
    return Check(name, FAILED, value, limit, f"{value / limit:.3g} × the budget")
