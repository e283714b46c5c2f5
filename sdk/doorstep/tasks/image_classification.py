"""image-classification: a picture to labels and scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.results import Classification
from doorstep.tasks.labelling import Labeller, Labelling, LabellingOptions, strict_options
from doorstep.tasks.pictures import PictureOptions, Pictures
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.pictures import PicturePieces


class ImageClassification(Labelling):
    """Paths, bytes, PIL pictures or arrays [height, width, 3] uint8 to classifications."""

    def __init__(self, pictures: Pictures, labeller: Labeller) -> None:
        self._pictures = pictures
        self._labeller = labeller

    def prepare(self, items: Sequence[Any]) -> Sequence[Array]:
        return [self._pictures.see(item, place).pixels for place, item in enumerate(items)]

    def length(self, row: Array) -> int:
        return 0

    def collate(self, rows: Sequence[Array]) -> Feeds:
        return self._pictures.collate(rows)

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Classification]:
        return self._labeller.classify(next(iter(fetches.values())))

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "PicturePieces":
        """Take what the model sees of a picture to tiles, for `explain`."""
        from doorstep.pieces.pictures import PicturePieces

        return PicturePieces(self._pictures.see(item, 0), max_parts)


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> ImageClassification:
    """Load preprocessing and labels from the bundle."""
    known = {*PictureOptions._fields, *LabellingOptions._fields}
    plain = strict_options(bundle.manifest.options, overrides, known)
    labeller = Labeller(build(plain, LabellingOptions, "options"))
    return ImageClassification(Pictures(build(plain, PictureOptions, "options"), inputs), labeller)
