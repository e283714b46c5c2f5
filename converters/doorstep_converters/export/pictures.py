"""Any torch module that reads pictures, as an ONNX file that `adopt` takes."""

from pathlib import Path
from typing import Any

from doorstep.errors import UsageError
from doorstep.tensors import TensorSpec
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.export.onnx import export_any


def export_pictures(module: Any, path: Path, height: int, width: int, layout: str = "NCHW") -> Path:
    """Write `module` with an open batch and return `path`, for `adopt(Adoption(path, …))`.

    Args:
        module: from pictures float32 [batch, 3, height, width], or [batch, height, width, 3] where `layout` is `NHWC`,
            to one tensor [batch, …]: logits, or a vector.

    Raises:
        UsageError: another layout.
    """
    shapes: dict[str, tuple[str | int, ...]] = {
        "NCHW": ("batch", 3, height, width), "NHWC": ("batch", height, width, 3)
    }  # fmt: skip
    if layout not in shapes:
        raise UsageError(f"layout: expected {' or '.join(shapes)}, got {layout!r}")
    was_training = module.training
    picture = TensorSpec("pixel_values", "float32", shapes[layout])
    answer = TensorSpec("answers", "float32", ("batch", "numbers"))
    path.parent.mkdir(parents=True, exist_ok=True)
    export_any(Exportable(module.eval(), (picture,), (answer,)), path)
    module.train(was_training)
    return path
