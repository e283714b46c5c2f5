"""token-classification: a text to labelled spans with character offsets.

A text longer than the model reads is read in windows that overlap; a token is judged where it has most context. However
long texts are, the engine is given `MOST_WINDOWS` at once, and of a text of more no tokens are kept while it waits.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError, InputError
from doorstep.results import Span, Spans
from doorstep.tasks import softmax
from doorstep.tasks.labelling import strict_options
from doorstep.tasks.text import TextEncoder
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.spans import SpanPieces

MOST_WINDOWS = 32
"""Windows that one run of the engine is given."""

_IMPOSSIBLE = -1e9
_ENCODED_AT_ONCE = 50_000  # characters; their tokens and offsets take up to 250 bytes each
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
    """A text and the windows it is read in.

    Attributes:
        size: how many windows there are.
        tokens: of all windows together.
        windows: empty where there are more than `MOST_WINDOWS`; they are made again when the text is answered.
        asked: the span that an explanation is about.
        marks: where its words stand in this form of the text, None for one that is gone.
    """

    text: str
    size: int
    tokens: int
    windows: tuple[Encoding, ...]
    asked: str = ""
    marks: tuple[int | None, ...] = ()


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

    def chances(
        self, text: str, windows: Sequence[Encoding], probabilities: Sequence[Array], name: str
    ) -> list["Chance"]:
        """Return of each word how likely it is of a kind, whether first or further on; "" asks for no kind at all."""
        columns = [place for place, kind in enumerate(self._kinds) if kind.name == name]
        return [
            Chance(word.start, word.end, float(word.probabilities[columns].sum()))
            for word in self.words(text, windows, probabilities)
        ]

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


class Chance(NamedTuple):
    """A word, characters from `start` to `end`, and how likely it is of the kind that was asked for (0 to 1)."""

    start: int
    end: int
    score: float


class TokenClassification:
    """Texts to spans."""

    def __init__(self, encoder: TextEncoder, decoder: Decoder) -> None:
        self._encoder = encoder
        self._decoder = decoder

    def prepare(self, items: Sequence[Any]) -> Sequence[Row]:
        rows: list[Row] = []
        for start, stop in _parts([len(text) if isinstance(text, str) else 0 for text in items], _ENCODED_AT_ONCE):
            encoded = self._encoder.encode(items[start:stop], has_offsets=True, first=start)
            rows += [_row(text, (one, *one.overflowing)) for text, one in zip(items[start:stop], encoded, strict=True)]
        return rows

    def length(self, row: Row) -> int:
        return row.tokens

    def collate(self, rows: Sequence[Row]) -> Feeds:
        return self._encoder.collate([window for row in rows for window in self._windows(row)])

    def results(self, fetches: Fetches, rows: Sequence[Row] = ()) -> list[Spans]:
        probabilities = list(softmax(next(iter(fetches.values()))))  # of each window [sequence, labels]
        return self._spans(rows, [self._windows(row) for row in rows], probabilities)

    def answer(self, rows: Sequence[Row], run: Callable[[Feeds], Fetches]) -> list[Spans]:
        """Answer rows, `MOST_WINDOWS` of their windows a run."""
        found: list[Spans] = []
        for start, stop in _parts([row.size for row in rows], MOST_WINDOWS):
            windows = [self._windows(row) for row in rows[start:stop]]
            flat = [window for part in windows for window in part]
            probabilities: list[Array] = []
            for first in range(0, len(flat), MOST_WINDOWS):
                fetches = run(self._encoder.collate(flat[first : first + MOST_WINDOWS]))
                probabilities.extend(softmax(next(iter(fetches.values()))))  # of each window [sequence, labels]
            found += self._spans(rows[start:stop], windows, probabilities)
        return found

    def _spans(
        self, rows: Sequence[Row], windows: Sequence[Sequence[Encoding]], probabilities: Sequence[Array]
    ) -> list[Spans]:
        found, start = [], 0
        for row, part in zip(rows, windows, strict=True):
            stop = start + len(part)
            found.append(self._decoder.spans(row.text, part, probabilities[start:stop]))
            start = stop
        return found

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "SpanPieces":
        """Take a text to its words, for `explain`; a label is `12-18 price`, or `price` for its surest span.

        Raises:
            InputError: no such span was found.
        """
        from doorstep.pieces.spans import NOTHING, SpanPieces, choose, marks_of

        whole = self.prepare([item])[0]
        if whole.size > MOST_WINDOWS:
            raise InputError(
                f"text: expected at most {MOST_WINDOWS} windows to explain, got {whole.size}; explain a part of it"
            )
        fetches = run(self.collate([whole]))
        span = choose(self.results(fetches, [whole])[0], label)
        words = self._decoder.chances(whole.text, whole.windows, _by_row(fetches, [whole])[0], "")
        marks = marks_of(whole.text, words, span)
        asked = NOTHING if span is None else span.name

        def row_of(text: str, left: tuple[int | None, ...]) -> Row:
            row = self.prepare([text])[0]
            return row._replace(windows=self._windows(row), asked=asked, marks=left)

        return SpanPieces(whole.text, max_parts, asked, marks, row_of)

    def best(self, fetches: Fetches, rows: Sequence[Row]) -> str:
        """Return the span that `pieces` chose."""
        return rows[0].asked

    def scores(self, fetches: Fetches, rows: Sequence[Row], label: str) -> list[float]:
        """Return how likely the words of the span are of its kind, on average; a word that is gone counts 0.

        Of no span: how likely the words that are left are of no kind.
        """
        from doorstep.pieces.spans import kind_of, mean_score

        found = []
        for row, probabilities in zip(rows, _by_row(fetches, rows), strict=True):
            words = self._decoder.chances(row.text, row.windows, probabilities, kind_of(row.asked))
            found.append(mean_score(words, row.marks, row.asked))
        return found

    def _windows(self, row: Row) -> tuple[Encoding, ...]:
        if row.windows:
            return row.windows
        one = self._encoder.encode([row.text], has_offsets=True)[0]
        return (one, *one.overflowing)


def _by_row(fetches: Fetches, rows: Sequence[Row]) -> list[list[Array]]:
    """Return the probabilities of each row's windows, each [sequence, labels]."""
    probabilities = softmax(next(iter(fetches.values())))  # [windows, sequence, labels]
    found, start = [], 0
    for row in rows:
        found.append(list(probabilities[start : start + len(row.windows)]))
        start += len(row.windows)
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


def _row(text: str, windows: tuple[Encoding, ...]) -> Row:
    kept = windows if len(windows) <= MOST_WINDOWS else ()
    return Row(text, len(windows), sum(map(len, windows)), kept)


def _parts(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Yield places from and to, each part of `most` in all, or of one that is larger."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > most:
            yield start, place
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


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
