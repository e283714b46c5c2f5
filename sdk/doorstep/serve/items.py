"""Items as they come in JSON or as uploaded files, to items as a task takes them.

A text never becomes a path here: the tasks for pictures and sound would open it.
"""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

from doorstep.errors import InputError, MissingExtraError
from doorstep.serve.options import Limits
from doorstep.serve.refusals import RefusalError

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MEDIA = ("image-", "audio-", "automatic-speech-recognition")


def takes_media(task: str) -> bool:
    """Tell whether a task's items are files: pictures or sound."""
    return task.startswith(_MEDIA)


def decode_items(task: str, items: Sequence[Any], limits: Limits) -> list[Any]:
    """Return items as `task` takes them.

    Args:
        items: JSON values, or bytes where files were uploaded.

    Raises:
        InputError: an item is of the wrong kind or too large; its place is named.
        RefusalError: 400, none or too many of them.
    """
    if not items:
        raise RefusalError(400, "items: expected at least one, got none")
    if takes_media(task):
        return [_media(task, item, place, limits) for place, item in enumerate(items)]
    for place, item in enumerate(items):
        if isinstance(item, bytes):
            raise InputError(f"item {place}: a model of {task} takes no files; send JSON")
        if isinstance(item, str) and len(item) > limits.characters:
            raise InputError(f"item {place}: expected at most {limits.characters} characters, got {len(item)}; cut it")
    return list(items)


def _media(task: str, item: Any, place: int, limits: Limits) -> bytes:
    data = item if isinstance(item, bytes) else _from_base64(item, place)
    if task.startswith("image-"):
        _check_picture(data, place, limits.pixels)
    return data


def _from_base64(item: Any, place: int) -> bytes:
    if not isinstance(item, dict) or item.keys() != {"b64"} or not isinstance(item["b64"], str):
        raise InputError(f'item {place}: expected {{"b64": "…"}} or an uploaded file, got {type(item).__name__}')
    try:
        return base64.b64decode(item["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"item {place}: b64 is no base64 ({error!s:.80})") from error


def _check_picture(data: bytes, place: int, most_pixels: int) -> None:
    """Look at a picture's head: its format must be a plain one, its size within bounds; nothing is decoded."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError.of("Pillow, which reads pictures,", "image") from error
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError as error:
        raise InputError(
            f"item {place}: expected at most {most_pixels} pixels, got far more; make it smaller"
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        kinds = ", ".join(PICTURE_FORMATS)
        raise InputError(f"item {place}: expected a picture ({kinds}), got something else") from error
    if width * height > most_pixels:
        raise InputError(
            f"item {place}: expected at most {most_pixels} pixels, got {width} × {height}; make it smaller"
        )
