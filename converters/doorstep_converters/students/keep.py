"""A student written as a checkpoint folder."""

from pathlib import Path
from typing import Any


def keep_student(model: Any, tokenizer: Any, licence: str, out: Path) -> None:
    """Write weights, configuration and tokenizer, and the smallest model card that names a licence."""
    model.to("cpu").save_pretrained(out)
    tokenizer.save_pretrained(out)
    if licence:
        (out / "README.md").write_text(f"---\nlicense: {licence}\n---\n", encoding="utf-8")
