"""Training of a cross-encoder: a query's right texts must score higher than others that were found for it."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, set_seed

from doorstep_converters.placement import device_of
from doorstep_converters.tasks.loop import Course, fit, rate_for
from doorstep_converters.tasks.rankings import ndcg
from doorstep_converters.tasks.text_ranking_data import pairs_of, truth_of
from doorstep_converters.tokenizer import Text, load_tokenizer
from doorstep_converters.worker import Channel

_BATCH = 8  # queries a step
_OTHERS = 7  # texts a query is shown beside its right ones, other ones each time
_STEPS = 400  # where nobody says how many epochs
_NARROW_RATE, _WIDE_RATE = 2e-4, 3e-5  # found on MiniLM; Devlin et al. (BERT, 2019, section A.3)


def train(out: Path, channel: Channel, checkpoint: Path, data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Train and write a checkpoint to `out`.

    The loss of a query is cross-entropy of its scores among each other (Gao et al., Rethink training of BERT rerankers,
    https://arxiv.org/abs/2101.08751), and of each by itself (Nogueira and Cho, https://arxiv.org/abs/1901.04085), so
    that a score also says how likely a text is right.
    """
    set_seed(options["seed"])
    tokenizer = load_tokenizer(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, num_labels=1, local_files_only=True, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    most = options["max_length"]

    def logits_of(pairs: Sequence[Text]) -> torch.Tensor:
        logits: torch.Tensor = model(**feeds_of(model, tokenizer, pairs, most)).logits[:, 0].float().cpu()  # [pairs]
        return logits

    loss_of = _Loss(logits_of, options["seed"])
    held_out = data["dev"] or data["train"]

    def dev_figure() -> float:
        gains = []
        for row in held_out:
            order = logits_of(pairs_of(row)).argsort(descending=True, stable=True).tolist()
            gains.append(ndcg(list(map(str, order)), set(truth_of(row))))
        return float(np.mean(gains))

    rows = data["train"]
    precision = options.get("precision", "auto")
    rate = rate_for(model.config.hidden_size, _NARROW_RATE, _WIDE_RATE)
    epochs = round(options["epochs"] or min(20.0, max(2.0, _STEPS * _BATCH / len(rows))))
    course = Course(
        epochs, _BATCH, options["learning_rate"] or rate, seed=options["seed"], warmup=0.1,
        precision="fp32" if precision == "auto" else precision,  # the example's order of like texts changed in bf16
    )  # fmt: skip
    figures = fit(model, rows, loss_of, dev_figure, course, channel)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return figures


class _Loss:
    """The mean loss of a few queries."""

    def __init__(self, logits_of: Any, seed: int) -> None:
        self._logits_of, self._generator = logits_of, np.random.default_rng(seed)

    def __call__(self, part: Sequence[dict[str, Any]]) -> torch.Tensor:
        shown = [self._shown(row) for row in part]
        logits = self._logits_of([(row["query"], row["texts"][place]) for row, places in shown for place in places])
        truth = torch.tensor([float(place in row["relevant"]) for row, places in shown for place in places])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, truth)
        sizes = [len(places) for _, places in shown]
        among = [
            nn.functional.cross_entropy(scores, right / right.sum())
            for scores, right in zip(logits.split(sizes), truth.split(sizes), strict=True)
            if 0 < right.sum() < len(right)
        ]
        return loss + torch.stack(among).mean() if among else loss

    def _shown(self, row: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Return a query and the places of the texts it is shown with this time."""
        others = [place for place in range(len(row["texts"])) if place not in row["relevant"]]
        chosen = self._generator.permutation(len(others))[:_OTHERS]
        return row, [*row["relevant"][: 1 + _OTHERS], *(others[place] for place in chosen)]


def feeds_of(model: Any, tokenizer: Any, pairs: Sequence[Text], most: int) -> dict[str, Any]:
    """Return a batch as a CrossEncoder makes it: the longer text of a pair is cut, the model gets what it takes."""
    encoded = tokenizer(list(pairs), truncation="longest_first", max_length=most, padding=True, return_tensors="pt")
    taken = inspect.signature(model.forward).parameters
    return {name: array.to(device_of(model)) for name, array in encoded.items() if name in taken}
