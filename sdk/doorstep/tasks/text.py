"""Texts to token ids, for every task that reads text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

from doorstep.errors import FormatError, InputError
from doorstep.tensors import Feeds, TensorSpec

MAX_CHARACTERS = 200_000
_SOURCES = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Feed to the attribute of an `Encoding` that holds it."""


class TextEncoder:
    """Runs a checkpoint's tokenizer and pads its rows.

    Args:
        tokenizer: with truncation set and padding off.
        inputs: the feeds a variant declares; their dtype and pad value are used.
    """

    def __init__(self, tokenizer: Tokenizer, inputs: Sequence[TensorSpec]) -> None:
        self._tokenizer = tokenizer
        unknown = sorted(spec.name for spec in inputs if spec.name not in _SOURCES)
        if unknown:
            raise FormatError(f"inputs: text gives {', '.join(_SOURCES)}, got {', '.join(unknown)}")
        self._columns = [_Column.of(spec) for spec in inputs]

    @classmethod
    def from_bytes(
        cls, data: bytes, max_length: int, inputs: Sequence[TensorSpec], stride: int = 0, is_pair: bool = False
    ) -> "TextEncoder":
        """Load a `tokenizer.json`; `stride` is how many tokens the windows of a long text share.

        `is_pair` tells that `encode_pairs` will be called: of two texts the longer one is cut.

        Raises:
            FormatError: the `tokenizers` library cannot read it, or `max_length` does not fit it or the model.
        """
        if any(isinstance(spec.shape[-1], int) and spec.shape[-1] < max_length for spec in inputs):
            raise FormatError(f"max_length: the model takes {inputs[0].shape[-1]} tokens, got {max_length}")
        try:
            tokenizer = Tokenizer.from_buffer(data)
            tokenizer.enable_truncation(max_length, stride=stride)
            tokenizer.no_padding()
        except Exception as error:  # tokenizers raises bare Exception
            raise FormatError(f"tokenizer: the tokenizers library cannot read it ({error!s:.200})") from error
        frame = tokenizer.num_special_tokens_to_add(is_pair)
        if max_length <= frame:
            raise FormatError(f"max_length: expected more than the {frame} special tokens, got {max_length}")
        return cls(tokenizer, inputs)

    def encode(self, texts: Sequence[Any], has_offsets: bool = False, first: int = 0) -> list[Encoding]:
        """Tokenize texts, truncated to the maximum length.

        Args:
            has_offsets: keep the characters each token covers.
            first: place of the first text among the items, for errors.

        Raises:
            InputError: an item is no text, or is longer than `MAX_CHARACTERS`.
        """
        for place, text in enumerate(texts, first):
            if type(text) is not str:
                _refuse_type(text, place)
            if len(text) > MAX_CHARACTERS:
                raise InputError(f"item {place}: expected at most {MAX_CHARACTERS} characters, got {len(text)}; cut it")
        try:
            if len(texts) == 1:
                return [self._tokenizer.encode(texts[0])]
            encode = self._tokenizer.encode_batch if has_offsets else self._tokenizer.encode_batch_fast
            return list(encode(list(texts)))
        except (TypeError, UnicodeEncodeError) as error:
            place = next((place for place, text in enumerate(texts, first) if _has_lone_surrogate(text)), first)
            raise _surrogate(place) from error

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], place: int) -> list[Encoding]:
        """Tokenize pairs of texts of the item at `place`; the caller has checked types and sizes.

        Raises:
            InputError: a text is no valid Unicode.
        """
        try:
            return list(self._tokenizer.encode_batch_fast(list(pairs)))
        except (TypeError, UnicodeEncodeError) as error:
            raise _surrogate(place) from error

    def collate(self, rows: Sequence[Encoding]) -> Feeds:
        """Pad rows to the longest; returns arrays [batch, sequence]."""
        longest = max(1, *map(len, rows))
        feeds = {}
        for name, attribute, dtype, pad, fixed in self._columns:
            width = fixed or longest
            if len(rows) == 1 and width == len(rows[0]):
                feeds[name] = np.array([getattr(rows[0], attribute)], dtype)  # [1, sequence]
                continue
            array = np.full((len(rows), width), pad, dtype)  # [batch, sequence]
            for place, row in enumerate(rows):
                array[place, : len(row)] = getattr(row, attribute)
            feeds[name] = array
        return feeds


class _Column(NamedTuple):
    """How one feed is made; `width` is 0 where the model takes any."""

    name: str
    attribute: str
    dtype: np.dtype[Any]
    pad: int
    width: int

    @classmethod
    def of(cls, spec: TensorSpec) -> "_Column":
        width = spec.shape[1] if isinstance(spec.shape[1], int) else 0
        return cls(spec.name, _SOURCES[spec.name], np.dtype(spec.dtype), spec.pad, width)


def _surrogate(place: int) -> InputError:
    return InputError(f"item {place}: expected valid Unicode, got half of a surrogate pair")


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _refuse_type(text: Any, place: int) -> None:
    hint = "; decode it: item.decode('utf-8')" if isinstance(text, (bytes, bytearray)) else ""
    if not isinstance(text, str):
        raise InputError(f"item {place}: expected a text (str), got {type(text).__name__}{hint}")
