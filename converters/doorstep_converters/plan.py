"""The plan of a convert, for `--dry-run`: what would be done, nothing of it done."""

from doorstep_converters.checkpoint import is_hub_id
from doorstep_converters.job import Job
from doorstep_converters.pack import check_order
from doorstep_converters.pipeline import bundle_name, wanted_plans
from doorstep_converters.targets import find_target
from doorstep_converters.tasks import find_craft, guess_task


def describe_convert(job: Job) -> str:
    """Return the plan as text; what lies on the hub is not looked at.

    Raises:
        UsageError: the job asks for something unknown, or the bundle has no place.
        DataError, CheckpointError: data or checkpoint cannot be used.
    """
    target = find_target(job.target)
    plans = wanted_plans(job, target)
    task = job.task or guess_task(job.checkpoint)
    craft = find_craft(task)
    craft.check_training(job)
    data = craft.read(job)
    if not any(map(is_hub_id, filter(None, (job.checkpoint, job.training.teacher)))):
        craft.find(job)
    bundle = check_order(job.out, bundle_name(job, data), job.key)
    lines = [f"checkpoint  {job.checkpoint}", f"task        {task}", f"target      {job.target} ({target.arch})"]
    if data is not None:
        counts = f"{len(data.train)} train, {len(data.dev)} dev, {len(data.test)} test"
        lines.append(f"data        {job.data} ({counts})")
    if job.augment is not None:
        lines.append(f"augment     {', '.join(job.augment.transforms)}, {job.augment.copies:g} × the texts each")
    if job.training.teacher is not None:
        lines.append(f"teacher     {job.training.teacher}")
    lines.append(f"bound       agreement {job.bound.agreement:g} or more, or {job.bound.drop:g} points lost at most")
    lines.append("variants    tried in this order:")
    lines += [f"            {number:>2}. {plan.name}" for number, plan in enumerate(plans, 1)]
    left_out = {name: reason for name, reason in target.excluded.items() if not job.variants}
    lines += [f"            not {name}: {reason}" for name, reason in left_out.items()]
    lines.append(f"bundle      {bundle}{', signed' if job.key else ''}")
    return "\n".join(lines)
