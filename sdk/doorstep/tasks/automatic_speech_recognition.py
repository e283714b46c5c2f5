"""automatic-speech-recognition: a recording to what was said, with the time of every word (CTC)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import InputError
from doorstep.results import Heard, Transcript
from doorstep.sound.ctc import CtcDecoder, CtcOptions, Spoken
from doorstep.sound.items import SoundOptions, SoundReader
from doorstep.tasks.labelling import strict_options
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.sounds import SoundPieces

SILENCE = "silence"
"""What an explanation is about where nothing was said."""


class SpeechRecognition:
    """WAV bytes, paths or arrays to transcripts."""

    _asked: tuple[Spoken, ...] = ()
    _name = SILENCE

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

    def about(self, item: Any, label: str | None, run: "Run") -> Self:
        """Return this task with scores that are of one word, or of the whole transcript: where their tokens stand.

        Raises:
            InputError: no such word was heard.
        """
        from copy import copy  # a start does without it

        rows = self.prepare([item])
        frames = next(iter(run(self.collate(rows)).values()))[0]  # [frames, tokens]
        words = self._decoder.spoken(frames)
        name = self._decoder.transcript(frames).text or SILENCE
        chosen = words if label in (None, name) else [word for word in words if word.name == label]
        if not chosen and label not in (None, name):
            known = ", ".join(word.name for word in words) or SILENCE
            raise InputError(f"label: expected a word that was heard ({known:.200}), got {label!r:.60}")
        other = copy(self)
        other._asked, other._name = tuple(chosen), name if label is None else label
        return other

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "SoundPieces":
        """Take a recording to segments, for `explain`."""
        from doorstep.pieces.sounds import SoundPieces

        return SoundPieces(self._reader.read([item])[0], self._reader.options.rate, max_parts)

    def best(self, fetches: Fetches, rows: Sequence[Array]) -> str:
        """Return the transcript, or the word that was asked for."""
        return self._name

    def scores(self, fetches: Fetches, rows: Sequence[Array], label: str) -> list[float]:
        """Return how surely each recording says, in the same frames, what was asked for."""
        logits = next(iter(fetches.values()))  # [batch, frames, tokens]
        return [self._decoder.chance(frames, self._asked) for frames in logits]

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
