"""The order in which choices are tried: Optuna's sampler, successive halving, and a journal that outlives a kill."""

import fcntl
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from doorstep.errors import ConversionError
from doorstep_converters.search.front import Judged, Point, Tried, choose, nearest
from doorstep_converters.search.journal import UNREADABLE, check_lines, set_aside
from doorstep_converters.search.order import Order
from doorstep_converters.search.space import Choice
from doorstep_converters.search.steps import Steps
from doorstep_converters.sources import whole_digest
from doorstep_converters.stages import Output, recall, versions

_DOUBLING = 0.25  # points of accuracy that half the size is worth while students are compared
_GRACE_S = 90.0  # a student may learn so long beyond the deadline
_ALLOWED = 0.5  # points that may be lost where the budget has no bound
_RECORD, _REFINE, _MENDED = "tried", "refined", "mended"
_REFINED = 2  # students that further variants are tried of


class Study:
    """A search that goes on where it stopped; several processes may work on one journal.

    Args:
        place: of this process among those that work on the journal, 0 for the one that began; each draws other choices.

    Raises:
        ConversionError: another process began the search, and its journal cannot be read.
    """

    def __init__(self, order: Order, steps: Steps, place: int = 0) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._order = order
        self._steps = steps
        self._deadline = time.monotonic() + 60 * order.minutes
        self.journal = journal_of(order, steps)
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        self._study = self._open(place)

    def enqueue(self) -> None:
        """Line up the choices to try first, and again those that a kill interrupted."""
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)
            # A kill may come between asking for a choice and reading it: what was lined up stands in fixed_params.
            self._study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})
        for choice in self._order.choices():
            self._study.enqueue_trial(asdict(choice), skip_if_exists=True)

    def work(self) -> None:
        """Try choices until there were enough of them or time is up."""
        while time.monotonic() < self._deadline and (trial := self._next()) is not None:
            choice = self._choice(trial)
            start = time.monotonic()
            try:
                tried = self._try(trial, choice)
            except ConversionError as error:
                tried = Tried(choice.name, "failed", str(error))
            record = {**asdict(tried), "seconds": round(time.monotonic() - start, 1)}
            trial.set_user_attr(_RECORD, record)
            score = min((self._score(point) for point in tried.points), default=None)
            state = {"stopped": TrialState.PRUNED, "measured": TrialState.COMPLETE}.get(tried.state, TrialState.FAIL)
            if state == TrialState.COMPLETE:
                self._study.tell(trial, score)
            else:
                self._study.tell(trial, state=state)

    def chosen(self) -> Point | None:
        """Return the best point within the budget, its student being the one that was measured."""
        return next(iter(self._whole(self._best)), None)

    def refine(self) -> None:
        """Measure the best students as further variants: other ranges of activations, layers in floating point."""
        wanted = self._order.refined_variants()
        if not wanted or time.monotonic() >= self._deadline:
            return
        for point in self._whole(self._leaders):
            student, name = recall(_folder(point)), f"{_REFINE}/{point.choice}/{point.digest}"
            if student is not None and name not in self._study.user_attrs:
                try:
                    judged = self._steps.measure(point.choice, student, wanted)
                except ConversionError as error:
                    judged = Judged(lost=dict.fromkeys(wanted, str(error)))
                self._study.set_user_attr(name, asdict(judged))

    def tried(self) -> list[Tried]:
        """Return what came of every choice, each once, in the order they were tried."""
        found: dict[str, Tried] = {}
        attributes = self._study.user_attrs
        for trial in self._study.get_trials(deepcopy=False):
            if _RECORD in trial.user_attrs:
                plain = trial.user_attrs[_RECORD]
                tried = Tried.from_plain(attributes.get(f"{_MENDED}/{plain['choice']}", plain))
                digest = next((point.digest for point in tried.points), "")
                more = Judged.from_plain(attributes.get(f"{_REFINE}/{tried.choice}/{digest}", asdict(Judged())))
                known = {point.variant for point in tried.points}
                points = (*tried.points, *(point for point in more.points if point.variant not in known))
                found[tried.choice] = replace(tried, points=points, lost={**tried.lost, **more.lost})
        return list(found.values())

    def _open(self, place: int) -> optuna.Study:
        """Open the journal, or begin it; one that cannot be read makes room for a new one."""
        try:
            check_lines(self.journal)
            self._study = self._load(place)
            self.tried()
            return self._study
        except UNREADABLE as error:
            if place:
                raise ConversionError(
                    f"search: {self.journal} cannot be read ({error!s:.120}); run the search again, which sets it aside"
                ) from error
            aside = set_aside(self.journal)
            told = f"its journal cannot be read ({error!s:.120}) and lies in {aside} now; what the cache holds is used"
            self._steps.watch.note("search", told)
        return self._load(place)

    def _load(self, place: int) -> optuna.Study:
        order = self._order
        return optuna.create_study(
            study_name="search",
            storage=JournalStorage(JournalFileBackend(str(self.journal))),
            sampler=optuna.samplers.TPESampler(seed=order.seed + place, n_startup_trials=len(order.choices())),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
            direction="minimize",
            load_if_exists=True,
        )

    def _best(self, points: Sequence[Point]) -> list[Point]:
        best = choose(points, self._order.budget, self._order.prefer)
        return [] if best is None else [best]

    def _leaders(self, points: Sequence[Point]) -> list[Point]:
        """Return a point of each of the best students."""
        of_choice: dict[str, Point] = {}
        for point in nearest(points, self._order.budget, len(points)):
            of_choice.setdefault(point.choice, point)
        return list(of_choice.values())[:_REFINED]

    def _whole(self, pick: Callable[[Sequence[Point]], list[Point]]) -> list[Point]:
        """Return what `pick` takes of all points, once the students on disk are those that were measured."""
        while True:
            picked = pick([point for tried in self.tried() for point in tried.points])
            damaged = [point.choice for point in picked if not _is_as_measured(point)]
            if not damaged:
                return picked
            self._mend(damaged[0])

    def _mend(self, name: str) -> None:
        """Make and measure a choice again; of the stages, those are run whose outputs are not whole."""
        self._steps.watch.note("search", f"{name}: its weights are not those that were measured; they are made again")
        trials = self._study.get_trials(deepcopy=False)
        trial = next(one for one in trials if one.user_attrs.get(_RECORD, {}).get("choice") == name)
        choice, record = Choice(**trial.params), trial.user_attrs[_RECORD]
        try:
            student = self._steps.build(choice)
            if choice.is_trained:
                student = self._steps.train(choice, student, self._order.rungs[-1])
            tried = replace(self._measured(choice, student, record["rungs"]), seconds=record["seconds"])
        except ConversionError as error:
            tried = Tried(name, "failed", str(error))
        self._study.set_user_attr(f"{_MENDED}/{name}", asdict(tried))

    def _next(self) -> optuna.Trial | None:
        """Take the next choice; None where enough are tried or being tried, by all processes together."""
        with open(self.journal.with_suffix(".next"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            trials = self._study.get_trials(deepcopy=False)
            begun = sum(_RECORD in one.user_attrs or one.state == TrialState.RUNNING for one in trials)
            return self._study.ask() if begun < self._order.trials else None

    def _choice(self, trial: optuna.Trial) -> Choice:
        names = list(dict.fromkeys(choice.student for choice in self._order.choices()))
        augmented = sorted({choice.is_augmented for choice in self._order.choices()})
        return Choice(
            trial.suggest_categorical("student", names),
            trial.suggest_categorical("is_augmented", augmented),
            trial.suggest_categorical("rate", list(self._order.rates())),
        )

    def _try(self, trial: optuna.Trial, choice: Choice) -> Tried:
        student = self._steps.build(choice)
        bound = self._order.budget.bound("size")
        if bound is not None and (least := self._steps.smallest(student)) > bound:
            return Tried(
                choice.name, "refused", f"its weights take {least / 1e6:.3g} MB at 4 bits, more than the budget's size"
            )
        if not choice.is_trained:
            return self._measured(choice, student, {})
        rungs: dict[str, float] = {}
        trained = student
        for place, steps in enumerate(self._order.rungs):
            if place and (late := _lateness(trained.result, steps, self._deadline - time.monotonic())):
                return Tried(choice.name, "stopped", late, rungs=rungs)
            trained = self._steps.train(choice, student, steps)
            accuracy = float(trained.result["dev_accuracy"])
            rungs[str(steps or "all")] = accuracy
            drop = 100 * (self._steps.teacher_accuracy() - accuracy)
            trial.report(self._rung_score(drop, self._steps.smallest(student)), place + 1)
            if place + 1 < len(self._order.rungs) and trial.should_prune():
                reason = f"after {steps} steps {100 * accuracy:.2f} % on dev; others of its size were better"
                return Tried(choice.name, "stopped", reason, rungs=rungs)
        return self._measured(choice, trained, rungs)

    def _measured(self, choice: Choice, trained: Output, rungs: dict[str, float]) -> Tried:
        judged = self._steps.measure(choice.name, trained, self._order.wanted_variants())
        if not judged.points:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in judged.lost.items())
            return Tried(choice.name, "failed", f"none of its variants could be measured: {reasons}", rungs=rungs)
        return Tried(choice.name, "measured", points=judged.points, rungs=rungs, lost=judged.lost)

    def _rung_score(self, drop: float, size: int) -> float:
        """Return what a student is compared by: points lost beyond the bound, and its size."""
        allowed = self._order.budget.bound("drop")
        return max(0.0, drop - (_ALLOWED if allowed is None else allowed)) + _DOUBLING * math.log2(max(1, size))

    def _score(self, point: Point) -> float:
        drop, size = point.figures["drop"] or 0.0, point.figures["size"] or 0.0
        excess = min(100.0, self._order.budget.excess(point.figures))
        return 10 * excess + self._rung_score(drop, int(size))


def _lateness(trained: Mapping[str, Any], steps: int, left: float) -> str:
    """Return why a student that would learn far beyond the deadline stops; "" for one that does not.

    Args:
        trained: what came of the rung before: its `seconds`, `steps`, and `all_steps` until the corpus is learnt.
        steps: of the next rung; 0 for all.
        left: seconds until the deadline; negative behind it.
    """
    needed = trained["seconds"] / max(1, trained["steps"]) * (steps or trained["all_steps"])
    if needed <= max(0.0, left) + _GRACE_S:
        return ""
    return f"{steps or 'all'} steps would take {needed / 60:.1f} min, and the search has {max(0.0, left) / 60:.1f} left"


def journal_of(order: Order, steps: Steps) -> Path:
    """Return where the journal of a search lies."""
    return order.job.cache / "search" / f"{_key(order, steps)}.journal"


def _folder(point: Point) -> Path:
    """Return the output of the stage that made a point's student."""
    return Path(point.checkpoint).parent


def _is_as_measured(point: Point) -> bool:
    student = recall(_folder(point))
    return student is not None and student.digest == point.digest


def _key(order: Order, steps: Steps) -> str:
    """Name the journal by all that makes two searches one."""
    parts = [
        steps.teacher.digest, steps.data.digest, order.job.target, str(order.budget), order.rungs, order.seed,
        [asdict(choice) for choice in order.choices()], order.wanted_variants(), order.refined_variants(),
        order.job.max_length, order.slice_column, steps.judged_by(), versions(), whole_digest(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
