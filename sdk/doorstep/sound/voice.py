"""A stream of sound to utterances: a ring of short frames, and their energy against that of the background.

A frame is voice when its energy stands out from the least energy of the last two seconds (minimum statistics: Martin,
"Noise Power Spectral Density Estimation Based on Optimal Smoothing and Minimum Statistics", 2001). What is cut depends
on the samples alone, never on the chunks they come in, and memory never grows.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from doorstep.errors import InputError
from doorstep.sound.wave import Recording
from doorstep.tensors import Array

_FRAMES = 100  # a second
_QUIETEST = -100.0  # dB against full scale
_BACKGROUND = 200  # frames in which the background is looked for
_PRIOR = 10.0  # dB above the quietest voice: the loudest background that the first frame is believed to be


class Voice(NamedTuple):
    """What counts as an utterance.

    Attributes:
        above_db: a frame is voice when its energy is so far above the background's.
        quietest_db: and above this, against full scale.
        begin: seconds of voice after which an utterance begins.
        pause: seconds without voice after which it ends.
        around: seconds kept before and after it.
    """

    above_db: float = 9.0
    quietest_db: float = -55.0
    begin: float = 0.03
    pause: float = 0.25
    around: float = 0.08


class Utterance(NamedTuple):
    """A stretch of a stream; `start` and `end` in seconds from its beginning."""

    start: float
    end: float
    recording: Recording


def utterances(
    chunks: Iterable[Any], read: Callable[[Any], Recording], voice: Voice, most_seconds: float
) -> Iterator[Utterance | InputError]:
    """Yield every utterance as soon as it ends, or is as long as may be answered at once.

    A chunk that is no sound, or of another rate than the first, gives an error that names its place; listening goes on.

    Args:
        read: a chunk to sound in one channel.
    """
    cutter: _Cutter | None = None
    for place, chunk in enumerate(chunks):
        try:
            samples, rate = read(chunk)
            if cutter is None:
                cutter = _Cutter(rate, voice, most_seconds)
            if rate != cutter.rate:
                raise InputError(f"expected {cutter.rate} samples a second as before, got {rate}")
        except InputError as error:
            wrong = InputError(f"chunk {place}: {error}")
            wrong.__cause__ = error
            yield wrong
            continue
        yield from cutter.take(samples)
    if cutter is not None:
        yield from cutter.finish()


class _Cutter:
    """Holds the last frames of a stream and knows whether someone is speaking."""

    def __init__(self, rate: int, voice: Voice, most_seconds: float) -> None:
        self.rate = rate
        self._voice = voice
        self._width = rate // _FRAMES
        self._begin, self._pause, self._around = (
            max(1, round(seconds * _FRAMES)) for seconds in (voice.begin, voice.pause, voice.around)
        )
        self._most = max(1, int(most_seconds * _FRAMES) - 1)
        self._ring = np.zeros((self._most + self._begin + self._around + self._pause, self._width), np.float32)
        self._part = np.zeros(0, np.float32)  # samples of the frame that is not full yet
        self._count = 0  # frames taken
        self._levels: Array | None = None  # dB of the last frames
        self._voiced = self._unvoiced = 0  # frames in a row
        self._start: int | None = None  # first frame of the open utterance
        self._end = 0  # last frame of the utterance before, so that none is heard twice

    def take(self, samples: Array) -> Iterator[Utterance]:
        width = self._width
        if len(self._part):
            missing = width - len(self._part)
            self._part, samples = np.concatenate([self._part, samples[:missing]]), samples[missing:]
            if len(self._part) < width:
                return
            yield from self._frame(self._part)
        full = len(samples) // width * width
        for frame in samples[:full].reshape(-1, width):
            yield from self._frame(frame)
        self._part = samples[full:].copy()

    def finish(self) -> Iterator[Utterance]:
        """Yield the utterance that the end of the stream cut short."""
        if self._start is not None:
            yield self._utterance(self._start, self._count)

    def _frame(self, frame: Array) -> Iterator[Utterance]:
        self._ring[self._count % len(self._ring)] = frame
        self._count += 1
        is_voice = self._hear(frame)
        self._voiced, self._unvoiced = (self._voiced + 1, 0) if is_voice else (0, self._unvoiced + 1)
        if self._start is None:
            if self._voiced >= self._begin:
                self._start = max(self._end, self._count - self._begin - self._around)
        elif self._unvoiced >= self._pause:
            yield self._utterance(self._start, self._count - max(0, self._pause - self._around))
        elif self._count - self._start >= self._most:
            yield self._utterance(self._start, self._count)

    def _hear(self, frame: Array) -> bool:
        """Tell whether a frame is voice."""
        energy = float(np.dot(frame, frame)) / len(frame)
        level = max(_QUIETEST, 10 * float(np.log10(energy + 1e-12)))
        if self._levels is None:  # a stream that begins within a word must not take it for the background
            self._levels = np.full(_BACKGROUND, min(level, self._voice.quietest_db + _PRIOR))
        self._levels[self._count % _BACKGROUND] = level
        return level > max(float(self._levels.min()) + self._voice.above_db, self._voice.quietest_db)

    def _utterance(self, start: int, end: int) -> Utterance:
        frames = self._ring[np.arange(start, end) % len(self._ring)]
        self._start, self._end, self._voiced = None, end, 0
        seconds = self._width / self.rate  # of a frame
        return Utterance(start * seconds, end * seconds, Recording(frames.reshape(-1), self.rate))
