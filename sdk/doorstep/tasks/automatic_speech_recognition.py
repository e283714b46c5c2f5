"""automatic-speech-recognition: a recording to what was said, with the time of every word (CTC)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import InputError
from doorstep.results import Heard, Transcript
from doorstep.sound.ctc import CtcDecoder, CtcOptions
from doorstep.sound.items import SoundOptions, SoundReader
from doorstep.tasks.labelling import strict_options
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec


class SpeechRecognition:
    """WAV bytes, paths or arrays to transcripts."""

    def __init__(self, reader: SoundReader, decoder: CtcDecoder) -> None:
        self._reader = reader
        self._decoder = decoder

    def prepare(self, items: Sequence[Any]) -> Sequence[Array]:
        return self._reader.read(items)

    def length(self, row: Array) -> int:
        return len(row)

    def collate(self, rows: Sequence[Array]) -> Feeds:
        return self._reader.collate(rows)

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Transcript]:
        logits = next(iter(fetches.values()))  # [batch, frames, tokens]; frames of padding are blank
        return [self._decoder.transcript(frames) for frames in logits]

    def listen(
        self, chunks: Iterable[Any], predict: Callable[[Any], Any], on_error: str = "raise"
    ) -> Iterator[Heard | InputError]:
        """Cut a stream into utterances and answer each."""
        return self._reader.listen(chunks, predict, on_error)


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> SpeechRecognition:
    """Load rate, bounds and tokens from the bundle."""
    known = {*SoundOptions._fields, *CtcOptions._fields}
    plain = strict_options(bundle.manifest.options, overrides, known)
    decoder = CtcDecoder(build(plain, CtcOptions, "options"))
    return SpeechRecognition(SoundReader(build(plain, SoundOptions, "options"), inputs), decoder)
