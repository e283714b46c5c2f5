"""Single weights to zero: which, how many, and when in a training.

The schedule is cubic (Zhu and Gupta, To prune, or not to prune, https://arxiv.org/abs/1710.01878): many go early,
while the rest can still learn to stand in for them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from doorstep.errors import UsageError

SETTLED = "settled"  # accuracy on dev, less one while the schedule still takes weights
_LARGE = 1024  # weights from which a tensor is worth pruning
_RAMP = 0.7  # share of the steps on which sparsity grows; the others heal


class Sparsity(TrainerCallback):
    """Zeroes the smallest weights after every step, as many as the schedule says by then.

    A save from before the schedule's end must not count as the best one: its accuracy is that of more weights.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], share: float) -> None:
        self._tensors = tensors
        self._share = share

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        zero_smallest(self._tensors, scheduled(self._share, state.global_step, state.max_steps))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **unused: Any) -> None:
        is_settled = scheduled(self._share, state.global_step, state.max_steps) == self._share
        metrics[f"eval_{SETTLED}"] = metrics["eval_accuracy"] - (0.0 if is_settled else 1.0)


def check_sparsity(share: float) -> None:
    """Refuse a share of zeros that leaves nothing.

    Raises:
        UsageError: it is not 0 or more and below 1.
    """
    if not 0 <= share < 1:
        raise UsageError(f"sparsity: expected a share of 0 to below 1, got {share}")


def scheduled(share: float, step: int, steps: int) -> float:
    """Return the sparsity after `step` of `steps`.

    >>> [round(scheduled(0.8, step, 100), 2) for step in (0, 20, 70, 100)]
    [0.0, 0.51, 0.8, 0.8]
    """
    done = min(1.0, step / max(1.0, _RAMP * steps))
    return share * (1 - (1 - done) ** 3)


def prunable(model: Any) -> list[torch.Tensor]:
    """Return the large weights of linear layers, filters and tables."""
    kinds = (nn.Linear, nn.Embedding, nn.Conv1d)
    found = [module.weight for module in model.modules() if isinstance(module, kinds)]
    return [weight for weight in found if weight.numel() >= _LARGE]


@torch.no_grad()
def zero_smallest(tensors: Sequence[torch.Tensor], share: float) -> None:
    """Zero the smallest `share` of each tensor's weights, in place."""
    for tensor in tensors:
        count = int(share * tensor.numel())
        if count:
            threshold = tensor.abs().flatten().kthvalue(count).values
            tensor[tensor.abs() <= threshold] = 0


def count_zeros(tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """Return how many weights are zero, and of how many."""
    return {
        "zeros": sum(int((tensor == 0).sum()) for tensor in tensors),
        "weights": sum(tensor.numel() for tensor in tensors),
    }
