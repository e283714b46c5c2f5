"""The checkpoint's tokenizer for the device: one `tokenizer.json`, proven token for token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from doorstep.errors import CheckpointError


def load_tokenizer(folder: Path) -> Any:
    """Load the checkpoint's tokenizer in transformers; a slow one is converted to its fast form by transformers.

    Raises:
        CheckpointError: it cannot be read, or has no fast form.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{folder}: transformers cannot read its tokenizer ({error!s:.200})") from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"{folder}: its tokenizer {type(tokenizer).__name__} has no fast form, so no device can run it"
        )
    return tokenizer


def export_tokenizer(tokenizer: Any, path: Path, max_length: int) -> None:
    """Write `tokenizer.json` with truncation at `max_length`, padding off, and nothing a device does not need."""
    device = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    device.enable_truncation(max_length)
    device.no_padding()
    path.write_text(device.to_str(pretty=False), encoding="utf-8")


Text = str | tuple[str, str]
"""A text, or a pair of texts that is read as one."""


def differing_texts(tokenizer: Any, path: Path, texts: Sequence[Text], max_length: int) -> list[Text]:
    """Return the texts whose token ids or types differ between transformers and the exported file."""
    device = Tokenizer.from_file(str(path))
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False)
    expected = list(zip(*(encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded), strict=True))
    rows = [(row.ids, row.type_ids)[: len(expected[0])] for row in device.encode_batch(list(texts))] if texts else []
    return [
        text for text, wanted, row in zip(texts, expected, rows, strict=True) if list(map(list, wanted)) != list(row)
    ]


def token_lengths(tokenizer: Any, texts: Sequence[Text]) -> list[int]:
    """Return the number of tokens of each text, special tokens included, without truncation."""
    return [len(ids) for ids in tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]]
