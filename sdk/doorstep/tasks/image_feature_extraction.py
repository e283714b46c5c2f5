"""image-feature-extraction: a picture to a vector. Pooling is in the graph; cutting and scaling happen here."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.results import Vector
from doorstep.tasks.labelling import strict_options
from doorstep.tasks.pictures import PictureOptions, Pictures
from doorstep.tasks.vectors import Comparing, VectorForm, VectorOptions
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.pictures import PicturePieces


class ImageFeatureExtraction(Comparing):
    """Paths, bytes, PIL pictures or arrays [height, width, 3] uint8 to vectors."""

    def __init__(self, pictures: Pictures, form: VectorForm) -> None:
        self._pictures = pictures
        self._form = form

    def prepare(self, items: Sequence[Any]) -> Sequence[Array]:
        return [self._pictures.see(item, place).pixels for place, item in enumerate(items)]

    def length(self, row: Array) -> int:
        return 0

    def collate(self, rows: Sequence[Array]) -> Feeds:
        return self._pictures.collate(rows)

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Vector]:
        return self._form.results(fetches)

    def vectors(self, fetches: Fetches) -> Array:
        """Return vectors [batch, dimensions] float32, cut and scaled."""
        return self._form.vectors(fetches)

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "PicturePieces":
        """Take what the model sees of a picture to tiles, for `explain`."""
        from doorstep.pieces.pictures import PicturePieces

        return PicturePieces(self._pictures.see(item, 0), max_parts)


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> ImageFeatureExtraction:
    """Load preprocessing from the bundle."""
    plain = strict_options(bundle.manifest.options, overrides, {*PictureOptions._fields, *VectorOptions._fields})
    form = VectorForm(build(plain, VectorOptions, "options"))
    return ImageFeatureExtraction(Pictures(build(plain, PictureOptions, "options"), inputs), form)
