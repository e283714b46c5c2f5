"""text-classification: a text to labels and scores.

The checkpoint's own tokenizer runs here in the `tokenizers` library, token for token equal to transformers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Encoding

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import InputError
from doorstep.results import Classification
from doorstep.tasks.labelling import Labeller, Labelling, LabellingOptions, strict_options
from doorstep.tasks.text import TextEncoder
from doorstep.tensors import Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run, Shares
    from doorstep.pieces.texts import TextPieces


class TextOptions(NamedTuple):
    """Options of the text side.

    Attributes:
        max_length: tokens kept of a text, special tokens included.
        tokenizer: path of the tokenizer in the bundle.
        is_linear: the logits are one linear layer over the average of token vectors, so that explanations are exact.
    """

    max_length: int
    tokenizer: str = "tokenizer.json"
    is_linear: bool = False


class TextClassification(Labelling):
    """Texts to classifications."""

    def __init__(self, encoder: TextEncoder, labeller: Labeller, is_linear: bool = False) -> None:
        self._encoder = encoder
        self._labeller = labeller
        self._is_linear = is_linear

    def prepare(self, items: Sequence[Any]) -> Sequence[Encoding]:
        return self._encoder.encode(items)

    def length(self, row: Encoding) -> int:
        return len(row)

    def collate(self, rows: Sequence[Encoding]) -> Feeds:
        return self._encoder.collate(rows)

    def results(self, fetches: Fetches, rows: Sequence[Any] = ()) -> list[Classification]:
        return self._labeller.classify(next(iter(fetches.values())))  # [batch, classes]

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "TextPieces":
        """Take a text to its words, for `explain`."""
        from doorstep.pieces.texts import TextPieces

        if not isinstance(item, str):
            raise InputError(f"item: expected a text (str), got {type(item).__name__}")
        return TextPieces(item, max_parts, lambda text: self._encoder.encode([text])[0])

    def shares(self, pieces: "TextPieces", label: str | None, run: "Run") -> "Shares | None":
        """Return what each word brings to the label's logit, None where the model is not linear."""
        if not self._is_linear:
            return None
        from doorstep.pieces.linear import token_shares

        return token_shares(self, pieces, label, run)


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> TextClassification:
    """Load tokenizer and labels from the bundle."""
    known = {*TextOptions._fields, *LabellingOptions._fields}
    plain = strict_options(bundle.manifest.options, overrides, known)
    text = build(plain, TextOptions, "options")
    labeller = Labeller(build(plain, LabellingOptions, "options"))
    encoder = TextEncoder.from_bytes(bundle.read(text.tokenizer), text.max_length, inputs)
    return TextClassification(encoder, labeller, text.is_linear)
