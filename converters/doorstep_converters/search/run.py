"""Search: teacher → choices → front → the chosen one, packed. Start here."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from doorstep.device import Device
from doorstep.errors import BudgetError, ConversionError
from doorstep_converters.budget import Budget
from doorstep_converters.gates import Gates, gates_card
from doorstep_converters.job import Cost, Job, Report
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert, workbench
from doorstep_converters.progress import Watch
from doorstep_converters.search.executor import require_ray, work_elsewhere
from doorstep_converters.search.front import Point, Tried, nearest, pareto, within
from doorstep_converters.search.order import Order, check_order
from doorstep_converters.search.steps import Steps
from doorstep_converters.search.study import Study, journal_of

_PACKING = "pack"  # before the names of its stages
_FAITHFUL = Bound(agreement=0.0, drop=100.0)  # what a variant loses against the teacher was weighed before


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a search.

    Attributes:
        name: of the bundle.
        chosen: the best point within the budget; None where there is none.
        tried: every choice; front: points that no other one beats.
        gates: variant of the packed bundle to its figures on the final split.
        report: of the convert that packed the chosen student; None where nothing was packed.
        reference: the teacher in PyTorch here: `bytes`, `p50_ms`, `p95_ms`, `accuracy`.
    """

    name: str
    target: str
    budget: Budget
    chosen: Point | None
    tried: tuple[Tried, ...]
    front: tuple[Point, ...]
    gates: dict[str, Gates]
    report: Report | None
    reference: dict[str, Any]
    costs: tuple[Cost, ...]
    price_per_hour: float

    @property
    def points(self) -> list[Point]:
        return [point for tried in self.tried for point in tried.points]


def search(order: Order, watch: Watch) -> Found:
    """Search for a student within a budget, and pack it.

    Raises:
        UsageError: the order asks for something unknown.
        ConversionError: the data or the checkpoint cannot be used.
    """
    check_order(order)
    if order.workers:
        require_ray()
    job = order.job
    name = job.name or (job.data.name.split(".")[0] if job.data else "search")
    device = Device.detect()
    with workbench(job, f"{name}.search", watch) as bench:
        steps = Steps.prepare(order, bench, watch, device)
        study = Study(order, steps)
        study.enqueue()
        if order.workers:
            steps.costs += work_elsewhere(order, study.journal)
            study.enqueue()  # what a lost machine left half done
        study.work()
        study.refine()
        chosen = study.chosen()
        tried = study.tried()
        points = [point for one in tried for point in one.points]
        for folder in {Path(point.checkpoint).parent for point in points}:
            bench.show_curves(folder)  # of students that another run or machine taught
        gates: dict[str, Gates] = {}
        report = None
        if chosen is not None:
            report, gates = _pack(order, steps, chosen, points, watch, name)
        reference = {**steps.reference, "accuracy": steps.teacher_accuracy(_final(steps))}
        return Found(
            name, job.target, order.budget, chosen, tuple(tried), tuple(pareto(points)), gates, report, reference,
            tuple(steps.costs), order.price_per_hour,
        )  # fmt: skip


def work(order: Order, watch: Watch, journal: Path, place: int) -> list[Cost]:
    """Try choices of a search that another process began, until there were enough of them; return what they cost.

    Args:
        journal: of that search; place: of this worker among the others.

    Raises:
        ConversionError: the journal is not here, so the cache is not shared; or other code or libraries are.
    """
    here = f"{socket.gethostname()}-{os.getpid()}"
    if not journal.is_file():
        raise ConversionError(
            f"search: expected the search's journal {journal} on {here}, found none; workers need --cache on a file "
            "system that all machines have at the same path"
        )
    with workbench(order.job, f"{order.job.name or 'search'}.{here}", watch) as bench:
        steps = Steps.prepare(order, bench, watch, Device.detect())
        if (own := journal_of(order, steps)).name != journal.name:
            raise ConversionError(
                f"search: expected to work on {journal.name}, got {own.name} on {here}; workers need the same doorstep "
                "and libraries of the same versions as the machine that began the search"
            )
        Study(order, steps, place + 1).work()
        return steps.costs


def require_found(found: Found) -> None:
    """Raise what a search without a fitting candidate means.

    Raises:
        BudgetError: none keeps to the budget; the nearest ones and what each would cost are in the message.
    """
    if found.chosen is not None:
        return
    if not found.points:
        reasons = "; ".join(f"{tried.choice}: {tried.reason}" for tried in found.tried[:5])
        raise BudgetError(f"budget {found.budget}: no candidate was measured: {reasons or 'none was tried'}")
    parts = [
        f"{point.name} misses {' and '.join(found.budget.misses(point.figures))}"
        for point in nearest(found.points, found.budget)
    ]
    raise BudgetError(f"budget {found.budget}: no candidate keeps to it; the nearest: {'; '.join(parts)}")


def _pack(
    order: Order, steps: Steps, chosen: Point, points: Sequence[Point], watch: Watch, name: str
) -> tuple[Report, dict[str, Gates]]:
    """Pack the chosen student with every variant of it that keeps to the budget."""
    fitting = [point.variant for point in within(points, order.budget) if point.choice == chosen.choice]
    job = replace(
        order.job.of_finished(chosen.checkpoint),
        name=name,
        variants=tuple(dict.fromkeys(fitting)),
        bound=_FAITHFUL,
    )
    trial = convert(replace(job, out=job.cache / "search" / "chosen", key=None), watch)
    steps.count(trial, _PACKING)
    assert trial.bundle is not None  # noqa: S101 -- these very variants were made before
    temperature = steps.temperature(trial.bundle, chosen.variant)
    split = _final(steps)
    gates = {variant: steps.judge(trial.bundle, variant, split, temperature) for variant in job.variants}
    report = convert(_final_job(job, chosen, temperature, gates), watch)
    steps.count(report, _PACKING)
    return report, gates


def _final_job(job: Job, chosen: Point, temperature: float, gates: dict[str, Gates]) -> Job:
    return replace(job, temperature=temperature, card=f"\nStudent: {chosen.choice}.\n{gates_card(gates)}")


def _final(steps: Steps) -> str:
    return "test" if "test" in steps.exams else "dev"
