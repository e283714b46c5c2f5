"""The plan of a search, for `--dry-run`: what would be done, nothing of it done."""

from doorstep.device import Device
from doorstep_converters.budget import KINDS, show
from doorstep_converters.checkpoint import find_checkpoint, is_hub_id
from doorstep_converters.data import load_data
from doorstep_converters.search.front import preference
from doorstep_converters.search.latency import is_measured_here, modelled_on
from doorstep_converters.search.order import Order, check_order
from doorstep_converters.search.teaching import Teaching

_TIMES = ("p50", "p95", "cold")


def describe(order: Order) -> str:
    """Return the plan as text.

    Raises:
        UsageError: the order asks for something unknown.
        DataError, CheckpointError: data or checkpoint cannot be used.
    """
    check_order(order)
    job = order.job
    if not is_hub_id(job.checkpoint):
        find_checkpoint(job.checkpoint)
    lines = [f"teacher   {job.checkpoint}", f"target    {job.target}"]
    if job.data:
        data = load_data(job.data, job.columns)
        counts = f"{len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test, {len(data.labels)} labels"
        lines.append(f"data      {job.data} ({counts})")
    if job.unlabelled:
        lines.append(f"texts     {job.unlabelled}, labelled by the teacher alone")
    is_here = is_measured_here(job.target, Device.detect())
    for limit in order.budget.limits:
        kind = KINDS[limit.name]
        how = ""
        if limit.name in _TIMES:
            how = "; measured here" if is_here else f"; modelled as {modelled_on(job.target)}"
            how = f"; measured on {order.measure_on}" if order.measure_on else how
        sign = "at most" if kind.is_most else "at least"
        lines.append(f"bound     {limit.name} {sign} {show(limit.name, limit.value)} ({kind.meaning}{how})")
    lines.append(f"prefer    {order.prefer or preference(order.budget)} among what keeps to the budget")
    lines.append(f"variants  {', '.join(order.wanted_variants())}")
    if order.refined_variants():
        lines.append(f"refined   the best students also as {', '.join(order.refined_variants())}")
    lines.append(f"lessons   {_lessons(order.teaching)}")
    steps = ", ".join(str(rung or "all") for rung in order.rungs)
    lines.append(f"training  {steps} steps; after each the worse half stops")
    lines.append(
        f"search    at most {order.trials} choices, none begun after {order.minutes:g} minutes, in this order:"
    )
    lines += [
        f"          {number:>2}. {choice.name}" for number, choice in enumerate(order.choices()[: order.trials], 1)
    ]
    if (left := order.trials - len(order.choices())) > 0:
        lines.append(f"          then {left} that the sampler chooses")
    name = job.name or (job.data.name.split(".")[0] if job.data else "search")
    lines.append(f"bundle    {job.out / name}.bundle")
    return "\n".join(lines)


def _lessons(teaching: Teaching) -> str:
    parts = [f"logits at temperature {teaching.temperature:g}, {100 * teaching.alpha:g} % of them against the label"]
    if teaching.counts:
        parts.append("joined by a second teacher, which counts words, as far as dev says")
    if teaching.vector:
        parts.append(f"the text's vector ({teaching.vector:g})")
    if teaching.relations:
        parts.append(f"attention relations where a student has attention ({teaching.relations:g})")
    if teaching.tables or teaching.dense:
        parts.append(
            f"weights rounded to {teaching.tables or 32} bits (tables) and {teaching.dense or 32} (dense layers)"
        )
    return "; ".join(parts)
