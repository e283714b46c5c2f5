"""torch → TFLite with litert-torch: one file, one signature for each length, weights shared."""

from pathlib import Path
from typing import Any

import litert_torch
import torch

from doorstep_converters.export.classifier import example_feeds, load_classifier
from doorstep_converters.export.exportable import Exportable, load_exportable
from doorstep_converters.worker import Channel


def buckets(max_length: int, shortest: int = 16) -> list[int]:
    """Return the lengths an item may be padded to: doubled from `shortest`, the longest exactly `max_length`.

    Not more of them: LiteRT packs the weights anew for each signature when it first runs, which took 12 MiB and 15 ms a
    length for an int8 MiniLM-L6, and 45 MiB in fp16.
    """
    lengths = []
    length = shortest
    while length < max_length:
        lengths.append(length)
        length *= 2
    return [*lengths, max_length]


def signature(batch: int, length: int) -> str:
    """Return the name of the signature for one shape."""
    return f"b{batch}_s{length}"


def export(
    out: Path, channel: Channel, checkpoint: str, max_length: int, is_pickle_allowed: bool, task: str = ""
) -> dict[str, Any]:
    """Write `model.tflite` in fp32; a job of `stages`."""
    if task:
        model = load_exportable(task, Path(checkpoint), is_pickle_allowed)
        convert_any(model, buckets(max_length, model.shortest) if model.is_varying else [1], out / "model.tflite")
        return {}
    classifier = load_classifier(Path(checkpoint), is_pickle_allowed).eval()
    channel.progress(0.2)
    convert_graph(classifier, buckets(max_length), out / "model.tflite")
    return {"signatures": ", ".join(signature(1, length) for length in buckets(max_length))}


def convert_graph(classifier: torch.nn.Module, lengths: list[int], path: Path) -> None:
    """Convert with litert-torch; text models do not convert with varying shapes."""
    converter: Any = litert_torch
    for length in lengths:
        feeds = example_feeds(1, length, torch.int32)
        converter = converter.signature(signature(1, length), classifier, sample_kwargs=feeds)
    converter.convert().export(str(path))


def convert_any(model: Exportable, lengths: list[int], path: Path) -> None:
    """Convert a model of any task: one signature for each length its open axis may have."""
    converter: Any = litert_torch
    for length in lengths:
        feeds = model.example(1, length, is_narrow=True)
        _over_places(model.module, feeds)
        converter = converter.signature(signature(1, length), model.module, sample_kwargs=feeds)
    converter.convert().export(str(path))


class _OverPlaces(torch.nn.Linear):
    """A dense layer over each place of a picture, as a convolution: LiteRT's converter multiplies no four axes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 -- as the base class calls it
        filters = self.weight[:, :, None, None]  # [out, in, 1, 1]
        found = torch.nn.functional.conv2d(input.permute(0, 3, 1, 2), filters, self.bias)
        return found.permute(0, 2, 3, 1)


def _over_places(module: torch.nn.Module, feeds: dict[str, torch.Tensor]) -> None:
    """Change the dense layers that these feeds reach with four axes (ConvNeXt's)."""

    def look(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].dim() == 4:
            layer.__class__ = _OverPlaces

    layers = [layer for layer in module.modules() if type(layer) is torch.nn.Linear]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    with torch.no_grad():
        module(*feeds.values())
    for hook in hooks:
        hook.remove()
