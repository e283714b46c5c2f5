"""Frames to text: connectionist temporal classification, decoded greedily, with times.

Graves et al., "Connectionist Temporal Classification", ICML 2006: section 3.2 (best path) and 4.1 (forward variables,
by which the words of a list are weighed against each other).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from doorstep.errors import FormatError
from doorstep.results import Transcript, Word
from doorstep.tasks import softmax
from doorstep.tensors import Array

_NEVER = -1e30
_UNSPACED = (("\u3040", "\u30ff"), ("\u3400", "\u4dbf"), ("\u4e00", "\u9fff"), ("\U00020000", "\U0003ffff"))


class CtcOptions(NamedTuple):
    """How frames become text.

    Attributes:
        tokens: what each class writes, in the order of the logits; "" writes nothing.
        blank: the class between tokens.
        frame_seconds: from one frame to the next.
        delimiter: the token between words; "" where there is none.
        words: the only words there are; empty for any.
    """

    tokens: tuple[str, ...]
    blank: int
    frame_seconds: float
    delimiter: str = "|"
    words: tuple[str, ...] = ()


class _Piece(NamedTuple):
    """A token that was read: its class, frames and mean probability."""

    place: int
    start: int
    end: int
    score: float


class Spoken(NamedTuple):
    """A word that was read: its name, `text` or `text#2` for the second such, and where its tokens stand."""

    name: str
    text: str
    pieces: tuple[_Piece, ...]


class CtcDecoder:
    """Turns the logits of one recording into a transcript."""

    def __init__(self, options: CtcOptions) -> None:
        if not 0 <= options.blank < len(options.tokens) or not options.frame_seconds > 0:
            raise FormatError(f"tokens: expected a blank among {len(options.tokens)} of them, got {options.blank}")
        self._options = options
        places = {token: place for place, token in reversed(list(enumerate(options.tokens))) if token}
        self._words = {}
        for word in options.words:
            if not word or any(letter not in places for letter in word):
                raise FormatError(f"words: the model has no tokens to write {word!r:.60}")
            self._words[word] = [places[letter] for letter in word]

    def transcript(self, logits: Array) -> Transcript:
        """Return what was said; `logits` [frames, tokens]."""
        if logits.ndim != 2 or logits.shape[1] != len(self._options.tokens):
            raise FormatError(f"tokens: expected {len(self._options.tokens)} logits a frame, got {list(logits.shape)}")
        probabilities = softmax(logits.astype(np.float32))  # [frames, tokens]
        pieces = self._best_path(probabilities)
        words = [self._word(group, probabilities) for group in self._groups(pieces)]
        scores = [word.score for word in words]
        if not words:
            return Transcript("", self._silence(probabilities), ())
        if self._words:
            text = " ".join(word.text for word in words)
        else:
            written = (self._options.tokens[piece.place] for piece in pieces)
            text = " ".join("".join(" " if self._is_delimiter(token) else token for token in written).split())
        return Transcript(text, float(np.mean(scores)), tuple(words))

    def spoken(self, logits: Array) -> list[Spoken]:
        """Return the words of a recording with what they were read from; `logits` [frames, tokens]."""
        probabilities = softmax(logits.astype(np.float32))  # [frames, tokens]
        found: list[Spoken] = []
        for group in self._groups(self._best_path(probabilities)):
            text = self._word(group, probabilities).text
            before = sum(word.text == text for word in found)
            found.append(Spoken(f"{text}#{before + 1}" if before else text, text, tuple(group)))
        return found

    def chance(self, logits: Array, words: Sequence[Spoken]) -> float:
        """Return the mean score of words at their place in other frames of the same length; of none, that of silence.

        Unlike a transcript's score it takes all frames of a token, not the surest one: of a long tone any single frame
        can be missed.
        """
        probabilities = softmax(logits.astype(np.float32))  # [frames, tokens]
        if not words:
            return self._silence(probabilities)
        return float(np.mean([self._heard(word, probabilities) for word in words]))

    def _heard(self, word: Spoken, probabilities: Array) -> float:
        if self._words:
            return self._shares(word.pieces, probabilities)[word.text]
        return float(np.mean([probabilities[p.start : p.end, p.place].mean() for p in word.pieces]))

    def _silence(self, probabilities: Array) -> float:
        return float(probabilities[:, self._options.blank].min()) if len(probabilities) else 1.0

    def _is_delimiter(self, token: str) -> bool:
        return bool(token) and token == self._options.delimiter

    def _best_path(self, probabilities: Array) -> list[_Piece]:
        best = probabilities.argmax(axis=1)  # [frames]
        edges = np.flatnonzero(np.diff(best, prepend=-1, append=-1))  # where a run begins, and the end
        pieces = []
        for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            place = int(best[start])
            if place != self._options.blank:
                pieces.append(_Piece(place, start, end, float(probabilities[start:end, place].max())))
        return pieces

    def _groups(self, pieces: Sequence[_Piece]) -> list[list[_Piece]]:
        """Split at delimiters, and around characters that are written without spaces."""
        groups: list[list[_Piece]] = [[]]
        for piece in pieces:
            token = self._options.tokens[piece.place]
            if self._is_delimiter(token):
                groups.append([])
            elif _is_unspaced(token):
                groups += [[piece], []]
            elif token:
                groups[-1].append(piece)
        return [group for group in groups if group]

    def _word(self, group: Sequence[_Piece], probabilities: Array) -> Word:
        text = "".join(self._options.tokens[piece.place] for piece in group)
        score = float(np.mean([piece.score for piece in group]))
        first, last = group[0].start, group[-1].end
        if self._words:
            shares = self._shares(group, probabilities)
            text = max(shares, key=lambda word: shares[word])
            score = shares[text]
        seconds = self._options.frame_seconds
        return Word(text, round(first * seconds, 3), round(last * seconds, 3), score)

    def _shares(self, group: Sequence[_Piece], probabilities: Array) -> dict[str, float]:
        """Weigh the words of the list against each other where a group of tokens stands."""
        window = np.log(np.maximum(probabilities[max(0, group[0].start - 2) : group[-1].end + 2], 1e-12))
        likelihoods = [_likelihood(window, places, self._options.blank) for places in self._words.values()]
        return dict(zip(self._words, softmax(np.array(likelihoods, np.float32)).tolist(), strict=True))


def _likelihood(log_probabilities: Array, places: Sequence[int], blank: int) -> float:
    """Return the log probability that frames [frames, tokens] say exactly these tokens (the forward algorithm)."""
    states = [blank]
    for place in places:
        states += [place, blank]
    emitted = log_probabilities[:, states]  # [frames, states]
    can_skip = np.array([n > 1 and states[n] not in (blank, states[n - 2]) for n in range(len(states))])
    alpha = np.full(len(states), _NEVER)
    alpha[:2] = emitted[0, :2]
    for frame in emitted[1:]:
        one = np.concatenate([[_NEVER], alpha[:-1]])
        two = np.where(can_skip, np.concatenate([[_NEVER, _NEVER], alpha[:-2]]), _NEVER)
        alpha = np.logaddexp(np.logaddexp(alpha, one), two) + frame
    return float(np.logaddexp(alpha[-1], alpha[-2]))


def _is_unspaced(token: str) -> bool:
    return len(token) == 1 and any(first <= token <= last for first, last in _UNSPACED)
