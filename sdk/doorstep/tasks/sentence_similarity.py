"""sentence-similarity: a text to a vector. Pooling is in the graph; cutting, scaling and quantizing happen here."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Encoding

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError, InputError
from doorstep.given import names_of, told
from doorstep.results import Vector
from doorstep.tasks.labelling import strict_options
from doorstep.tasks.text import TextEncoder
from doorstep.tasks.vectors import Comparing, VectorForm, VectorOptions
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.texts import TextPieces


class SentenceOptions(NamedTuple):
    """Options of sentence-similarity.

    Attributes:
        max_length: tokens kept of a text, special tokens included.
        is_normalized, dimensions, precision: as in `VectorOptions`.
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


class SentenceSimilarity(Comparing):
    """Texts, or `{"text": …, "prompt": name}`, to vectors."""

    def __init__(self, encoder: TextEncoder, options: SentenceOptions) -> None:
        if options.default_prompt and options.default_prompt not in options.prompts:
            raise FormatError(f"default_prompt: no prompt named {options.default_prompt!r}")
        self._form = VectorForm(VectorOptions(options.is_normalized, options.dimensions, options.precision))
        self._encoder = encoder
        self._options = options

    def prepare(self, items: Sequence[Any]) -> Sequence[Encoding]:
        return self._encoder.encode([self._text(item, place) for place, item in enumerate(items)])

    def length(self, row: Encoding) -> int:
        return len(row)

    def collate(self, rows: Sequence[Encoding]) -> Feeds:
        return self._encoder.collate(rows)

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Vector]:
        return self._form.results(fetches)

    def vectors(self, fetches: Fetches) -> Array:
        """Return vectors [batch, dimensions] float32, cut and scaled."""
        return self._form.vectors(fetches)

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "TextPieces":
        """Take a text to its words, for `explain`; its prompt stays whole."""
        from doorstep.pieces.texts import TextPieces

        text = item["text"] if isinstance(item, dict) and "text" in item else item
        if not isinstance(text, str):
            raise InputError(f"item: expected a text (str), got {type(text).__name__}")

        def row_of(left: str) -> Encoding:
            return self.prepare([{**item, "text": left} if isinstance(item, dict) else left])[0]

        return TextPieces(text, max_parts, row_of)

    def _text(self, item: Any, place: int) -> Any:
        prompt = self._options.default_prompt
        if isinstance(item, dict):
            if not item.keys() <= {"text", "prompt"} or "text" not in item:
                raise InputError(f"item {place}: expected text and prompt, got {names_of(item)}")
            prompt, item = item.get("prompt", prompt), item["text"]
            prompt = "" if prompt is None else prompt
            if not isinstance(prompt, str) or (prompt and prompt not in self._options.prompts):
                known = ", ".join(self._options.prompts) or "none"
                raise InputError(f"item {place}: prompt: expected one of the prompts {known}, got {told(prompt, 60)}")
        if not isinstance(item, str):
            return item  # refused by the encoder, which knows its place
        return self._options.prompts.get(prompt, "") + item


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> SentenceSimilarity:
    """Load the tokenizer from the bundle."""
    plain = strict_options(bundle.manifest.options, overrides, set(SentenceOptions._fields))
    options = build(plain, SentenceOptions, "options")
    encoder = TextEncoder.from_bytes(bundle.read(options.tokenizer), options.max_length, inputs)
    return SentenceSimilarity(encoder, options)
