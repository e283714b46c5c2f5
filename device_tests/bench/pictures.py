"""Preprocessing of a JPEG beside Pillow's own decode and resize of the same bytes, taking turns."""

import io
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from doorstep.cli.output import table
from doorstep.tasks.pictures import PictureOptions, Pictures
from doorstep.tensors import TensorSpec

_SIZES = ((1152, 864), (4000, 3000))
_SIDE = 224
_SHOWN = {
    "stretched": PictureOptions(_SIDE, _SIDE, "NCHW"),
    "cut out": PictureOptions(_SIDE, _SIDE, "NCHW", resize=(256,)),
}


def pictures(rounds: int = 31) -> dict[str, Any]:
    """Print the ratio of medians for pictures of 1 and 12 megapixels; both sides in one process, on one thread."""
    spec = TensorSpec("pixel_values", "float32", ("batch", 3, _SIDE, _SIDE))
    found: dict[str, Any] = {}
    rows: list[list[object]] = []
    for size in _SIZES:
        data = _synthetic(*size)
        for name, options in _SHOWN.items():
            wanted = (256 * size[0] // size[1], 256) if options.resize else (_SIDE, _SIDE)
            sides: dict[str, Callable[[], object]] = {
                "pillow": partial(_pillow, data, wanted),
                "doorstep": partial(_doorstep, data, Pictures(options, [spec])),
            }
            figures = _taking_turns(sides, rounds)
            ratio = figures["doorstep"] / figures["pillow"]
            key = f"{size[0] * size[1] / 1e6:.0f} MP, {name}"
            found[key] = {**figures, "ratio": round(ratio, 3)}
            rows.append([key, f"{figures['doorstep']:.2f}", f"{figures['pillow']:.2f}", f"{ratio:.3f}"])
    print("JPEG to tensor beside Pillow's decode and resize alone; medians, synthetic pictures")
    print(table(("picture", "doorstep ms", "Pillow ms", "ratio"), rows) + "\n")
    return found


def _taking_turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.thread_time()
            run()
            times[name].append(1e3 * (time.thread_time() - start))
    return {name: round(float(np.median(taken)), 3) for name, taken in times.items()}


def _pillow(data: bytes, size: tuple[int, int]) -> Any:
    return Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BILINEAR)


def _doorstep(data: bytes, pictures: Pictures) -> Any:
    return pictures.collate([pictures.see(data, 0).pixels])


def _synthetic(width: int, height: int) -> bytes:
    """Draw a photograph-like picture: slow changes of colour, and a camera's noise."""
    generator = np.random.default_rng(20261124)
    small = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    noisy = (smooth + generator.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "JPEG", quality=90)
    return out.getvalue()
