"""The tiles of a picture, greyed out."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import NamedTuple

from doorstep.explanation import Region
from doorstep.tasks.pictures import Seen
from doorstep.tensors import Array


class _Box(NamedTuple):
    top: int
    bottom: int
    left: int
    right: int


class PicturePieces:
    """Tiles of the pixels that the model sees; told as shares of the upright picture, row by row."""

    def __init__(self, seen: Seen, max_parts: int) -> None:
        self._seen = seen
        self._boxes = _boxes(seen.pixels, max_parts)
        self._mean = seen.pixels.mean(axis=(0, 1)).round().astype(seen.pixels.dtype)  # [3]

    def __len__(self) -> int:
        return len(self._boxes)

    def without(self, places: Sequence[int]) -> Array:
        """Return pixels [height, width, 3] with tiles in the picture's mean colour."""
        changed = self._seen.pixels.copy()
        for place in places:
            box = self._boxes[place]
            changed[box.top : box.bottom, box.left : box.right] = self._mean
        return changed

    def told(self, weights: Sequence[float]) -> dict[str, tuple[Region, ...]]:
        height, width = self._seen.pixels.shape[:2]
        left, top, wide, high = self._seen.window
        regions = (
            Region(
                left + wide * box.left / width,
                top + high * box.top / height,
                wide * (box.right - box.left) / width,
                high * (box.bottom - box.top) / height,
                weight,
            )
            for box, weight in zip(self._boxes, weights, strict=True)
        )
        return {"regions": tuple(regions)}


def _boxes(pixels: Array, max_parts: int) -> list[_Box]:
    height, width = pixels.shape[:2]
    side = max(1, int(max_parts**0.5))
    rows, columns = (
        pairwise([length * edge // min(side, length) for edge in range(min(side, length) + 1)])
        for length in (height, width)
    )
    return [_Box(*row, *column) for row, column in product(rows, columns)]
