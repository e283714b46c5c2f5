"""Synthetic pictures that every convert asks about: odd sizes, turns, modes. Drawn here, so good only for comparing."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from doorstep.files import folder_aside

_SEED = 20261124
_SIZES = ((320, 240), (240, 320), (640, 480), (97, 131), (500, 80), (32, 32), (1600, 1200), (224, 224))
_TURNS = {1: 6, 4: 3, 9: 8, 11: 5}  # number of the picture to its EXIF orientation
_MODES = {2: "L", 5: "P", 7: "RGBA", 10: "CMYK"}
COUNT = 24


def draw_probes(folder: Path) -> list[Path]:
    """Return the probes' paths; they are drawn the first time."""
    target = folder.resolve() / f"probes-{_SEED}"
    if not target.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with folder_aside(target) as aside:
            for number in range(COUNT):
                _draw(number, aside)
    return sorted(target.iterdir())


def _draw(number: int, folder: Path) -> None:
    generator = np.random.default_rng(_SEED + number)
    width, height = _SIZES[number % len(_SIZES)]
    slope = np.linspace(0, 1, width)[None, :, None] * generator.integers(0, 256, 3)  # [1, width, 3]
    noise = generator.normal(0, 12, (height, width, 3))
    ground = (slope + np.linspace(40, 0, height)[:, None, None] + noise).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(ground)
    draw = ImageDraw.Draw(picture)
    for _ in range(10):
        x, y = int(generator.integers(0, width)), int(generator.integers(0, height))
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((x, y, x + width // 4, y + height // 4), fill=tuple(int(c) for c in generator.integers(0, 256, 3)))
    exif = Image.Exif()
    exif[0x0112] = _TURNS.get(number, 1)
    picture = picture.convert(_MODES.get(number, "RGB"))
    is_jpeg = picture.mode in ("L", "RGB", "CMYK") and number % 3 != 0
    path = folder / f"{number:02d}.{'jpg' if is_jpeg else 'png'}"
    picture.convert("RGB" if picture.mode == "CMYK" and not is_jpeg else picture.mode).save(path, exif=exif.tobytes())
