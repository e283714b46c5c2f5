"""A checkpoint's image processor as options of the device, and the proof that both give the same pixels."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from doorstep.errors import CheckpointError
from doorstep.tasks.pictures import PictureOptions, Pictures
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import read_json

FILE = "preprocessor_config.json"
INPUT = "pixel_values"
BOUND = 1.01
"""Largest difference of a pixel value (of 255) between transformers' processor and the device; with room for floats."""

_STANDARD = (0.5, 0.5, 0.5)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_NAMES = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_UNSUPPORTED = ("do_pad", "do_thumbnail", "do_align_axis", "do_rescale_offset", "do_flip_channel_order")


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a processor does where its file says nothing.

    Attributes:
        is_square: a size that is one number stands for both sides, not for the shorter edge.
    """

    size: Mapping[str, int]
    resample: int = 2
    crop_size: int = 0
    is_square: bool = False
    mean: tuple[float, ...] = _STANDARD
    std: tuple[float, ...] = _STANDARD


_KNOWN = {
    "ViT": _Defaults({"height": 224, "width": 224}, is_square=True),
    "ConvNext": _Defaults({"shortest_edge": 384}, 3),
    "MobileNetV1": _Defaults({"shortest_edge": 256}, 2, 224),
    "MobileNetV2": _Defaults({"shortest_edge": 256}, 2, 224),
    "DeiT": _Defaults({"height": 256, "width": 256}, 3, 224, is_square=True),
    "Siglip": _Defaults({"height": 224, "width": 224}, 3, is_square=True),
    "Bit": _Defaults({"shortest_edge": 224}, 3, 224, mean=_CLIP_MEAN, std=_CLIP_STD),
    "CLIP": _Defaults({"shortest_edge": 224}, 3, 224, mean=_CLIP_MEAN, std=_CLIP_STD),
}


def read_processor(folder: Path) -> dict[str, Any]:
    """Return the options of `PictureOptions` that do what the folder's image processor does.

    Raises:
        CheckpointError: no processor, one that doorstep does not know, or a step that a device does not do.
    """
    if not (folder / FILE).is_file():
        raise CheckpointError(
            f"{folder}: no {FILE} in it, so nothing says how a picture becomes a tensor; save it there: "
            "AutoImageProcessor.from_pretrained(…).save_pretrained(folder)"
        )
    plain = read_json(folder / FILE)
    named = str(plain.get("image_processor_type") or plain.get("feature_extractor_type") or "")
    kind = re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", named)
    if kind not in _KNOWN:
        raise CheckpointError(f"{folder / FILE}: expected a processor of {', '.join(_KNOWN)}, got {named or 'none'!r}")
    if wrong := [name for name in _UNSUPPORTED if plain.get(name)]:
        raise CheckpointError(f"{folder / FILE}: {wrong[0]} is set, which a device does not do; turn it off")
    if plain.get("do_resize") is False:
        raise CheckpointError(f"{folder / FILE}: do_resize is off, but pictures come in any size; turn it on")
    try:
        return _geometry(plain, kind, _KNOWN[kind]) | _values(plain, _KNOWN[kind])
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{folder / FILE}: expected sizes and lists of three numbers ({error!s:.100})") from error


def picture_specs(options: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    """Return what the graph takes."""
    return (TensorSpec(INPUT, "float32", ("batch", 3, options["height"], options["width"])),)


def pictures_of(options: Mapping[str, Any]) -> Pictures:
    """Return what a device does for these options; others than those of `PictureOptions` are left out."""
    known = {name: value for name, value in options.items() if name in PictureOptions._fields}
    return Pictures(PictureOptions(**known), picture_specs(options))


def prove(folder: Path, options: Mapping[str, Any], items: Sequence[Any]) -> None:
    """Compare the device's pixels with those of transformers' own processor, with every JPEG decoded in full.

    Raises:
        CheckpointError: they differ by more than `BOUND`.
    """
    device = pictures_of({**options, "is_exact": True})
    level = options["scale"] / max(options["std"])  # what one pixel value makes in the tensor, at least
    process = load_processor(folder)
    for place, item in enumerate(items):
        got = device.collate([device.see(item, place).pixels])[INPUT][0]
        expected = process(open_upright(item))
        worst = float(np.abs(got - expected).max()) / level
        if not worst <= BOUND:
            raise CheckpointError(
                f"{folder / FILE}: the device's pixels differ from transformers' by {worst:.2f} of 255 in item {place};"
                " this processor does something else than its file says"
            )


def load_processor(folder: Path) -> Any:
    """Return a function from a PIL picture to transformers' own tensor [3, height, width] float32."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")

    def process(picture: Any) -> Any:
        return np.asarray(processor(picture, return_tensors="np")[INPUT][0], np.float32)

    return process


def open_upright(data: bytes) -> Image.Image:
    """Open a picture as transformers' `load_image` does: turned by its EXIF, in RGB."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def _geometry(plain: Mapping[str, Any], kind: str, defaults: _Defaults) -> dict[str, Any]:
    size = _sides(plain.get("size", defaults.size), defaults.is_square)
    crop = _sides(plain.get("crop_size", defaults.crop_size) or 0, True)
    is_cropped = plain.get("do_center_crop", bool(defaults.crop_size)) and any(crop)
    if kind == "ConvNext":
        if len(size) != 1 or plain.get("do_center_crop"):
            raise ValueError("a shortest edge and no centre crop of its own")
        edge = size[0]
        resize = [int(edge / plain.get("crop_pct", 224 / 256))] if edge < 384 else []
        return {"width": edge, "height": edge, "resize": resize}
    if is_cropped:
        return {"width": crop[1], "height": crop[0], "resize": size}
    if len(size) != 2:
        raise ValueError("a height and a width, or a centre crop: the graph takes one size")
    return {"width": size[1], "height": size[0], "resize": []}


def _sides(value: Any, is_square: bool) -> list[int]:
    """Return height and width, or the one length of the shorter edge."""
    if isinstance(value, Mapping):
        if {name for name, length in value.items() if length} == {"shortest_edge"}:
            return [int(value["shortest_edge"])]
        return [int(value["height"]), int(value["width"])]
    if isinstance(value, list):
        return [int(value[0]), int(value[1])]
    return [int(value), int(value)] if is_square else [int(value)]


def _values(plain: Mapping[str, Any], defaults: _Defaults) -> dict[str, Any]:
    is_normalized = plain.get("do_normalize", True)
    mean, std = plain.get("image_mean") or defaults.mean, plain.get("image_std") or defaults.std
    number = plain.get("resample", defaults.resample)
    return {
        "layout": "NCHW",
        "scale": float(plain.get("rescale_factor", 1 / 255)) if plain.get("do_rescale", True) else 1.0,
        "mean": [float(value) for value in mean][:3] if is_normalized else [0.0] * 3,
        "std": [float(value) for value in std][:3] if is_normalized else [1.0] * 3,
        "resample": _NAMES[2 if number is None else int(number)],
    }
