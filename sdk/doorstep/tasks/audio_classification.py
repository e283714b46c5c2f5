"""audio-classification: a recording to labels and scores, for example a spoken command."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.results import Classification, Heard
from doorstep.sound.items import SoundOptions, SoundReader
from doorstep.tasks.labelling import Labeller, LabellingOptions, strict_options
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec


class AudioClassification:
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

    def of_every_label(self) -> "AudioClassification":
        """Return this task with results that list every class."""
        return AudioClassification(self._reader, self._labeller.of_every_label())

    def waveform(self, item: Any) -> Array:
        """Return an item as the model hears it: float32 [samples] at `rate`."""
        return self._reader.read([item])[0]

    @property
    def rate(self) -> int:
        """Samples a second that the model reads."""
        return self._reader.options.rate

    def listen(self, chunks: Iterable[Any], predict: Callable[[Any], Any]) -> Iterator[Heard]:
        """Cut a stream into utterances and answer each."""
        return self._reader.listen(chunks, predict)


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> AudioClassification:
    """Load rate, bounds and labels from the bundle."""
    known = {*SoundOptions._fields, *LabellingOptions._fields}
    plain = strict_options(bundle.manifest.options, overrides, known)
    labeller = Labeller(build(plain, LabellingOptions, "options"))
    return AudioClassification(SoundReader(build(plain, SoundOptions, "options"), inputs), labeller)
