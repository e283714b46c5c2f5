"""Checks of a bundle on this very device: does it answer as the checkpoint did, and within its budgets?"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from doorstep.answers import ask
from doorstep.budgets import BOUNDS, Budgets
from doorstep.bundle import MANIFEST, SIGNATURE, Bundle
from doorstep.device import Device
from doorstep.errors import EngineError
from doorstep.golden import Example, load_golden
from doorstep.manifest import Variant
from doorstep.measure import Plan, measure
from doorstep.origin import Origin
from doorstep.selection import rank
from doorstep.verdicts import FAILED, SKIPPED, Check, Checked, Report, judge_bound, judge_golden, judge_tokens

_ROUNDS: dict[str, Any] = {"iterations": 50, "warmup": 5, "cold_starts": 3}
_EMULATED_ROUNDS: dict[str, Any] = {"iterations": 1, "warmup": 0, "cold_starts": 1}  # no one may compare these times


@dataclass(frozen=True, slots=True)
class Request:
    """What to check.

    Attributes:
        variant: a variant's or a runtime's name; None takes the one this device would choose.
        is_all: check every variant this device can run.
        threads: threads a prediction may use.
        examples: answer so many golden examples at most, evenly spread; None for all.
    """

    variant: str | None = None
    is_all: bool = False
    threads: int = 1
    examples: int | None = None
    budgets: Budgets = field(default_factory=Budgets)


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
    checks = list(_check_answers(bundle, variant, request))
    figures = {"size_mb": round(size_bytes(bundle, variant) / 1e6, 3)}
    failure = ""
    try:
        figures |= _measure(bundle, variant, typical(examples), request.threads, origin.board.is_emulated)
    except EngineError as error:
        failure = str(error)
    boards = (origin.board.arch, origin.board_name)
    bounds = request.budgets.bounds(variant.name, *boards)
    for name in BOUNDS:
        limit: float | None = getattr(bounds, name)
        if failure and name not in figures:
            checks.append(Check(name, FAILED, limit=limit, detail=failure))
        else:
            checks.append(judge_bound(name, figures.get(name), limit, origin.board.is_emulated))
    return Checked(variant.name, engine, tuple(checks), figures)


def _check_answers(bundle: Bundle, variant: Variant, request: Request) -> Iterable[Check]:
    try:
        answers = ask(str(bundle.folder), variant.name, request.threads, request.examples)
    except EngineError as error:
        return [Check(name, FAILED, detail=str(error)) for name in ("golden", "tokens")]
    return [judge_golden(answers), judge_tokens(answers)]


def _measure(
    bundle: Bundle, variant: Variant, example: Example | None, threads: int, is_emulated: bool
) -> dict[str, float]:
    if example is None:
        raise EngineError("no golden example to measure with")
    rounds = _EMULATED_ROUNDS if is_emulated else _ROUNDS
    figures = asdict(measure(Plan(str(bundle.folder), variant.name, example.item, threads, **rounds)))
    return {name: round(figures[name], 3) for name in BOUNDS if math.isfinite(figures.get(name, math.nan))}
