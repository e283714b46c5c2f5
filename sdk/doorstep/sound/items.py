"""What users give for sound to waveforms: WAV bytes, a path, an array with its rate."""

import io
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from doorstep.errors import FormatError, InputError
from doorstep.given import told
from doorstep.results import Heard
from doorstep.sound.resample import resample
from doorstep.sound.voice import Voice, utterances
from doorstep.sound.wave import MOST_CHANNELS, Recording, check_rate, read_wave
from doorstep.tensors import Array, Feeds, TensorSpec

FEEDS = ("waveform", "lengths")
_LOUDEST = 10.0  # of floating-point samples, which belong between -1 and 1
_LONGEST_CHUNK = 600.0  # seconds of a stream's chunk
_KEYS = {"array", "sampling_rate"}


class SoundOptions(NamedTuple):
    """How sound becomes a tensor.

    Attributes:
        rate: samples a second that the model reads.
        max_seconds: longest recording that is answered.
        min_samples: a shorter one is filled up with silence.
        voice: how a stream is cut into utterances.
    """

    rate: int
    max_seconds: float = 30.0
    min_samples: int = 1
    voice: Voice = Voice()


class SoundReader:
    """Items to rows (float32 [samples] at the model's rate), rows to feeds."""

    def __init__(self, options: SoundOptions, inputs: Sequence[TensorSpec]) -> None:
        if not 1 <= options.rate <= 192_000 or not 0 < options.max_seconds <= 3600 or options.min_samples < 1:
            raise FormatError(
                f"options: no model reads {options.rate} samples a second, {options.max_seconds} s of them"
            )
        if sorted(spec.name for spec in inputs) != sorted(FEEDS):
            raise FormatError(f"inputs: sound gives {', '.join(FEEDS)}, got {', '.join(spec.name for spec in inputs)}")
        self.options = options
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in inputs}

    def read(self, items: Sequence[Any]) -> list[Array]:
        """Turn items into waveforms.

        Raises:
            InputError: an item is no sound, or none that is read; its place is named.
        """
        rows = []
        for place, item in enumerate(items):
            try:
                rows.append(self._waveform(item))
            except InputError as error:
                raise InputError(f"item {place}: {error}") from error
        return rows

    def collate(self, rows: Sequence[Array]) -> Feeds:
        """Fill rows up to the longest: `waveform` [batch, samples] and `lengths` [batch]."""
        longest = max(self.options.min_samples, *map(len, rows))
        waveform = np.zeros((len(rows), longest), self._dtypes["waveform"])  # [batch, samples]
        for place, row in enumerate(rows):
            waveform[place, : len(row)] = row
        lengths = [max(len(row), self.options.min_samples) for row in rows]
        return {"waveform": waveform, "lengths": np.array(lengths, self._dtypes["lengths"])}

    def listen(
        self, chunks: Iterable[Any], predict: Callable[[Any], Any], on_error: str = "raise"
    ) -> Iterator[Heard | InputError]:
        """Cut a stream into utterances and answer each as soon as it ends; a bare array has the model's own rate.

        Args:
            on_error: `return` yields the error of a wrong chunk and listens on.

        Raises:
            InputError: a chunk is no sound, or of another rate than the first.
        """
        options = self.options

        def read(chunk: Any) -> Recording:
            return recording_of(chunk, options.rate, _LONGEST_CHUNK)

        for found in utterances(chunks, read, options.voice, options.max_seconds):
            if not isinstance(found, InputError):
                samples, rate = found.recording
                yield Heard(found.start, found.end, predict({"array": samples, "sampling_rate": rate}))
            elif on_error == "return":
                yield found
            else:
                raise found

    def _waveform(self, item: Any) -> Array:
        samples, rate = recording_of(item, self.options.rate, self.options.max_seconds)
        return np.ascontiguousarray(resample(samples, rate, self.options.rate))


def recording_of(item: Any, rate: int, most_seconds: float) -> Recording:
    """Return an item as sound in one channel at its own rate; `rate` is that of a bare array.

    Raises:
        InputError: it is no sound.
    """
    if isinstance(item, bytes):
        found = read_wave(io.BytesIO(item), most_seconds)
    elif isinstance(item, (str, Path)):
        found = _open(item, most_seconds)
    elif isinstance(item, np.ndarray):
        found = Recording(_one_channel(item, rate, most_seconds), rate)
    elif isinstance(item, dict) and item.keys() == _KEYS:
        array, rate = item["array"], item["sampling_rate"]
        if not isinstance(rate, (int, np.integer)) or isinstance(rate, bool) or not isinstance(array, np.ndarray):
            raise InputError(
                f"expected an array and a whole number of samples a second, got {type(array).__name__} and {told(rate)}"
            )
        check_rate(int(rate))
        found = Recording(_one_channel(array, int(rate), most_seconds), int(rate))
    else:
        raise InputError(
            f"expected the bytes of a WAV file, a path, an array or {{'array': …, 'sampling_rate': …}}, "
            f"got {type(item).__name__}"
        )
    if not np.isfinite(found.samples).all():
        raise InputError("expected finite samples, got NaN or infinity among them")
    loudest = float(np.abs(found.samples).max())
    if loudest > _LOUDEST:
        raise InputError(f"expected samples from -1 to 1, got {loudest:.6g}; divide them, or give them as int16")
    return found


def _open(path: str | Path, most_seconds: float) -> Recording:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):  # a pipe would be waited for
            raise InputError(f"{path}: expected a file")
        with open(path, "rb") as file:
            return read_wave(file, most_seconds)
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r:.200}: cannot be read ({error!s:.120})") from error


def _one_channel(array: Array, rate: int, most_seconds: float) -> Array:
    """Return float32 [samples]; of [channels, samples] or [samples, channels] the shorter axis is the channels."""
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(f"expected an array [samples] or [channels, samples], got {list(array.shape)}")
    if array.ndim == 2 and min(array.shape) > MOST_CHANNELS:
        raise InputError(f"expected at most {MOST_CHANNELS} channels, got {list(array.shape)}")
    if max(array.shape) > most_seconds * rate:
        raise InputError(f"expected at most {most_seconds:g} s of sound, got {max(array.shape) / rate:.1f} s; cut it")
    samples: Array
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is refused
            samples = array.astype(np.float32)
    elif array.dtype == np.uint8:
        samples = (array.astype(np.float32) - 128) / 128
    elif array.dtype.kind == "i":
        samples = array.astype(np.float32) / np.float32(-float(np.iinfo(array.dtype).min))
    else:
        raise InputError(f"expected an array of int16, int32 or float32, got {array.dtype}")
    if samples.ndim == 2:
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    return samples
