"""Find a product by a photo of it: a network that learnt a few products gives vectors, also of products it never saw.

    python examples/photo/find_by_photo.py

The pictures are drawn here, so that the example runs anywhere. A convert keeps the checkpoint that it trained in its
cache; that one is converted again without its labels. Your own ViT, ConvNeXt or ResNet folder needs the second convert
alone.
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from doorstep import Predictor

KNOWN = {"apple": (200, 30, 40), "pear": (150, 190, 60), "plum": (90, 40, 130), "orange": (240, 140, 20)}
NEW = {"blueberry": (40, 60, 170), "lemon": (240, 220, 60), "lime": (60, 190, 70)}
SHOTS = 6  # pictures of a product in the catalogue


def draw(color: tuple[int, int, int], chance: random.Random) -> Image.Image:
    """Draw one synthetic fruit somewhere, before some light wall."""
    picture = Image.new("RGB", (80, 60), tuple(chance.randrange(225, 256) for _ in range(3)))
    left, top, size = chance.randrange(5, 40), chance.randrange(5, 22), chance.randrange(22, 34)
    shade = tuple(min(255, max(0, level + chance.randrange(-15, 16))) for level in color)
    ImageDraw.Draw(picture).ellipse((left, top, left + size, top + size), fill=shade)
    return picture


def convert(checkpoint: str, task: str, place: Path, *more: str) -> None:
    command = [
        sys.executable, "-m", "doorstep.cli.main", "convert", checkpoint, "--task", task, "--target", "x86-64",
        "--variants", "onnx-fp32", "--out", str(place), "--cache", str(place / "cache"), "--name", task, *more,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    chance = random.Random(7)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for split, count in (("train", 40), ("dev", 6), ("test", 6)):
            for kind, color in KNOWN.items():
                (place / "fruit" / split / kind).mkdir(parents=True)
                for number in range(count):
                    draw(color, chance).save(place / "fruit" / split / kind / f"synthetic-{number}.png")
        convert("new:resnet-8w-32px", "image-classification", place, "--data", str(place / "fruit"), "--epochs", "10")
        (checkpoint,) = (place / "cache").glob("stages/train-*/checkpoint")
        convert(str(checkpoint), "image-feature-extraction", place)
        with Predictor.load(place / "image-feature-extraction.bundle") as predictor:
            catalogue = [draw(color, chance) for color in NEW.values() for _ in range(SHOTS)]
            vectors = np.array([vector.values for vector in predictor.predict_many(catalogue)])
            shelf = vectors.reshape(len(NEW), SHOTS, -1).mean(axis=1)  # [products, dimensions]
            for kind, color in NEW.items():
                photo = np.array(predictor.predict(draw(color, chance)).values)
                print(f"a photo of {kind} → {list(NEW)[(shelf @ photo).argmax()]}")


if __name__ == "__main__":
    main()
