"""audio-classification: a recording to labels and scores, for example a spoken command."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import InputError
from doorstep.results import Classification, Heard
from doorstep.sound.items import SoundOptions, SoundReader
from doorstep.tasks.labelling import Labeller, Labelling, LabellingOptions, strict_options
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.sounds import SoundPieces


class AudioClassification(Labelling):
    """WAV bytes, paths or arrays to classifications."""

    def __init__(self, reader: SoundReader, labeller: Labeller) -> None:
        self._reader = reader
        self._labeller = labeller

    def prepare(self, items: Sequence[Any]) -> Sequence[Array]:
        return self._reader.read(items)

    def length(self, row: Array) -> int:
        return len(row)

    def collate(self, rows: Sequence[Array]) -> Feeds:
        return self._reader.collate(rows)

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Classification]:
        return self._labeller.classify(next(iter(fetches.values())))  # [batch, classes]

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "SoundPieces":
        """Take a recording to segments, for `explain`."""
        from doorstep.pieces.sounds import SoundPieces

        return SoundPieces(self._reader.read([item])[0], self._reader.options.rate, max_parts)

    def listen(
        self, chunks: Iterable[Any], predict: Callable[[Any], Any], on_error: str = "raise"
    ) -> Iterator[Heard | InputError]:
        """Cut a stream into utterances and answer each."""
        return self._reader.listen(chunks, predict, on_error)


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> AudioClassification:
    """Load rate, bounds and labels from the bundle."""
    known = {*SoundOptions._fields, *LabellingOptions._fields}
    plain = strict_options(bundle.manifest.options, overrides, known)
    labeller = Labeller(build(plain, LabellingOptions, "options"))
    return AudioClassification(SoundReader(build(plain, SoundOptions, "options"), inputs), labeller)
