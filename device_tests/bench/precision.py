"""One training step in fp32 beside one in bf16: `python -m device_tests.bench.precision`."""

import statistics
import time
from collections.abc import Callable

import torch
from transformers import BertConfig, BertForSequenceClassification, MobileNetV1Config, MobileNetV1ForImageClassification

from doorstep.cli.output import table
from doorstep_converters.precision import products

_ROWS, _STEPS = 32, 5
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def main() -> int:
    """Time networks of the sizes that are trained here, their weights by chance; print seconds and ratio."""
    torch.set_num_threads(1)
    reader = BertForSequenceClassification(BertConfig(**_MINILM))
    trials = [(f"MiniLM-L6, {length} tokens", _of_texts(reader, length), reader) for length in (16, 64, 128)]
    seer = MobileNetV1ForImageClassification(MobileNetV1Config(num_labels=81, image_size=128))
    trials.append(("MobileNet 1.0, 128 pixels", _of_pictures(seer, 128), seer))
    rows = []
    for name, logits_of, model in trials:
        wide, narrow = (_seconds(logits_of, model, has_bf16) for has_bf16 in (False, True))
        rows.append([name, f"{wide:.2f}", f"{narrow:.2f}", f"{wide / narrow:.1f}"])
    print(f"one step of {_ROWS} rows, one thread, median of {_STEPS}, after one that is not counted")
    print(table(("network", "fp32 s", "bf16 s", "× quicker"), rows))
    return 0


def _of_texts(model: torch.nn.Module, length: int) -> Callable[[], torch.Tensor]:
    ids = torch.randint(1000, 20_000, (_ROWS, length))
    return lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def _of_pictures(model: torch.nn.Module, side: int) -> Callable[[], torch.Tensor]:
    pixels = torch.randn(_ROWS, 3, side, side).contiguous(memory_format=torch.channels_last)
    return lambda: model(pixel_values=pixels).logits


def _seconds(logits_of: Callable[[], torch.Tensor], model: torch.nn.Module, has_bf16: bool) -> float:
    optimizer, truth, times = torch.optim.AdamW(model.parameters(), 1e-5), torch.zeros(_ROWS, dtype=torch.long), []
    model.train()
    for _ in range(1 + _STEPS):
        start = time.perf_counter()
        with products(has_bf16):
            loss = torch.nn.functional.cross_entropy(logits_of().float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    raise SystemExit(main())
