"""The texts that every peer is given: one list of mixed lengths, and labelled splits."""

import csv
import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer

COUNT = 2000
_STRIDE = 1_009  # a prime: neighbours in the table share an intent and a template
_MOST_JOINED = 4


def write_texts(table: Path, tokenizer: Path, longest: int, folder: Path) -> Path:
    """Write the JSON file that `peers/report.py` reads: `mixed`, `train`, `test`.

    One to four utterances are joined to a text, as long as it stays within `longest` tokens, so that no side truncates
    and every side computes the same.
    """
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counter = Tokenizer.from_file(str(tokenizer))
    counter.no_truncation()
    data = {
        "mixed": [_joined(rows, number, counter, longest) for number in range(COUNT)],
        **{
            split: [(row["text"], row["label"]) for row in rows if row["split"] == split] for split in ("train", "test")
        },
    }
    text = json.dumps(data, ensure_ascii=False)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"texts-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    out.write_text(text, encoding="utf-8")
    return out


def _joined(rows: list[dict[str, str]], number: int, counter: Tokenizer, longest: int) -> str:
    text = ""
    for part in range(1 + number % _MOST_JOINED):
        place = (number * _MOST_JOINED + part) * _STRIDE % len(rows)
        longer = f"{text}, {rows[place]['text']}" if text else rows[place]["text"]
        if text and len(counter.encode(longer).ids) > longest:
            break
        text = longer
    return text
