"""In which numbers models learn."""

from pathlib import Path

import pytest
import torch

from doorstep.device import Device
from doorstep.errors import UsageError
from doorstep_converters.finetune.trainer import training_arguments
from doorstep_converters.precision import is_bf16
from doorstep_converters.tasks.loop import Course, fit


def machine(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    found = Device("x86_64", "a CPU", frozenset(features), 2, 4096, {})
    monkeypatch.setattr(Device, "detect", lambda: found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_bf16_where_the_cpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "avx2", "avx512f", "avx512_bf16")
    assert is_bf16("auto", on_gpu=False) and not is_bf16("fp32", on_gpu=False)
    machine(monkeypatch, "avx2", "avx512f")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert not is_bf16("auto", on_gpu=False) and is_bf16("bf16", on_gpu=False)
    assert is_bf16("auto", on_gpu=True)  # whatever this CPU has


def test_a_misspelt_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="expected one of auto, bf16, fp32, got 'fp16'"):
        is_bf16("fp16", on_gpu=False)


@pytest.mark.parametrize(("precision", "products"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_products_are_as_asked_and_weights_stay_fp32(
    precision: str, products: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch.manual_seed(1)
    model, seen = torch.nn.Linear(4, 2), set()
    rows = [(torch.eye(4)[place], place % 2) for place in range(4)] * 8

    def loss_of(part: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
        logits = model(torch.stack([row for row, _ in part]))
        seen.add(logits.dtype)
        return torch.nn.functional.cross_entropy(logits.float(), torch.tensor([truth for _, truth in part]))

    def right() -> float:
        found = model(torch.eye(4))
        seen.add(found.dtype)
        return float((found.argmax(1) == torch.tensor([0, 1, 0, 1])).float().mean())

    figures = fit(model, rows, loss_of, right, Course(30, 8, 3e-2, precision=precision))
    assert figures["dev"] == 1.0
    assert seen == {products}
    assert model.weight.dtype == torch.float32


def test_finetuning_takes_the_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "avx512_bf16")
    settings = {"seed": 1}
    assert training_arguments(tmp_path, 8, 1, 1.0, 1e-3, settings).bf16
    assert not training_arguments(tmp_path, 8, 1, 1.0, 1e-3, {**settings, "precision": "fp32"}).bf16
