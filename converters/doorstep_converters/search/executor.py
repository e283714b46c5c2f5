"""Choices tried on several machines at once by Ray. The machines share the cache, and with it the journal."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from doorstep.errors import ConversionError, MissingExtraError
from doorstep_converters.job import Cost
from doorstep_converters.search.order import Order

_NAMED = ("lexicon", "brands", "generator", "there", "back", "teacher")  # files and checkpoints of an augmentation


def require_ray() -> None:
    """Look for Ray before anything is computed.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError(
            "search: --workers needs Ray, which is not installed; run: pip install 'doorstep-converters[ray]', "
            "or leave --workers out"
        )


def work_elsewhere(order: Order, journal: Path) -> list[Cost]:
    """Let `order.workers` processes of a Ray cluster try choices, each taking the next one from the journal.

    The cluster is the one that RAY_ADDRESS names; without it one begins on this machine and ends with the search.

    Returns:
        What the stages cost there.

    Raises:
        ConversionError: a worker failed; what was finished stays in the cache.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # its reports to its maker
    os.environ.setdefault("RAY_worker_niceness", "0")  # latencies are measured there
    import ray

    ray.init(ignore_reinit_error=True, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_work)
        begun = [remote.remote(absolute(order), journal.resolve(), place) for place in range(order.workers)]
        return [cost for costs in ray.get(begun) for cost in costs]
    except ray.exceptions.RayError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ConversionError(f"search: a worker on the Ray cluster failed: {reason:.300}") from error
    finally:
        ray.shutdown()


def absolute(order: Order) -> Order:
    """Name every path from the root: a worker stands in another folder."""
    job, plan = order.job, order.job.augment
    named: dict[str, Any] = {name: _rooted(path) for name in _NAMED if (path := getattr(plan, name, None))}
    return replace(
        order,
        job=replace(
            job,
            checkpoint=_rooted(job.checkpoint),
            data=job.data and job.data.resolve(),
            unlabelled=job.unlabelled and job.unlabelled.resolve(),
            out=job.out.resolve(),
            cache=job.cache.resolve(),
            training=replace(job.training, teacher=job.training.teacher and _rooted(job.training.teacher)),
            augment=plan and replace(plan, **named),
        ),
    )


def _work(order: Order, journal: Path, place: int) -> list[Cost]:
    from doorstep_converters.progress import Lines
    from doorstep_converters.search.run import work

    return work(order, Lines(), journal, place)


def _rooted(name: str) -> str:
    """Return a path from the root; a hub id, `package:NAME` or `new:KIND` as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name
