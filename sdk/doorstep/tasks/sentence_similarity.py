"""sentence-similarity: a text to a vector. Pooling is in the graph; cutting, scaling and quantizing happen here."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError, InputError
from doorstep.results import Vector
from doorstep.tasks.labelling import strict_options
from doorstep.tasks.text import TextEncoder
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

PRECISIONS = ("float32", "int8", "binary")


class SentenceOptions(NamedTuple):
    """Options of sentence-similarity.

    Attributes:
        max_length: tokens kept of a text, special tokens included.
        is_normalized: vectors have length 1.
        dimensions: numbers kept of each vector, from the first on (Kusupati et al. 2022); 0 for all.
        precision: `float32`; `int8`, scaled by each vector's largest number; `binary`, one bit a number, eight a byte.
        prompts: name to the text put before an item.
        default_prompt: the prompt of an item that names none; "" for none.
        tokenizer: path of the tokenizer in the bundle.
    """

    max_length: int
    is_normalized: bool = True
    dimensions: int = 0
    precision: str = "float32"
    prompts: Mapping[str, str] = MappingProxyType({})
    default_prompt: str = ""
    tokenizer: str = "tokenizer.json"


class SentenceSimilarity:
    """Texts, or `{"text": …, "prompt": name}`, to vectors."""

    def __init__(self, encoder: TextEncoder, options: SentenceOptions) -> None:
        if options.precision not in PRECISIONS:
            raise FormatError(f"precision: expected {', '.join(PRECISIONS)}, got {options.precision!r}")
        if options.default_prompt and options.default_prompt not in options.prompts:
            raise FormatError(f"default_prompt: no prompt named {options.default_prompt!r}")
        if options.dimensions < 0 or (options.precision == "binary" and options.dimensions % 8):
            raise FormatError(f"dimensions: expected 0 or more, for binary a multiple of 8, got {options.dimensions}")
        self._encoder = encoder
        self._options = options

    def prepare(self, items: Sequence[Any]) -> Sequence[Encoding]:
        return self._encoder.encode([self._text(item, place) for place, item in enumerate(items)])

    def length(self, row: Encoding) -> int:
        return len(row)

    def collate(self, rows: Sequence[Encoding]) -> Feeds:
        return self._encoder.collate(rows)

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Vector]:
        pooled = self.vectors(fetches)
        if self._options.precision == "int8":
            scales = np.maximum(np.abs(pooled).max(axis=1), 1e-12) / 127  # [batch]
            whole = np.rint(pooled / scales[:, None]).astype(int)
            return [
                Vector(tuple(row), "int8", float(scale))
                for row, scale in zip(whole.tolist(), scales.tolist(), strict=True)
            ]
        if self._options.precision == "binary":
            return [Vector(tuple(row), "binary") for row in np.packbits(pooled > 0, axis=1).tolist()]
        return [Vector(tuple(row)) for row in pooled.tolist()]

    def vectors(self, fetches: Fetches) -> Array:
        """Return vectors [batch, dimensions] float32, cut and scaled."""
        pooled = next(iter(fetches.values())).astype(np.float32, copy=False)
        wanted = self._options.dimensions
        if wanted > pooled.shape[1]:
            raise FormatError(f"dimensions: the model gives {pooled.shape[1]}, got {wanted}")
        pooled = pooled[:, :wanted] if wanted else pooled
        if self._options.is_normalized:
            lengths = np.sqrt(np.square(pooled).sum(axis=1, keepdims=True))
            pooled = pooled / np.maximum(lengths, 1e-12)
        return pooled

    def _text(self, item: Any, place: int) -> Any:
        prompt = self._options.default_prompt
        if isinstance(item, dict):
            if not item.keys() <= {"text", "prompt"} or "text" not in item:
                raise InputError(f"item {place}: expected text and prompt, got {', '.join(map(str, item))[:80]}")
            prompt, item = item.get("prompt", prompt), item["text"]
            if prompt not in self._options.prompts and prompt:
                known = ", ".join(self._options.prompts) or "none"
                raise InputError(f"item {place}: expected one of the prompts {known}, got {prompt!r:.60}")
        if not isinstance(item, str):
            return item  # refused by the encoder, which knows its place
        return self._options.prompts.get(prompt, "") + item


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> SentenceSimilarity:
    """Load the tokenizer from the bundle."""
    plain = strict_options(bundle.manifest.options, overrides, set(SentenceOptions._fields))
    options = build(plain, SentenceOptions, "options")
    encoder = TextEncoder.from_bytes(bundle.read(options.tokenizer), options.max_length, inputs)
    return SentenceSimilarity(encoder, options)
