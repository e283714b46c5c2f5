"""The whole way: checkpoint → fine-tune → export → quantize → parity → measure → pack. Start here."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from doorstep.device import Device
from doorstep.errors import ParityError, UsageError
from doorstep.manifest import FORMAT, Manifest
from doorstep_converters.calibration_error import tempered
from doorstep_converters.card import model_card
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.data import Splits
from doorstep_converters.foresight import choices
from doorstep_converters.job import Candidate, Job, Report
from doorstep_converters.pack import Contents, check_order, golden, write_bundle
from doorstep_converters.progress import Watch
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.stages import StageRunner
from doorstep_converters.targets import Target, find_target
from doorstep_converters.tasks import find_craft, guess_task
from doorstep_converters.variants import Trial, Workbench

_TOOLS = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "litert-torch", "ai-edge-quantizer")


def convert(job: Job, watch: Watch) -> Report:
    """Convert a checkpoint into a bundle that was proven against it.

    Raises:
        ConversionError: CheckpointError, DataError, ParityError (no variant survived; the report is written first).
        UsageError: an unknown target or variant, or another convert writes to the same place.
    """
    target = find_target(job.target)
    plans = wanted_plans(job, target)
    craft = find_craft(job.task or guess_task(job.checkpoint))
    craft.check_training(job)
    data = craft.read(job)
    source = craft.find(job)
    name = bundle_name(job, data)
    check_order(job.out, name, job.key)
    with _lock(job.out, name), workbench(job, name, watch) as bench:
        checkpoint = craft.learn(job, source, data, bench)
        if checkpoint is source:
            require_nothing_learnt(job)
        evaluation = craft.plan(job, data, checkpoint)
        options = craft.options(job, checkpoint)
        trial = bench.prepare(craft, checkpoint, evaluation, options)
        if job.temperature != 1.0:
            trial.expected = tempered(trial.expected, job.temperature)
        refused = {plan.name: reason for plan in plans if (reason := craft.refusal(plan, checkpoint))}
        plans = [plan for plan in plans if plan.name not in refused]
        candidates = bench.measure(trial, bench.try_all(trial, plans, job.bound))
        survivors = [candidate for candidate in candidates if not candidate.failure]
        notes = craft.notes(bench, trial, survivors) if survivors else {}
        provenance = _provenance(source, data) | notes
        manifest = _pack(job, name, checkpoint, trial, survivors, provenance) if survivors else None
        return Report(
            name=name,
            target=target.name,
            bundle=job.out / f"{name}.bundle" if manifest else None,
            manifest=manifest,
            candidates=tuple(candidates),
            excluded={**target.excluded, **refused},
            choices=choices(manifest) if manifest else {},
            stages=dict(bench.stages),
            provenance=provenance,
            costs=tuple(bench.costs),
        )


def require_bundle(report: Report) -> None:
    """Raise what a convert without survivors means.

    Raises:
        ParityError: no variant answers like the checkpoint; each one's reason is in the message.
    """
    if report.bundle is None:
        failures = {candidate.plan.name: candidate.failure for candidate in report.candidates} or report.excluded
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise ParityError(f"no variant survived, so there is no bundle: {reasons}")


def require_nothing_learnt(job: Job) -> None:
    """Refuse what was asked of a training that the checkpoint did not need.

    Raises:
        UsageError: a way to train, or texts to train on.
    """
    asked = job.training
    wanted = {
        f"--teacher {asked.teacher}": asked.teacher,
        f"--finetune {asked.method}": asked.method != "full",
        f"--augment {','.join(job.augment.transforms) if job.augment else ''}": job.augment,
        f"--epochs {asked.epochs}": asked.epochs is not None,
        f"--learning-rate {asked.learning_rate}": asked.learning_rate is not None,
        f"--mixup {asked.mixup}": asked.mixup,
        f"--processes {asked.processes}": asked.processes > 1,
    }
    if unused := [option for option, is_asked in wanted.items() if is_asked]:
        raise UsageError(
            f"{job.checkpoint}: it has learnt already, so nothing is trained and {unused[0]} has no use; leave it out, "
            "or give it a new head, learnt from the data: --retrain"
        )


def bundle_name(job: Job, data: Splits | None) -> str:
    """Return the name of the bundle: the one that was asked for, the data's or the checkpoint's."""
    return job.name or (data.name if data else Path(job.checkpoint).name.removeprefix("package:"))


def wanted_plans(job: Job, target: Target) -> list[VariantPlan]:
    plans = (*target.plans, *target.on_request)
    known = {plan.name for plan in plans} | {plan.runtime for plan in plans}
    for wanted in job.variants:
        if wanted not in known:
            reason = target.excluded.get(wanted)
            hint = f" ({reason})" if reason else ""
            raise UsageError(f"variants: target {target.name} has {', '.join(sorted(known))}, got {wanted!r}{hint}")
    if not job.variants:
        return list(target.plans)
    return [plan for plan in plans if {plan.name, plan.runtime} & set(job.variants)]


def _pack(
    job: Job, name: str, checkpoint: Checkpoint, trial: Trial, survivors: list[Candidate], provenance: dict[str, str]
) -> Manifest:
    found = [trial.answers(candidate.plan) for candidate in survivors]
    chosen = trial.craft.golden(trial, found)
    variants = tuple(
        replace(trial.craft.variant(c.plan, checkpoint.folder, c.measured), notes=c.notes) for c in survivors
    )
    created = datetime.now(UTC)
    head = Manifest(
        format=FORMAT,
        name=name,
        version=job.version or created.strftime("%Y.%m.%d.%H%M%S"),
        created=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        task=trial.craft.task,
        options=trial.options,
        files=(),
        variants=variants,
        target=job.target,
        licence=checkpoint.licence,
        provenance=provenance,
    )
    contents = Contents(
        head=head,
        shared={**trial.shared, **chosen.files},
        variants={candidate.plan.name: trial.artifact(candidate.plan) for candidate in survivors},
        documents={"README.md": model_card(head) + trial.reference.result.get("card", "") + job.card},
        golden=golden(chosen.examples, trial.tolerances(survivors, chosen.places)),
    )
    return write_bundle(job.out / f"{name}.bundle", contents, job.key)


def _provenance(source: Checkpoint, data: Splits | None) -> dict[str, str]:
    provenance = {
        "checkpoint": source.source if not Path(source.source).is_dir() else Path(source.source).name,
        "checkpoint_sha256": source.digest,
        "architecture": source.model_type,
        "tools": ", ".join(f"{tool} {version(tool)}" for tool in _TOOLS),
        "doorstep": version("doorstep"),
    }
    if data is not None:
        counts = f"{len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test"
        provenance |= {"data": f"{data.source.name} ({counts})", "data_sha256": data.digest}
    return provenance


@contextmanager
def _lock(out: Path, name: str) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f".{name}.lock"
    with open(path, "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{out}: another convert is writing {name}.bundle there; wait, or choose another --out"
            ) from error
        for left in out.glob(f".{name}.bundle.*"):  # of a convert that lost its power
            shutil.rmtree(left)
        yield


@contextmanager
def workbench(job: Job, name: str, watch: Watch) -> Iterator[Workbench]:
    """Yield what runs the stages of one job; all of them end with the context."""
    job.cache.mkdir(parents=True, exist_ok=True)
    runner = StageRunner(job.cache.resolve(), (job.out / f"{name}.logs").resolve())
    with tempfile.TemporaryDirectory(dir=job.cache.resolve(), prefix="work-") as work:
        try:
            yield Workbench(runner, Path(work), watch, Device.detect(), job.is_pickle_allowed)
        finally:
            runner.close()
