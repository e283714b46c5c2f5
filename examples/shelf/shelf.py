"""What stands on the shelf? A small network learns drawn fruit, becomes a bundle, and says what it looked at.

    python examples/shelf/shelf.py

The pictures are drawn here, so that the example runs anywhere; real ones: `sdk/docs/tasks/image-classification.md`.
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from doorstep import InputError, Predictor

COLORS = {"apple": (200, 30, 40), "pear": (150, 190, 60), "plum": (90, 40, 130)}


def draw(kind: str, chance: random.Random) -> Image.Image:
    """Draw one synthetic fruit somewhere on a shelf of some colour."""
    picture = Image.new("RGB", (80, 60), tuple(chance.randrange(120, 256) for _ in range(3)))
    left, top, size = chance.randrange(5, 40), chance.randrange(5, 22), chance.randrange(22, 34)
    color = tuple(min(255, max(0, level + chance.randrange(-25, 26))) for level in COLORS[kind])
    ImageDraw.Draw(picture).ellipse((left, top, left + size, top + size), fill=color)
    return picture


def write_pictures(folder: Path) -> None:
    """Write synthetic pictures, one folder a class, in three splits."""
    chance = random.Random(7)
    for split, count in (("train", 60), ("dev", 12), ("test", 12)):
        for kind in COLORS:
            (folder / split / kind).mkdir(parents=True)
            for number in range(count):
                draw(kind, chance).save(folder / split / kind / f"synthetic-{number}.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pictures(folder / "fruit")
        command = [
            sys.executable, "-m", "doorstep.cli.main", "convert", "new:resnet-8w-32px", "--data", str(folder / "fruit"),
            "--task", "image-classification", "--target", "x86-64", "--variants", "onnx-fp32", "--epochs", "12",
            "--out", place,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Predictor.load(folder / "fruit.bundle") as predictor:
            pictures = [*(draw(kind, random.Random(99)) for kind in COLORS), b"#!/bin/sh"]
            for name, answer in zip(
                [*COLORS, "a script"], predictor.predict_many(pictures, on_error="return"), strict=True
            ):
                told = answer if isinstance(answer, InputError) else f"{answer.label} {answer.score:.2f}"
                print(name, "→", told)
            best = max(predictor.explain(pictures[0], max_parts=16).regions, key=lambda region: region.weight)
            print(f"it looked at {best.left:.2f} to {best.left + best.width:.2f} from the left")


if __name__ == "__main__":
    main()
