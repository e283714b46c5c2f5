"""One training step in fp32 beside one in bf16, on a GPU if there is one: `python -m device_tests.bench.precision`."""

import statistics
import time
from collections.abc import Callable

import torch
from transformers import BertConfig, BertForSequenceClassification, MobileNetV1Config, MobileNetV1ForImageClassification

from doorstep.cli.output import table
from doorstep_converters.placement import device_of, feeds_device
from doorstep_converters.precision import products

_ROWS, _STEPS = 32, 5
_MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def main() -> int:
    """Time networks of the sizes that are trained here, their weights by chance; print milliseconds and ratio."""
    torch.set_num_threads(1)
    device = feeds_device()
    reader = BertForSequenceClassification(BertConfig(**_MINILM)).to(device)
    trials = [(f"MiniLM-L6, {length} tokens", _of_texts(reader, length), reader) for length in (16, 64, 128)]
    seer = MobileNetV1ForImageClassification(MobileNetV1Config(num_labels=81, image_size=128)).to(device)
    trials.append(("MobileNet 1.0, 128 pixels", _of_pictures(seer, 128), seer))
    rows = []
    for name, logits_of, model in trials:
        wide, narrow = (_seconds(logits_of, model, has_bf16) for has_bf16 in (False, True))
        rows.append([name, f"{1e3 * wide:.1f}", f"{1e3 * narrow:.1f}", f"{wide / narrow:.1f}"])
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one thread"
    print(f"one step of {_ROWS} rows, {where}, median of {_STEPS}, after one that is not counted")
    print(table(("network", "fp32 ms", "bf16 ms", "× quicker"), rows))
    return 0


def _of_texts(model: torch.nn.Module, length: int) -> Callable[[], torch.Tensor]:
    ids = torch.randint(1000, 20_000, (_ROWS, length)).to(device_of(model))
    return lambda: model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def _of_pictures(model: torch.nn.Module, side: int) -> Callable[[], torch.Tensor]:
    pixels = torch.randn(_ROWS, 3, side, side).to(device_of(model)).contiguous(memory_format=torch.channels_last)
    return lambda: model(pixel_values=pixels).logits


def _seconds(logits_of: Callable[[], torch.Tensor], model: torch.nn.Module, has_bf16: bool) -> float:
    device, times = device_of(model), []
    optimizer, truth = torch.optim.AdamW(model.parameters(), 1e-5), torch.zeros(_ROWS, dtype=torch.long, device=device)
    model.train()
    for _ in range(1 + _STEPS):
        start = time.perf_counter()
        with products(device, has_bf16):
            loss = torch.nn.functional.cross_entropy(logits_of().float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


if __name__ == "__main__":
    raise SystemExit(main())
