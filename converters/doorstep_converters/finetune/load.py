"""A checkpoint as a classifier to train, on one device or, where it is too big for one, over several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from doorstep.errors import UsageError
from doorstep_converters.placement import placement
from doorstep_converters.together import processes

_TRAINING_COPIES = 4  # weights, gradients and two moments of Adam


def load_for_training(
    folder: Path, labels: Sequence[str], is_pickle_allowed: bool, *, is_multi_label: bool = False
) -> Any:
    """Load a sequence classifier in fp32 with a head for `labels`; a head of another size is replaced.

    Args:
        is_multi_label: the head shall answer each label on its own.

    Raises:
        UsageError: more processes train together than there are GPUs.
    """
    if (gpus := torch.cuda.device_count()) and processes() > gpus:
        raise UsageError(
            f"finetune: expected at most one process a GPU, of which there are {gpus}, got {processes()}; "
            f"use --processes {gpus}"
        )
    return AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        problem_type="multi_label_classification" if is_multi_label else "single_label_classification",
        ignore_mismatched_sizes=True,
        use_safetensors=None if is_pickle_allowed else True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        device_map=placement(folder, _TRAINING_COPIES),
    )
