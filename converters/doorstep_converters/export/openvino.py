"""ONNX → OpenVINO IR."""

from pathlib import Path
from typing import Any

import openvino as ov

from doorstep_converters.worker import Channel


def export(out: Path, channel: Channel, source: str) -> dict[str, Any]:
    """Write `model.xml` and `model.bin` from an fp32 ONNX file, weights stored as fp16; a job of `stages`."""
    model = ov.convert_model(source)
    channel.progress(0.7)
    ov.save_model(model, out / "model.xml", compress_to_fp16=True)
    return {}
