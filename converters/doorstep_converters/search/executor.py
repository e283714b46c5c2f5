"""Choices tried on several machines at once by Ray. The machines share the cache, and with it the journal."""

from importlib.util import find_spec

from doorstep.errors import MissingExtraError
from doorstep_converters.search.order import Order


def work_elsewhere(order: Order) -> None:
    """Let `order.workers` processes of a Ray cluster try choices, each taking the next one from the journal.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("ray is not installed; run: pip install ray, or leave --workers out")
    import ray

    ray.init(ignore_reinit_error=True, log_to_driver=False)
    try:
        remote = ray.remote(num_cpus=1)(_work)
        ray.get([remote.remote(order) for _ in range(order.workers)])
    finally:
        ray.shutdown()


def _work(order: Order) -> None:
    from doorstep_converters.progress import Lines
    from doorstep_converters.search.run import work

    work(order, Lines())
