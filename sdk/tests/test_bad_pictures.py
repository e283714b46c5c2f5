"""Pictures that are unusual are read right; pictures that are none, or a trap, are refused, in bounded memory."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from doorstep.errors import InputError
from doorstep.predictor import LoadOptions, Predictor
from doorstep.tasks.pictures import PictureOptions, Pictures
from doorstep.tensors import TensorSpec

RED = np.full((8, 6, 3), (200, 10, 20), np.uint8)
NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
DEEP = np.full((8, 6), 0x8040, np.uint16)


@pytest.fixture(scope="module")
def predictor(picture_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(picture_bundle) as loaded:
        yield loaded


def see(item: Any, **options: Any) -> np.ndarray:
    chosen = PictureOptions(**{"width": 4, "height": 4, **options})
    spec = TensorSpec("pixels", "float32", ("batch", chosen.height, chosen.width, 3))
    return Pictures(chosen, [spec]).see(item, 0).pixels


def encoded(picture: Any, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(out, kind, **options)
    return out.getvalue()


def frames(kind: str) -> bytes:
    red, *others = (Image.new("RGB", (6, 8), color) for color in ("red", "lime", "blue"))
    return encoded(red, kind, save_all=True, append_images=others, duration=50, lossless=True)


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG that says it is large, of zeros."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join([*(rows.compress(row) for _ in range(height)), rows.flush()])
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


UNUSUAL = {
    "CMYK": (encoded(Image.new("CMYK", (6, 8), (0, 255, 255, 0)), "JPEG"), (255, 0, 0), 12),
    "a palette": (encoded(Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), (200, 10, 20), 0),
    "grey": (encoded(np.full((8, 6), 77, np.uint8), "PNG"), (77, 77, 77), 0),
    "grey with alpha": (encoded(Image.new("LA", (6, 8), (77, 0)), "PNG"), (77, 77, 77), 0),
    "one bit": (encoded(Image.new("1", (6, 8), 1), "PNG"), (255, 255, 255), 0),
    "16 bits": (encoded(DEEP, "PNG"), (128, 128, 128), 0),
    "16 bits, TIFF": (encoded(DEEP, "TIFF"), (128, 128, 128), 0),
    "transparent": (encoded(Image.new("RGBA", (6, 8), (200, 10, 20, 0)), "PNG"), (200, 10, 20), 0),
    "an animated GIF": (frames("GIF"), (255, 0, 0), 0),
    "an animated PNG": (frames("PNG"), (255, 0, 0), 0),
    "an animated WebP": (frames("WEBP"), (255, 0, 0), 1),
    "one pixel": (encoded(RED[:1, :1], "PNG"), (200, 10, 20), 0),
    "long and thin": (encoded(np.tile(RED[:1], (9000, 1, 1))[:, :1], "PNG"), (200, 10, 20), 0),
}


@pytest.mark.parametrize(("item", "color", "bound"), UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("resize", [(), (5,), (6, 5)], ids=str)
def test_an_unusual_picture_is_read_as_people_see_it(
    item: bytes, color: tuple[int, ...], bound: int, resize: tuple[int, ...]
) -> None:
    pixels = see(item, resize=resize)
    assert pixels.shape == (4, 4, 3)
    assert np.abs(pixels.astype(int) - color).max() <= bound


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


BAD = {
    "a bomb": (bomb(10_000, 9_000), "expected at most 64000000 pixels"),
    "a bomb that Pillow refuses": (bomb(200_000, 2_000), "cannot be read as a picture.*exceeds limit"),
    "no rows": (bomb(10, 0), "item 1: "),
    "no columns": (bmp(0, 10), "item 1: "),
    "an empty picture": (Image.new("RGB", (0, 0)), "expected a picture of 1 pixel or more"),
    "a picture of no height": (Image.new("RGB", (5, 0)), "expected a picture of 1 pixel or more"),
    "cut short, JPEG": (encoded(np.tile(RED, (40, 40, 1)), "JPEG")[:-200], "truncated"),
    "cut short, PNG": (encoded(NOISE, "PNG")[:-500], "item 1"),
    "cut short, GIF": (frames("GIF")[:40], "cannot be read as a picture"),
    "PostScript": (encoded(RED, "EPS"), "it is none of JPEG, PNG"),
    "a program": (b"#!/bin/sh\nrm -rf /\n", "cannot be read as a picture"),
    "HTML": (b"<html><script>alert(1)</script></html>", "cannot be read as a picture"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>', "cannot be read as a picture"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "cannot be read as a picture"),
    "nothing": (b"", "it is empty"),
    "a head alone": (b"\x89PNG\r\n\x1a\n", "cannot be read as a picture"),
    "32 bits": (encoded(np.zeros((8, 6), np.float32), "TIFF"), "expected 8 or 16 bits a channel.*mode F"),
    "whole numbers of 32 bits": (encoded(np.zeros((8, 6), np.int32), "TIFF"), "expected 8 or 16 bits .*mode I"),
    "a list": ([1, 2], "got list"),
    "a number": (1.5, "got float"),
    "a dict": ({"file": "x"}, "got dict"),
    "a file that is not there": ("/nowhere/红.png", "No such file"),
    "a folder": (Path("/"), "cannot be read as a picture"),
    "an endless device": ("/dev/zero", "it is no regular file"),
    "an array of floats": (RED / 255.0, "expected .*uint8, got .*float64"),
    "an array with NaN": (np.full((4, 4, 3), np.nan), "expected .*uint8"),
    "an array of one channel": (RED[..., 0], "expected .*uint8"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("item", "message"), BAD.values(), ids=BAD)
def test_what_is_no_picture_is_refused_and_the_others_are_answered(
    predictor: Predictor, item: Any, message: str
) -> None:
    with pytest.raises(InputError, match=rf"(?s)item 1: .*{message.removeprefix('item 1')}"):
        predictor.predict_many([RED, item])
    first, wrong, last = predictor.predict_many([RED, item, RED], on_error="return")
    assert (first.label, last.label) == ("red", "red")
    assert isinstance(wrong, InputError)
    assert str(wrong).startswith("item 1: ")


def test_a_pipe_is_not_waited_for(predictor: Predictor, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="no regular file"):
        predictor.predict(tmp_path / "pipe.jpg")


def test_a_device_of_little_memory_refuses_smaller_pictures(picture_bundle: Path) -> None:
    with Predictor.load(picture_bundle, options=LoadOptions(task_options={"max_pixels": 40})) as small:
        with pytest.raises(InputError, match="at most 40 pixels, got 6 × 8; make it smaller"):
            small.predict(RED)
        assert small.predict(RED[:6]).label == "red"


CHILD = """
import resource, sys
from doorstep.errors import InputError
from doorstep.predictor import LoadOptions, Predictor
options = LoadOptions(task_options={"resize": [40]})
with Predictor.load(sys.argv[1], threads=1, options=options) as predictor:
    predictor.predict(open(sys.argv[2], "rb").read())
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[3]),) * 2)
    for path in sys.argv[4:]:
        try:
            print(predictor.predict(path).label)
        except InputError as error:
            print(str(error)[:40])
"""


def test_bombs_and_thin_pictures_take_no_memory(picture_bundle: Path, tmp_path: Path) -> None:
    files = {
        "small.png": encoded(RED, "PNG"),
        "bomb.png": bomb(40_000, 4_000),
        "thin.png": encoded(np.tile(RED[:1, :1], (60_000, 1, 1)), "PNG"),
        "large.jpg": encoded(np.tile(RED[:1, :1], (5000, 6000, 1)), "JPEG"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    paths = [str(tmp_path / name) for name in files]
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(picture_bundle), paths[0], str(80 << 20), *paths[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["item 0: expected at most 64000000 pixels"[:40], "red", "red"]
