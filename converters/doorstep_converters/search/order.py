"""What a search is asked to do."""

from dataclasses import dataclass, field

from doorstep.errors import UsageError
from doorstep_converters.budget import Budget
from doorstep_converters.job import Job
from doorstep_converters.search.elsewhere import Place
from doorstep_converters.search.space import RATES, Choice, check_student, default_students
from doorstep_converters.search.teaching import Teaching, check_teaching
from doorstep_converters.targets import find_target

PREFERENCES = ("accuracy", "speed", "size")
_FINE = (
    "onnx-int8-mixed", "onnx-int8-static-percentile", "onnx-int8-static-entropy", "tflite-int8-static-minmax"
)  # fmt: skip
_TASK = "text-classification"
_FAST = ("onnx-int8", "tflite-int8", "numpy-int8-weights", "onnx-int4-tables", "numpy-int4-tables")


@dataclass(frozen=True, slots=True)
class Order:
    """One search.

    Attributes:
        job: checkpoint, data, target and where the bundle goes.
        students: names to try; augmented: with and without augmented texts.
        rungs: training steps after which students are compared and the worse ones stopped; the last trains to the end
            where it is 0.
        trials: most choices that are tried; minutes: after which no further one is begun.
        prefer: what decides among candidates within the budget; "" chooses what the budget does not bound.
        price_per_hour: of this machine, in whatever money; 0 for none.
        slice_column: column of the data whose values are slices.
        variants: that every student is measured as; empty for the quick int8 ones of the target.
        refined: further ones that the best students are measured as, such as `onnx-int8-mixed`; None for other ranges
            of activations and mixed precision, where `variants` does not say what is wanted.
        teaching: what students are taught by.
        measure_on: device on which latency and memory are measured, as `elsewhere.Place` reads it; "" for here.
        workers: processes that try choices at once, on the machines of a Ray cluster; 0 tries them here, one by one.
    """

    job: Job
    budget: Budget
    students: tuple[str, ...] = ()
    augmented: tuple[bool, ...] = ()
    rungs: tuple[int, ...] = (150, 500, 0)
    trials: int = 16
    minutes: float = 12.0
    prefer: str = ""
    price_per_hour: float = 0.0
    slice_column: str = ""
    seed: int = 20261124
    workers: int = 0
    variants: tuple[str, ...] = field(default=())
    refined: tuple[str, ...] | None = None
    teaching: Teaching = field(default_factory=Teaching)
    measure_on: str = ""

    def choices(self) -> list[Choice]:
        """Return the choices that are tried first, in their order; the sampler adds others behind them."""
        with_texts = sorted(self.augmented or (True, False), reverse=True)
        return [
            Choice(student, augmented) for augmented in with_texts for student in self.students or default_students()
        ]

    def rates(self) -> tuple[float, ...]:
        return RATES

    def wanted_variants(self) -> tuple[str, ...]:
        """Return the variants that candidates are measured as."""
        target = find_target(self.job.target)
        names = [plan.name for plan in (*target.plans, *target.on_request)]
        return self.variants or self.job.variants or tuple(name for name in names if name in _FAST)

    def refined_variants(self) -> tuple[str, ...]:
        """Return the variants that the best students are measured as in the end."""
        if self.refined is not None:
            return self.refined
        if self.variants or self.job.variants:
            return ()
        return tuple(plan.name for plan in find_target(self.job.target).on_request if plan.name in _FINE)


def check_order(order: Order) -> None:
    """Refuse what cannot be searched.

    Raises:
        UsageError: a student, target, rung or preference that is none, or options that do not go together.
    """
    target = find_target(order.job.target)
    if order.job.task not in (None, _TASK):
        raise UsageError(f"budget: a search makes text classifiers; leave --task or --budget out, got {order.job.task}")
    if order.job.is_pickle_allowed:
        raise UsageError(
            "budget: a search reads no pickles, which --allow-pickle asks for; save the weights as safetensors first "
            "(save_pretrained of transformers does)"
        )
    check_teaching(order.teaching)
    if order.measure_on:
        Place.from_text(order.measure_on)
        if order.workers:
            raise UsageError(
                f"measure-on {order.measure_on}: a device times one candidate at a time, and {order.workers} workers "
                "would time theirs at once; leave --workers or --measure-on out"
            )
    known = {plan.name for plan in (*target.plans, *target.on_request)}
    if unknown := sorted({*order.refined_variants()} - known):
        raise UsageError(f"refined: target {target.name} has {', '.join(sorted(known))}, got {unknown[0]!r:.60}")
    for name in order.students:
        check_student(name)
    steps = [step for step in order.rungs if step]
    if not order.rungs or steps != sorted(set(steps)) or 0 in order.rungs[:-1] or min(order.rungs) < 0:
        raise UsageError(f"rungs: expected rising numbers of steps, 0 at the end for all, got {list(order.rungs)}")
    if order.prefer not in ("", *PREFERENCES):
        raise UsageError(f"prefer: expected {', '.join(PREFERENCES)}, got {order.prefer!r:.40}")
    if order.trials < 1 or not order.minutes > 0 or order.price_per_hour < 0 or order.workers < 0:
        raise UsageError(
            "search: expected one trial or more, minutes above 0, no negative price and no negative workers"
        )
