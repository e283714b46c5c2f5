"""image-classification: a picture to labels and scores. Pillow decodes and resizes."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError, InputError, MissingExtraError
from doorstep.results import Classification
from doorstep.tasks.labelling import Labeller, LabellingOptions, strict_options
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:
    raise MissingExtraError.of("Pillow, which reads pictures,", "image") from error

MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000


class PictureOptions(NamedTuple):
    """How a picture becomes a tensor.

    Attributes:
        width, height: pixels the model takes.
        layout: `NHWC` or `NCHW`.
        scale: pixel values 0 to 255 are multiplied by it first.
        mean, std: then `(value - mean) / std`, one number a channel.
        resample: `nearest`, `bilinear` or `bicubic`.
    """

    width: int
    height: int
    layout: str = "NHWC"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resample: str = "bilinear"


class ImageClassification:
    """Paths, bytes, PIL pictures or arrays [height, width, 3] uint8 to classifications."""

    def __init__(self, options: PictureOptions, spec: TensorSpec, labeller: Labeller) -> None:
        if options.layout not in ("NHWC", "NCHW") or options.resample.upper() not in Image.Resampling.__members__:
            raise FormatError(f"options: no layout {options.layout!r} or no resample {options.resample!r}")
        if not 1 <= options.width * options.height <= MAX_PIXELS or options.width < 1:
            raise FormatError(f"options: no picture is {options.width} × {options.height} pixels")
        if not {len(options.mean), len(options.std)} <= {1, 3} or 0 in options.std:
            raise FormatError("options: mean and std take one number or three, and std none that is 0")
        self._options = options
        self._spec = spec
        self._labeller = labeller
        self._resample = Image.Resampling[options.resample.upper()]
        self._mean = np.array(options.mean, np.float32)
        self._std = np.array(options.std, np.float32)

    def prepare(self, items: Sequence[Any]) -> Sequence[Array]:
        return [self._tensor(item, place) for place, item in enumerate(items)]

    def length(self, row: Array) -> int:
        return 0

    def collate(self, rows: Sequence[Array]) -> Feeds:
        return {self._spec.name: np.stack(rows)}  # [batch, height, width, 3] or [batch, 3, height, width]

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Classification]:
        return self._labeller.classify(next(iter(fetches.values())))

    def of_every_label(self) -> "ImageClassification":
        """Return this task with results that list every class."""
        return ImageClassification(self._options, self._spec, self._labeller.of_every_label())

    def pixels(self, item: Any) -> Array:
        """Return an item as the pixels the model sees: [height, width, 3] uint8."""
        picture = _open(item, 0).resize((self._options.width, self._options.height), self._resample)
        return np.asarray(picture)

    def _tensor(self, item: Any, place: int) -> Array:
        options = self._options
        picture = _open(item, place).resize((options.width, options.height), self._resample)
        pixels = np.asarray(picture)  # [height, width, 3] uint8
        if np.dtype(self._spec.dtype) != np.uint8:
            pixels = (pixels.astype(np.float32) * np.float32(options.scale) - self._mean) / self._std
        if options.layout == "NCHW":
            pixels = pixels.transpose(2, 0, 1)  # [3, height, width]
        return np.ascontiguousarray(pixels, self._spec.dtype)


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> ImageClassification:
    """Load preprocessing and labels from the bundle."""
    known = {*PictureOptions._fields, *LabellingOptions._fields}
    plain = strict_options(bundle.manifest.options, overrides, known)
    if len(inputs) != 1:
        raise FormatError(f"inputs: a picture gives one tensor, the model takes {len(inputs)}")
    labeller = Labeller(build(plain, LabellingOptions, "options"))
    return ImageClassification(build(plain, PictureOptions, "options"), inputs[0], labeller)


def _open(item: Any, place: int) -> "Image.Image":
    if isinstance(item, np.ndarray):
        if item.ndim != 3 or item.shape[2] != 3 or item.dtype != np.uint8 or item.size == 0:
            raise InputError(f"item {place}: expected [height, width, 3] uint8, got {list(item.shape)} {item.dtype}")
        return Image.fromarray(item)
    if isinstance(item, Image.Image):
        return ImageOps.exif_transpose(item).convert("RGB")
    if not isinstance(item, (str, Path, bytes)):
        raise InputError(f"item {place}: expected a path, bytes, a PIL picture or an array, got {type(item).__name__}")
    try:
        with Image.open(io.BytesIO(_bytes(item, place))) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(f"item {place}: expected at most {MAX_PIXELS} pixels, got {picture.size}")
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"item {place}: cannot be read as a picture ({error!s:.120})") from error


def _bytes(item: str | Path | bytes, place: int) -> bytes:
    if isinstance(item, bytes):
        data = item
    else:
        with open(item, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"item {place}: expected at most {MAX_BYTES} bytes, got more")
    return data
