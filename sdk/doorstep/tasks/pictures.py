"""Pictures to tensors, as the checkpoint's own image processor makes them.

Resize, cut out the middle, scale, normalize: pixel for pixel what the processor does with Pillow (after mirroring, 1 of
255 off at most). A JPEG with six or more pixels for each that is kept, in each direction, is decoded at a half, a
quarter or an eighth of its size; on photographs that changes pixels by 2 of 255 at most and by 0.25 on average.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from doorstep.errors import FormatError
from doorstep.tasks.picture_items import Opened, Turn, open_item, rgb
from doorstep.tensors import Array, Feeds, TensorSpec

MAX_PIXELS = 64_000_000
_GAP = 3  # a JPEG decoded smaller still has this many pixels for each that is kept, in each direction
_MOST_RESIZED = 16  # pixels that are resized for each that is kept


class PictureOptions(NamedTuple):
    """How a picture becomes a tensor.

    Attributes:
        width, height: pixels the model takes.
        layout: `NHWC` or `NCHW`.
        scale: pixel values 0 to 255 are multiplied by it first.
        mean, std: then `(value - mean) / std`, one number a channel.
        resample: a filter of Pillow: `nearest`, `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.
        resize: what the picture is brought to before its middle is cut out: empty for `height` × `width` themselves,
            one number for its shorter edge, two for its height and width.
        max_pixels: larger pictures are refused; decoding one takes up to 12 bytes a pixel.
        is_exact: decode every JPEG in full, also one that could be decoded smaller.
    """

    width: int
    height: int
    layout: str = "NHWC"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resample: str = "bilinear"
    resize: tuple[int, ...] = ()
    max_pixels: int = MAX_PIXELS
    is_exact: bool = False


class Seen(NamedTuple):
    """What a model sees of a picture.

    Attributes:
        pixels: [height, width, 3] uint8.
        window: left, top, width and height of it, as shares of the upright picture (0 to 1).
    """

    pixels: Array
    window: tuple[float, float, float, float]


class _Axis(NamedTuple):
    """One direction: `length` pixels become `resized`, of them `kept` from `first` on, put down from `offset` on."""

    length: int
    resized: int
    first: int
    kept: int
    offset: int

    @property
    def start(self) -> float:
        """Where the kept part begins in the picture, in its pixels."""
        return self.first * self.length / self.resized

    @property
    def end(self) -> float:
        """Where it ends."""
        return min(float(self.length), (self.first + self.kept) * self.length / self.resized)


class Pictures:
    """Items to pixels to feeds."""

    def __init__(self, options: PictureOptions, inputs: Sequence[TensorSpec]) -> None:
        _check(options, inputs)
        self._options = options
        self._spec = inputs[0]
        self._resample = Image.Resampling[options.resample.upper()]
        values = (np.arange(256, dtype=np.float64) * options.scale).astype(np.float32)  # as transformers rounds
        mean, std = (np.broadcast_to(np.array(part, np.float32), 3)[:, None] for part in (options.mean, options.std))
        self._table = (values - mean) / std  # [3, 256]; the tensor's value of every pixel value

    def see(self, item: Any, place: int) -> Seen:
        """Return the pixels of one item.

        Raises:
            InputError: it is no picture, or out of bounds.
        """
        options = self._options
        with open_item(item, place, options.max_pixels) as opened:
            wide, high = opened.size[:: -1 if opened.turn.is_swapped else 1]  # of the upright picture
            resized_width, resized_height = _resized(options, wide, high)
            x, y = _axis(wide, resized_width, options.width), _axis(high, resized_height, options.height)
            small = self._small(opened, x, y, place)  # [kept, kept, 3]
        window = (x.start / wide, y.start / high, (x.end - x.start) / wide, (y.end - y.start) / high)
        if (y.kept, x.kept) != (options.height, options.width):
            pixels = np.zeros((options.height, options.width, 3), np.uint8)
            pixels[y.offset : y.offset + y.kept, x.offset : x.offset + x.kept] = small
            small = pixels
        return Seen(small, window)

    def collate(self, rows: Sequence[Array]) -> Feeds:
        """Scale and normalize pixels, each [height, width, 3] uint8."""
        pixels = np.stack(rows)  # [batch, height, width, 3]
        is_first = self._options.layout == "NCHW"
        if np.dtype(self._spec.dtype) == np.uint8:
            return {self._spec.name: np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if is_first else pixels}
        batch, height, width, _ = pixels.shape
        shape = (batch, 3, height, width) if is_first else (batch, height, width, 3)
        tensor = np.empty(shape, self._spec.dtype)
        for channel in range(3):
            part = tensor[:, channel] if is_first else tensor[..., channel]  # [batch, height, width]
            part[...] = self._table[channel][pixels[..., channel]]
        return {self._spec.name: tensor}

    def _small(self, opened: Opened, x: _Axis, y: _Axis, place: int) -> Array:
        """Decode, turn upright, resize and cut: [kept, kept, 3] uint8."""
        turn = opened.turn
        is_fast = opened.is_ours and not self._options.is_exact
        share = _decode_smaller(opened, *((y, x) if turn.is_swapped else (x, y))) if is_fast else 1.0
        picture = rgb(opened.picture, place)
        if turn.is_swapped:  # before the resize: Pillow rounds between its two passes, so their order shows
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        if x.resized * y.resized > _MOST_RESIZED * x.kept * y.kept:
            return self._thin(picture, x, y, turn, share)
        box = (0.0, 0.0, min(picture.width, x.length * share), min(picture.height, y.length * share))
        resized = np.asarray(picture.resize((x.resized, y.resized), self._resample, box))
        return _mirrored(resized, turn)[y.first : y.first + y.kept, x.first : x.first + x.kept]

    def _thin(self, picture: "Image.Image", x: _Axis, y: _Axis, turn: Turn, share: float) -> Array:
        """Resize the kept part alone: the whole of a long thin picture might not fit into memory."""
        left, right = (x.length - x.end, x.length - x.start) if turn.mirrors_x else (x.start, x.end)
        top, bottom = (y.length - y.end, y.length - y.start) if turn.mirrors_y else (y.start, y.end)
        box = (
            max(0.0, left * share), max(0.0, top * share),
            min(picture.width, right * share), min(picture.height, bottom * share),
        )  # fmt: skip
        return _mirrored(np.asarray(picture.resize((x.kept, y.kept), self._resample, box)), turn)


def _check(options: PictureOptions, inputs: Sequence[TensorSpec]) -> None:
    if options.layout not in ("NHWC", "NCHW") or options.resample.upper() not in Image.Resampling.__members__:
        raise FormatError(f"options: no layout {options.layout!r} or no resample {options.resample!r}")
    if not 1 <= options.width * options.height <= MAX_PIXELS or options.width < 1:
        raise FormatError(f"options: no picture is {options.width} × {options.height} pixels")
    if len(options.resize) > 2 or not all(1 <= edge <= 1 << 14 for edge in options.resize):
        raise FormatError(f"options: resize takes no, one or two lengths of 1 to 16384, got {list(options.resize)}")
    if not 1 <= options.max_pixels <= MAX_PIXELS:
        raise FormatError(f"options: max_pixels: expected 1 to {MAX_PIXELS}, got {options.max_pixels}")
    if not {len(options.mean), len(options.std)} <= {1, 3} or 0 in options.std:
        raise FormatError("options: mean and std take one number or three, and std none that is 0")
    if len(inputs) != 1:
        raise FormatError(f"inputs: a picture gives one tensor, the model takes {len(inputs)}")
    sides = (options.height, options.width)
    given = (3, *sides) if options.layout == "NCHW" else (*sides, 3)
    shape = inputs[0].shape
    if len(shape) != 4 or any(isinstance(a, int) and a != b for a, b in zip(shape[1:], given, strict=True)):
        raise FormatError(f"inputs: pictures give [batch, {', '.join(map(str, given))}], the model takes {list(shape)}")


def _resized(options: PictureOptions, wide: int, high: int) -> tuple[int, int]:
    """Return width and height after the resize, rounded as transformers' `get_resize_output_image_size` does."""
    if not options.resize:
        return options.width, options.height
    if len(options.resize) == 2:
        return options.resize[1], options.resize[0]
    edge = options.resize[0]
    return (edge, int(edge * high / wide)) if wide <= high else (int(edge * wide / high), edge)


def _axis(length: int, resized: int, wanted: int) -> _Axis:
    """Find what a centre crop of `wanted` pixels keeps of `resized`; where they are too few, all with a margin."""
    if resized < wanted:
        return _Axis(length, resized, 0, resized, -(-(wanted - resized) // 2))
    return _Axis(length, resized, (resized - wanted) // 2, wanted, 0)


def _mirrored(pixels: Array, turn: Turn) -> Array:
    return pixels[:: -1 if turn.mirrors_y else 1, :: -1 if turn.mirrors_x else 1]


def _decode_smaller(opened: Opened, across: _Axis, down: _Axis) -> float:
    """Tell a JPEG's decoder to drop frequencies that the resize drops anyway; return a stored pixel in decoded ones."""
    least = max(1, _GAP * across.resized), max(1, _GAP * down.resized)
    drafted = opened.picture.draft(None, least)
    return 1.0 if drafted is None else drafted[1][2] / opened.size[0]
