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


def differing_texts(tokenizer: Any, path: Path, texts: Sequence[str], max_length: int) -> list[str]:
    """Return the texts whose token ids differ between transformers and the exported file."""
    device = Tokenizer.from_file(str(path))
    expected = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False)["input_ids"]
    encoded = device.encode_batch(list(texts))
    return [text for text, ids, row in zip(texts, expected, encoded, strict=True) if list(ids) != row.ids]


def token_lengths(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text, special tokens included, without truncation."""
    return [len(ids) for ids in tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]]
