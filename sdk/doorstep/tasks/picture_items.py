"""Pictures in: a path, bytes, a PIL picture or an array becomes an opened picture within bounds. Pillow reads.

Pillow alone would run Ghostscript for a PostScript file and follow any of its forty formats; here six are read.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doorstep.errors import InputError, MissingExtraError

try:
    from PIL import Image, UnidentifiedImageError
except ImportError as error:
    raise MissingExtraError.of("Pillow, which reads pictures,", "image") from error

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = 64 << 20
_ORIENTATION = 0x0112  # Exif 2.32, 4.6.4 A
_BROKEN = (Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError)
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N")


class Turn(NamedTuple):
    """How stored pixels become upright ones: swap rows with columns first, then mirror."""

    is_swapped: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False


_TURNS = {
    2: Turn(mirrors_x=True),
    3: Turn(mirrors_x=True, mirrors_y=True),
    4: Turn(mirrors_y=True),
    5: Turn(is_swapped=True),
    6: Turn(is_swapped=True, mirrors_x=True),
    7: Turn(is_swapped=True, mirrors_x=True, mirrors_y=True),
    8: Turn(is_swapped=True, mirrors_y=True),
}
"""By EXIF orientation, as Pillow's `exif_transpose` turns; 1 and unknown ones stay."""


class Opened(NamedTuple):
    """A picture whose pixels may not be decoded yet.

    Attributes:
        size: width and height as stored.
        turn: what makes it upright.
        is_ours: opened here, so that its decoder may be told to decode smaller.
    """

    picture: "Image.Image"
    size: tuple[int, int]
    turn: Turn
    is_ours: bool


@contextmanager
def open_item(item: Any, place: int, max_pixels: int) -> Iterator[Opened]:
    """Open an item; whatever decoding it raises inside the context becomes an `InputError`.

    Raises:
        InputError: wrong type, no picture, damaged, empty, too many bytes or pixels.
    """
    try:
        if isinstance(item, np.ndarray):
            yield _checked(_from_array(item, place), place, max_pixels, is_ours=False)
        elif isinstance(item, Image.Image):
            yield _checked(item, place, max_pixels, is_ours=False)
        elif isinstance(item, (str, Path, bytes, bytearray, memoryview)):
            with Image.open(io.BytesIO(_read(item, place)), formats=FORMATS) as picture:
                yield _checked(picture, place, max_pixels, is_ours=True)
        else:
            got = type(item).__name__
            raise InputError(f"item {place}: expected a path, bytes, a PIL picture or an array, got {got}")
    except UnidentifiedImageError as error:
        raise InputError(f"item {place}: cannot be read as a picture: it is none of {', '.join(FORMATS)}") from error
    except _BROKEN as error:
        raise InputError(f"item {place}: cannot be read as a picture: {error!s:.120}") from error


def rgb(picture: "Image.Image", place: int) -> "Image.Image":
    """Return 8 bits of red, green and blue: transparency is dropped, as transformers does; of 16 bits the upper 8 stay.

    Raises:
        InputError: its numbers have no known range.
    """
    if picture.mode == "RGB":
        return picture
    is_png = picture.mode == "I" and getattr(picture, "format", None) == "PNG"  # Pillow 9 opens 16 bits as 32
    if picture.mode in _DEEP or is_png:
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise InputError(
            f"item {place}: expected 8 or 16 bits a channel, got a picture of 32-bit numbers (mode {picture.mode}); "
            "scale it to 0 to 255 and give it as an array [height, width, 3] uint8"
        )
    return picture.convert("RGB")


def _checked(picture: "Image.Image", place: int, max_pixels: int, is_ours: bool) -> Opened:
    width, height = picture.size
    if width < 1 or height < 1:
        raise InputError(f"item {place}: expected a picture of 1 pixel or more, got {width} × {height}")
    if width * height > max_pixels:
        raise InputError(f"item {place}: expected at most {max_pixels} pixels, got {width} × {height}; make it smaller")
    turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1), Turn())
    return Opened(picture, (width, height), turn, is_ours)


def _from_array(item: np.ndarray[Any, Any], place: int) -> "Image.Image":
    if item.ndim != 3 or item.shape[2] != 3 or item.dtype != np.uint8 or item.size == 0:
        raise InputError(f"item {place}: expected [height, width, 3] uint8, got {list(item.shape)} {item.dtype}")
    return Image.fromarray(item)


def _read(item: "str | Path | bytes | bytearray | memoryview", place: int) -> bytes:
    if isinstance(item, (str, Path)):
        with open(item, "rb", opener=_open_file) as file:
            data = file.read(MAX_BYTES + 1)
    else:
        data = bytes(item)
    if len(data) > MAX_BYTES:
        raise InputError(f"item {place}: expected at most {MAX_BYTES} bytes, got more")
    if not data:
        raise InputError(f"item {place}: cannot be read as a picture: it is empty")
    return data


def _open_file(path: str, flags: int) -> int:
    """Open a regular file; a pipe would be waited for, a device never ends."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no regular file")
    return descriptor
