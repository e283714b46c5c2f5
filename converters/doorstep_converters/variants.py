"""Every variant a target allows: made, proven and measured, each step in a process of its own."""

import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from doorstep.device import Device
from doorstep.errors import ConversionError
from doorstep.manifest import Board, Measured
from doorstep.session import RUNTIMES
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.job import Candidate, Cost
from doorstep_converters.pack import ENTRIES, Contents, empty_head, fill_bundle, no_golden
from doorstep_converters.parity import Bound, Parity
from doorstep_converters.progress import Watch
from doorstep_converters.quantize.mixed import describe, tries
from doorstep_converters.recipe import CONTROLLED, NEEDS_CALIBRATION, VariantPlan
from doorstep_converters.sources import source_digest
from doorstep_converters.stages import Output, Stage, StageRunner
from doorstep_converters.tasks.craft import Answers, Craft, is_file_item

_BASES = {"onnx": "onnx", "openvino": "onnx", "tflite": "tflite", "numpy": "onnx"}
_FROM_ONNX = ("openvino", "numpy")  # runtimes whose base is made of the portable ONNX file
_TIMED = "golden/timed"  # media that latency is measured on, in a provisional bundle
_ROOM_LOSSY, _ROOM_EXACT = 0.05, 0.01  # added to a tolerance for the rounding of other CPUs


@dataclass(slots=True)
class Trial:
    """What all variants of one convert share, and what was found of each.

    Attributes:
        craft: what the workshop knows of the task.
        options: the task's options, all decided.
        items: file with the evaluation items.
        expected: the checkpoint's answers, one an item.
        kept: variant to its layers that stay in floating point, where it is of mixed precision.
    """

    craft: Craft
    checkpoint: Checkpoint
    evaluation: Evaluation
    options: dict[str, Any]
    reference: Output
    items: Path
    expected: Answers
    artifacts: dict[str, Output] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)
    answered: dict[str, Answers] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of a task that reads text."""
        return self.shared.get("tokenizer.json", self.reference.folder / "tokenizer.json")

    @property
    def shared(self) -> dict[str, Path]:
        """Path in the bundle to each file that all variants share."""
        return self.craft.shared(self.reference)

    def artifact(self, plan: VariantPlan) -> Path:
        """Return the folder with the variant's files."""
        return self.artifacts[plan.name].folder

    def answers(self, plan: VariantPlan) -> Answers:
        """Return the variant's answers, one an item."""
        return self.answered[plan.name]

    def parity(self, plan: VariantPlan) -> Parity:
        """Compare a variant with the checkpoint on the held-out items; probes have no truth and count for nothing."""
        start = self.evaluation.probes if self.evaluation.truth else 0
        truth = self.evaluation.truth or None
        return self.craft.compare(self.expected[start:], self.answers(plan)[start:], truth)

    def dev(self, plan: VariantPlan) -> Parity:
        """The same without the split for final figures, by which nothing may be chosen; all where there is no other."""
        start, end = self.evaluation.probes if self.evaluation.truth else 0, self.evaluation.final
        if end <= start:
            return self.parity(plan)
        truth = self.evaluation.truth[: end - start] or None
        return self.craft.compare(self.expected[start:end], self.answers(plan)[start:end], truth)

    def final(self, plan: VariantPlan) -> Parity:
        """The same on the split for final figures alone."""
        start = self.evaluation.final
        truth = self.evaluation.truth[start - self.evaluation.probes :] if self.evaluation.truth else None
        return self.craft.compare(self.expected[start:], self.answers(plan)[start:], truth)

    def tolerances(self, survivors: Sequence[Candidate], places: Sequence[int]) -> dict[str, float]:
        """Return each variant's largest error on the golden examples, with room for other CPUs."""
        expected = [self.expected[place] for place in places]
        found = {}
        for c in survivors:
            error = self.craft.error(expected, [self.answers(c.plan)[place] for place in places])
            found[c.plan.name] = round(1.5 * error + (_ROOM_LOSSY if c.plan.is_lossy else _ROOM_EXACT), 4)
        return found


class Workbench:
    """Runs the stages of one convert."""

    def __init__(self, runner: StageRunner, work: Path, watch: Watch, device: Device, is_pickle_allowed: bool) -> None:
        self.work = work
        self.cores = device.cores
        self.stages: dict[str, tuple[float, bool]] = {}
        self.costs: list[Cost] = []
        self._runner = runner
        self._watch = watch
        self._device = device
        self._is_pickle_allowed = is_pickle_allowed

    def run(self, stage: Stage, threads: int) -> Output:
        """Run one stage and show it; what it has to say is said once, however often a search comes by its output."""
        start = time.monotonic()
        with self._watch.stage(stage.name) as report:
            output = self._runner.run(stage, report, threads)
            self._watch.done(stage.name, output.is_cached)
        if not (output.is_cached and stage.name in self.stages):
            for note in output.result.get("notes", []):
                self._watch.note(stage.name, note)
        self.stages[stage.name] = (time.monotonic() - start, output.is_cached)
        found = output.result
        peaks = {name: found.get(name) for name in ("peak_rss_mib", "peak_gpu_mib")}
        self.costs.append(Cost(stage.name, float(found["seconds"]), is_kept=output.is_cached, **peaks))
        return output

    def show_curves(self, folder: Path) -> None:
        """Put the curves of an output that was made before among the logs."""
        self._runner.show_curves(folder)

    def prepare(self, craft: Craft, checkpoint: Checkpoint, evaluation: Evaluation, options: dict[str, Any]) -> Trial:
        """Ask the checkpoint itself for every answer."""
        stage = craft.reference(self.work, checkpoint, evaluation, options)
        if self._is_pickle_allowed:
            stage = replace(stage, arguments={**stage.arguments, "is_pickle_allowed": True})
        reference = self.run(stage, self.cores)
        options = {**options, **craft.decided(reference)}
        expected = craft.read_answers(reference.folder)
        craft, more = craft.settled(expected, evaluation, options)
        options |= more
        items = self.work / "items.json"
        return Trial(craft, checkpoint, evaluation, options, reference, items, expected)

    def try_all(self, trial: Trial, plans: Sequence[VariantPlan], bound: Bound) -> list[Candidate]:
        """Make and prove every variant, as many at a time as there are cores."""
        with ThreadPoolExecutor(self.cores) as pool:
            try:
                needed = {_BASES[plan.runtime]: None for plan in plans}
                bases = {base: pool.submit(self._export, trial, base) for base in needed}
                for future in bases.values():
                    future.exception()  # all bases first: a variant that waited would hold a worker
                for runtime in dict.fromkeys(plan.runtime for plan in plans if plan.runtime in _FROM_ONNX):
                    bases[runtime] = pool.submit(self._export_from_onnx, runtime, bases["onnx"])
                    bases[runtime].exception()
                tried = [pool.submit(self._try, trial, plan, bases, bound) for plan in plans]
                return [future.result() for future in tried]
            except BaseException:
                self._runner.close()
                pool.shutdown(cancel_futures=True)
                raise

    def measure(self, trial: Trial, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Measure the survivors one after the other, alone on the machine."""
        return [c if c.failure else self._measure(trial, c) for c in candidates]

    def _export(self, trial: Trial, base: str) -> Output:
        arguments: dict[str, Any] = {
            "checkpoint": str(trial.checkpoint.folder.resolve()),
            "is_pickle_allowed": self._is_pickle_allowed,
            **trial.craft.export_arguments(),
        }
        if base == "tflite":
            arguments["max_length"] = trial.craft.longest(trial.options)
        inputs = (trial.checkpoint.digest, trial.craft.source_digest() if "task" in arguments else "")
        return self.run(Stage(f"export-{base}", f"doorstep_converters.export.{base}:export", arguments, inputs), 1)

    def _export_from_onnx(self, runtime: str, onnx: "Future[Output]") -> Output:
        source = onnx.result()
        arguments = {"source": str(source.folder / "portable.onnx")}
        job = f"doorstep_converters.export.{runtime}:export"
        return self.run(Stage(f"export-{runtime}", job, arguments, (source.digest,)), 1)

    def _try(self, trial: Trial, plan: VariantPlan, bases: "dict[str, Future[Output]]", bound: Bound) -> Candidate:
        start = time.monotonic()
        try:
            base = bases[plan.runtime].result()
            for extra in self._extras(trial, plan, base, bound):
                output = self._quantize(trial, plan, base, extra)
                trial.artifacts[plan.name] = output
                if "kept" in (found := {**extra, **output.result}):
                    trial.kept[plan.name] = found["kept"]
                self._answer(trial, plan)
                if not trial.craft.failure(plan, trial.dev(plan), bound):
                    break
        except ConversionError as error:
            return Candidate(plan, failure=str(error), seconds=time.monotonic() - start)
        parity = trial.parity(plan)
        failure = trial.craft.failure(plan, parity, bound)
        notes = ""
        if plan.name in trial.kept:
            notes = describe(trial.kept[plan.name], _modules(bases["onnx"].result()))
        return Candidate(plan, failure, parity, seconds=time.monotonic() - start, notes=notes)

    def _extras(self, trial: Trial, plan: VariantPlan, base: Output, bound: Bound) -> list[dict[str, Any]]:
        """Return what the quantizer is told beyond the recipe, try by try until one is good enough."""
        agreement = bound.agreement or Bound().agreement  # a search takes any variant, yet its mixes aim as others do
        if plan.recipe.endswith(CONTROLLED):
            return [{"agreement": agreement}]
        if not plan.is_mixed:
            return [{}]
        wanted = agreement if trial.craft.is_scored else None
        arguments = {**self._sources(trial, plan, base), "agreement": wanted}
        inputs = (base.digest, trial.evaluation.digest, trial.reference.digest)
        job = f"doorstep_converters.quantize.{plan.runtime}_layers:weigh"
        weighed = self.run(Stage(f"weigh-{plan.name}", job, arguments, inputs), threads=1)
        return [{"kept": kept} for kept in tries(weighed.result["ranking"], weighed.result["kept"])]

    def _sources(self, trial: Trial, plan: VariantPlan, base: Output) -> dict[str, Any]:
        return {
            "source": str(base.folder / ENTRIES[plan.runtime]),
            "recipe": plan.recipe,
            "calibration": str(_calibration(trial, self.work)),
            "tokenizer": str(trial.tokenizer),
            "max_length": trial.craft.longest(trial.options),
        }

    def _quantize(self, trial: Trial, plan: VariantPlan, base: Output, extra: dict[str, Any]) -> Output:
        inputs = [base.digest]
        if plan.recipe in NEEDS_CALIBRATION:
            inputs += [trial.evaluation.digest, trial.reference.digest]
        job = f"doorstep_converters.quantize.{plan.runtime}:quantize"
        arguments = {**self._sources(trial, plan, base), **extra}
        return self.run(Stage(f"quantize-{plan.name}", job, arguments, tuple(inputs)), threads=1)

    def _answer(self, trial: Trial, plan: VariantPlan) -> None:
        inputs = (
            trial.artifacts[plan.name].digest,
            trial.reference.digest,
            trial.evaluation.digest,
            str(trial.options),
            source_digest(RUNTIMES[plan.runtime].module),
        )
        arguments = {"bundle": str(self.provisional(trial, plan)), "variant": plan.name, "texts": str(trial.items)}
        output = self.run(
            Stage(f"parity-{plan.name}", trial.craft.parity_job, arguments, inputs, is_bare=True), threads=1
        )
        trial.answered[plan.name] = trial.craft.read_answers(output.folder)

    def provisional(self, trial: Trial, plan: VariantPlan) -> Path:
        """Return a bundle of one variant, good for being loaded as a device loads it."""
        folder = self.work / f"{plan.name}-{trial.artifacts[plan.name].digest[:12]}.bundle"
        if not folder.exists():
            folder.mkdir()
            variant = trial.craft.variant(plan, trial.checkpoint.folder)
            head = empty_head(plan.name, trial.craft.task, trial.options, (variant,))
            item = trial.craft.timed(trial.evaluation, trial.options).item
            media = {_TIMED + Path(item["file"]).suffix: Path(item["file"])} if is_file_item(item) else {}
            contents = Contents(head, {**trial.shared, **media}, {plan.name: trial.artifact(plan)}, {}, no_golden())
            fill_bundle(folder, contents, is_linked=True)
        return folder

    def _measure(self, trial: Trial, candidate: Candidate) -> Candidate:
        plan = candidate.plan
        timed = trial.craft.timed(trial.evaluation, trial.options)
        item = {"file": _TIMED + Path(timed.item["file"]).suffix} if is_file_item(timed.item) else timed.item
        board = Board(self._device.arch, self._device.cpu, tuple(sorted(self._device.features)))
        inputs = (
            trial.artifacts[plan.name].digest,
            str(trial.options),
            str(asdict(board)),
            source_digest(RUNTIMES[plan.runtime].module),
        )
        arguments = {
            "bundle": str(self.provisional(trial, plan)),
            "variant": plan.name,
            "item": item,
            "task_options": timed.task_options,
        }
        output = self.run(
            Stage(f"measure-{plan.name}", "doorstep_converters.timing:answer", arguments, inputs, is_bare=True),
            threads=1,
        )
        final = trial.final(plan)
        assert candidate.parity is not None  # noqa: S101 -- survivors have one
        measured = Measured(
            bytes=sum(path.stat().st_size for path in trial.artifact(plan).iterdir() if path.name != "stage.json"),
            examples=candidate.parity.examples,
            agreement=round(candidate.parity.agreement, 5),
            max_abs_error=_told(candidate.parity.max_abs_error),
            accuracy=None if final.accuracy is None else round(final.accuracy, 5),
            macro_f1=None if final.macro_f1 is None else round(final.macro_f1, 5),
            metric=None if final.metric == "accuracy" else final.metric,
            recall_at_10=None if final.recall_at_10 is None else round(final.recall_at_10, 5),
            sequence=timed.sequence,
            board=board,
            **{
                name: round(float(output.result[name]), 3)
                for name in ("p50_ms", "p95_ms", "cold_start_ms", "peak_rss_mib")
            },
        )
        return replace(candidate, measured=measured)


def _modules(exported: Output) -> dict[str, str]:
    """Return which of the checkpoint's modules each node of the graph came from."""
    modules: dict[str, str] = json.loads((exported.folder / "modules.json").read_text(encoding="utf-8"))
    return modules


def _calibration(trial: Trial, work: Path) -> Path:
    """Return finished feeds where the task made them, else texts to make them of."""
    feeds = trial.reference.folder / "calibration.npz"
    return feeds if feeds.is_file() else work / "calibration.json"


def _told(error: float) -> float | None:
    """Return an error for the manifest; None where it is endless, since two answers have no name in common."""
    return round(error, 5) if math.isfinite(error) else None
