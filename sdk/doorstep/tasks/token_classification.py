"""token-classification: a text to labelled spans with character offsets.

A text longer than the model reads is read in windows that overlap; a token is judged where it has most context.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError
from doorstep.results import Span, Spans
from doorstep.tasks import softmax
from doorstep.tasks.labelling import strict_options
from doorstep.tasks.text import TextEncoder
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

_IMPOSSIBLE = -1e9
# Thai, Lao, Burmese, Khmer, kana, Chinese ideographs, half-width kana
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff]"
)


class TokenOptions(NamedTuple):
    """Options of token-classification.

    Attributes:
        labels: the classes, in the order of the logits: `B-…`, `I-…` and `O`, or bare names and `O`.
        max_length: tokens of one window, special tokens included.
        stride: tokens that two windows share; None for a quarter of a window.
        word: which tokens speak for a word: `first`, or the `mean` of all.
        abstain_below: spans of a lower score are left out (0 to 1).
        tokenizer: path of the tokenizer in the bundle.
    """

    labels: tuple[str, ...]
    max_length: int
    stride: int | None = None
    word: str = "first"
    abstain_below: float = 0.0
    tokenizer: str = "tokenizer.json"


class Row(NamedTuple):
    """A text and the windows it is read in."""

    text: str
    windows: tuple[Encoding, ...]

    @property
    def ids(self) -> list[int]:
        """Token ids of the first window."""
        ids: list[int] = self.windows[0].ids
        return ids


class Decoder:
    """Turns the probabilities of tokens into spans.

    Words get the likeliest sequence of labels in which no `I-x` stands without `B-x` or `I-x` before it (Viterbi).
    """

    def __init__(self, options: TokenOptions) -> None:
        if len(set(options.labels)) != len(options.labels) or not options.labels:
            raise FormatError("labels: expected distinct names, at least one")
        if options.word not in ("first", "mean"):
            raise FormatError(f"word: expected first or mean, got {options.word!r}")
        self._options = options
        self._kinds = [_Kind.of(label) for label in options.labels]
        follows = [[after.may_follow(before) for after in self._kinds] for before in self._kinds]
        self._step = np.where(follows, 0.0, _IMPOSSIBLE).astype(np.float32)  # [before, after]
        starts = [kind.may_follow(_OUTSIDE) for kind in self._kinds]
        self._start = np.where(starts, 0.0, _IMPOSSIBLE).astype(np.float32)  # [labels]

    def spans(self, text: str, windows: Sequence[Encoding], probabilities: Sequence[Array]) -> Spans:
        """Return the spans of `text`; `probabilities` [tokens, labels] of each window."""
        words = self.words(text, windows, probabilities)
        if not words:
            return Spans(())
        table = np.array([word.probabilities for word in words], np.float32)  # [words, labels]
        places = self._best_path(np.log(np.maximum(table, 1e-12)))
        found: list[_Open] = []
        previous = _OUTSIDE
        for word, place in zip(words, places, strict=True):
            kind, score = self._kinds[place], float(word.probabilities[place])
            if kind.name and found and kind.continues(previous):
                found[-1].end = word.end
                found[-1].scores.append(score)
            elif kind.name:
                found.append(_Open(kind.name, word.start, word.end, [score]))
            previous = kind
        spans = (span.closed(text) for span in found)
        return Spans(tuple(span for span in spans if span.text and span.score >= self._options.abstain_below))

    def words(self, text: str, windows: Sequence[Encoding], probabilities: Sequence[Array]) -> list["Word"]:
        """Join tokens to words, each taken from the window where it lies deepest; returns them by their places."""
        tokens: dict[tuple[int, int, int], tuple[int, int | None, Array]] = {}
        for window, rows in zip(windows, probabilities, strict=True):
            last = len(window) - 1
            seen: dict[tuple[int, int], int] = {}
            special = window.special_tokens_mask
            for place, (offsets, word) in enumerate(zip(window.offsets, window.word_ids, strict=True)):
                if special[place] or offsets[0] == offsets[1]:
                    continue
                count = seen[offsets] = seen.get(offsets, -1) + 1  # bytes of one character share its offsets
                depth, key = min(place, last - place), (*offsets, count)
                if key not in tokens or depth > tokens[key][0]:
                    tokens[key] = (depth, word, rows[place])
        words: list[Word] = []
        for (start, end, _), (_, word, row) in sorted(tokens.items(), key=lambda entry: entry[0]):
            if words and word == words[-1].number and is_joined(text, words[-1].end, start):
                words[-1].add(end, row, self._options.word)
            else:
                words.append(Word(start, end, word, row))
        return words

    def _best_path(self, scores: Array) -> list[int]:
        """Return the likeliest label of each word; `scores` [words, labels] are logarithms (Viterbi 1967)."""
        best = self._start + scores[0]  # [labels]
        came: list[Array] = []
        for row in scores[1:]:
            reached = best[:, None] + self._step  # [before, after]
            came.append(reached.argmax(axis=0))
            best = reached.max(axis=0) + row
        path = [int(best.argmax())]
        for back in reversed(came):
            path.append(int(back[path[-1]]))
        return path[::-1]


def is_joined(text: str, end: int, start: int) -> bool:
    """Tell whether a token from `start` on goes on with the word that reaches to `end`.

    Scripts without spaces and signs such as emoji make no words: a byte-level tokenizer takes a whole Chinese
    sentence for one. Tokens that are bytes of one character always belong together.
    """
    return start < end or (0 < start == end and _makes_words(text[start - 1]) and _makes_words(text[start]))


def _makes_words(character: str) -> bool:
    is_letter = character.isalnum() or unicodedata.category(character).startswith("M")
    return is_letter and not _SPACELESS.match(character)


class TokenClassification:
    """Texts to spans."""

    def __init__(self, encoder: TextEncoder, decoder: Decoder) -> None:
        self._encoder = encoder
        self._decoder = decoder

    def prepare(self, items: Sequence[Any]) -> Sequence[Row]:
        encoded = self._encoder.encode(items, has_offsets=True)
        return [Row(text, (one, *one.overflowing)) for text, one in zip(items, encoded, strict=True)]

    def length(self, row: Row) -> int:
        return sum(map(len, row.windows))

    def collate(self, rows: Sequence[Row]) -> Feeds:
        return self._encoder.collate([window for row in rows for window in row.windows])

    def results(self, fetches: Fetches, rows: Sequence[Row] = ()) -> list[Spans]:
        probabilities = softmax(next(iter(fetches.values())))  # [windows, sequence, labels]
        found, start = [], 0
        for row in rows:
            stop = start + len(row.windows)
            found.append(self._decoder.spans(row.text, row.windows, list(probabilities[start:stop])))
            start = stop
        return found


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> TokenClassification:
    """Load tokenizer and labels from the bundle."""
    plain = strict_options(bundle.manifest.options, overrides, set(TokenOptions._fields))
    options = build(plain, TokenOptions, "options")
    stride = options.max_length // 4 if options.stride is None else options.stride
    if not 0 <= stride <= options.max_length // 2:
        raise FormatError(f"stride: expected 0 to half of max_length {options.max_length}, got {stride}")
    encoder = TextEncoder.from_bytes(bundle.read(options.tokenizer), options.max_length, inputs, stride)
    return TokenClassification(encoder, Decoder(options))


class _Kind(NamedTuple):
    """A label taken apart: `B-price` is ("B", "price"), a bare `price` ("", "price"), `O` ("", "")."""

    prefix: str
    name: str

    @classmethod
    def of(cls, label: str) -> "_Kind":
        if label == "O":
            return _OUTSIDE
        prefix, dash, name = label.partition("-")
        return cls(prefix, name) if dash and prefix in ("B", "I") else cls("", label)

    def may_follow(self, before: "_Kind") -> bool:
        return self.prefix != "I" or (before.name == self.name and before.prefix in ("B", "I"))

    def continues(self, before: "_Kind") -> bool:
        return self.prefix != "B" and before.name == self.name


_OUTSIDE = _Kind("", "")


class Word:
    """Tokens of one word: characters from `start` to `end`, and who speaks for them."""

    def __init__(self, start: int, end: int, number: int | None, probabilities: Array) -> None:
        self.start, self.end, self.number, self.probabilities = start, end, number, probabilities
        self._count = 1

    def add(self, end: int, probabilities: Array, word: str) -> None:
        self.end = max(self.end, end)
        if word == "mean":
            self.probabilities = (self.probabilities * self._count + probabilities) / (self._count + 1)
        self._count += 1


class _Open:
    """A span that may still grow."""

    def __init__(self, label: str, start: int, end: int, scores: list[float]) -> None:
        self.label, self.start, self.end, self.scores = label, start, end, scores

    def closed(self, text: str) -> Span:
        """Return the span without the white space some tokenizers count to a word."""
        piece = text[self.start : self.end]
        start = self.start + len(piece) - len(piece.lstrip())
        kept = piece.strip()
        return Span(self.label, start, start + len(kept), kept, sum(self.scores) / len(self.scores))
