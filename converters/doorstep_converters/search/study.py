"""The order in which choices are tried: Optuna's sampler, successive halving, and a journal that outlives a kill."""

import fcntl
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from doorstep.errors import ConversionError
from doorstep_converters.budget import Budget
from doorstep_converters.search.front import Judged, Point, Tried, choose, nearest
from doorstep_converters.search.journal import UNREADABLE, check_lines, set_aside
from doorstep_converters.search.order import Order
from doorstep_converters.search.space import Choice
from doorstep_converters.search.steps import Steps
from doorstep_converters.search.turns import Begun, lateness, pick, reserved
from doorstep_converters.sources import whole_digest
from doorstep_converters.stages import Output, recall, versions

_DOUBLING = 0.25  # points of accuracy that half the size is worth while students are compared
_ALLOWED = 0.5  # points that may be lost where the budget has no bound
_RECORD, _REFINE, _MENDED = "tried", "refined", "mended"
_COSTS = ("size", "download", "p50", "p95", "cold", "rss")  # bounds that a smaller student keeps sooner
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
        """Try choices until there were enough of them or time is up.

        Each learns its first steps and waits, unless better ones of its size stop it; the best that waits learns the
        rest. Another is begun as long as the best few that wait would have time to learn behind it.
        """
        waiting: list[Begun] = []
        steps, last = self._order.rungs[-1], 0.0  # `last`: seconds that the choice before took to begin
        while True:
            left = self._deadline - time.monotonic()
            best = pick(waiting, steps, left, self._is_tight())
            kept = reserved(waiting, steps, 30 * self._order.minutes)  # half of the time
            trial = self._next(may_draw=best is None) if left > 0 and (best is None or left - last >= kept) else None
            start = time.monotonic()
            if trial is not None:
                came = self._begin(trial, self._choice(trial), kept)
                last = time.monotonic() - start
            elif best is not None:
                waiting.remove(best)
                trial, came = best.trial, self._finish(best)
            else:
                return
            if isinstance(came, Begun):
                waiting.append(came)
            else:
                self._tell(trial, replace(came, seconds=round(came.seconds + time.monotonic() - start, 1)))

    def _tell(self, trial: optuna.Trial, tried: Tried) -> None:
        trial.set_user_attr(_RECORD, asdict(tried))
        if tried.state == "measured":
            self._study.tell(trial, min(self._score(point) for point in tried.points))
        else:
            state = TrialState.PRUNED if tried.state == "stopped" else TrialState.FAIL
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

    def _next(self, may_draw: bool) -> optuna.Trial | None:
        """Take the next choice; None where enough are tried or being tried, by all processes together.

        Args:
            may_draw: take one of the sampler's where none is lined up; it learns from those that are measured.
        """
        with open(self.journal.with_suffix(".next"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            trials = self._study.get_trials(deepcopy=False)
            begun = sum(_RECORD in one.user_attrs or one.state == TrialState.RUNNING for one in trials)
            is_lined_up = any(one.state == TrialState.WAITING for one in trials)
            return self._study.ask() if begun < self._order.trials and (is_lined_up or may_draw) else None

    def _choice(self, trial: optuna.Trial) -> Choice:
        names = list(dict.fromkeys(choice.student for choice in self._order.choices()))
        augmented = sorted({choice.is_augmented for choice in self._order.choices()})
        return Choice(
            trial.suggest_categorical("student", names),
            trial.suggest_categorical("is_augmented", augmented),
            trial.suggest_categorical("rate", list(self._order.rates())),
        )

    def _begin(self, trial: optuna.Trial, choice: Choice, kept: float) -> Tried | Begun:
        """Build a student and let it learn its first steps; one that learns at once or not at all is measured.

        Args:
            kept: seconds of what is left that others shall have.
        """
        start = time.monotonic()
        try:
            student = self._steps.build(choice)
            bound = self._order.budget.bound("size")
            if bound is not None and (least := self._steps.smallest(student)) > bound:
                taken = f"its weights take {least / 1e6:.3g} MB at 4 bits, more than the budget's size"
                return Tried(choice.name, "refused", taken)
            if not choice.is_trained:
                return self._measured(choice, student, {})
            rungs: dict[str, float] = {}
            trained, score = student, math.inf
            *first, _ = self._order.rungs
            for place, steps in enumerate(first):
                left = self._deadline - time.monotonic() - kept
                if place and (late := lateness(trained.result, steps, left)):
                    return Tried(choice.name, "stopped", late, rungs=rungs)
                trained, score = self._train(trial, choice, student, steps, rungs)
                if trial.should_prune():
                    accuracy = 100 * rungs[str(steps)]
                    reason = f"after {steps} steps {accuracy:.2f} % on dev; others of its size were better"
                    return Tried(choice.name, "stopped", reason, rungs=rungs)
            size = self._steps.smallest(student)
            begun = Begun(trial, choice, student, trained, rungs, score, size, time.monotonic() - start)
            return begun if first else self._learn(begun)
        except ConversionError as error:
            return Tried(choice.name, "failed", str(error))

    def _finish(self, begun: Begun) -> Tried:
        """Let a student that waited learn to the end and measure it, unless that would end far behind the deadline."""
        late = lateness(begun.trained.result, self._order.rungs[-1], self._deadline - time.monotonic())
        try:
            tried = Tried(begun.choice.name, "stopped", late, rungs=begun.rungs) if late else self._learn(begun)
        except ConversionError as error:
            tried = Tried(begun.choice.name, "failed", str(error))
        return replace(tried, seconds=begun.seconds)

    def _learn(self, begun: Begun) -> Tried:
        trained, _ = self._train(begun.trial, begun.choice, begun.student, self._order.rungs[-1], begun.rungs)
        return self._measured(begun.choice, trained, begun.rungs)

    def _train(
        self, trial: optuna.Trial, choice: Choice, student: Output, steps: int, rungs: dict[str, float]
    ) -> tuple[Output, float]:
        """Let a student learn `steps`, 0 for all, and write its accuracy to `rungs`; returns it and its score."""
        trained = self._steps.train(choice, student, steps)
        accuracy = rungs[str(steps or "all")] = float(trained.result["dev_accuracy"])
        drop = 100 * (self._steps.teacher_accuracy() - accuracy)
        score = self._rung_score(drop, self._steps.smallest(student))
        trial.report(score, len(rungs))
        return trained, score

    def _is_tight(self) -> bool:
        """Whether all that was measured is larger or slower than the budget allows."""
        points = [point for tried in self.tried() for point in tried.points]
        costs = Budget(tuple(limit for limit in self._order.budget.limits if limit.name in _COSTS))
        return bool(points) and all(costs.excess(point.figures) for point in points)

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
