"""What will this visitor take next? A model learns from made-up visits, answers, explains, and meets a new item.

    python examples/next_item/shelf.py

The visits are synthetic, so that the example runs anywhere in seconds; real figures: `sdk/docs/tasks/next-item.md`.
"""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from doorstep import Predictor
from doorstep.tasks.next_item import add_items

SHELVES = {
    "coffee": ["beans", "grinder", "filter", "kettle", "mug", "milk", "biscuits", "syrup"],
    "garden": ["seeds", "soil", "pot", "shovel", "gloves", "hose", "fertilizer", "fence"],
    "茶": ["绿茶", "茶壶", "茶杯", "茶盘", "红茶", "蜂蜜", "茶巾", "点心"],
}


def write_visits(folder: Path, visitors: int = 600) -> None:
    """Write made-up visits: a visitor walks along one shelf, from left to right, and leaves things out."""
    draw = random.Random(7)
    items, visits = [], []
    for shelf, names in SHELVES.items():
        items += [
            {"id": name, "name": f"{shelf} {name}", "shelf": shelf, "price": draw.randint(2, 40)} for name in names
        ]
    for _ in range(visitors):
        names = draw.choice(list(SHELVES.values()))
        taken = [name for name in names if draw.random() < 0.7]
        visits.append({"items": taken if len(taken) > 2 else names[:4]})
    for stem, rows in (("items", items), ("sequences", visits)):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{stem}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_visits(folder)
        command = [
            sys.executable, "-m", "doorstep.cli.main", "convert", "new:static", "--task", "next-item", "--target",
            "x86-64", "--data", place, "--variants", "onnx-fp32,onnx-int8", "--eval-limit", "200", "--out", place,
            "--name", "shelf",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with Predictor.load(folder / "shelf.bundle") as predictor:
            print("next:", predictor.predict(["beans", "grinder", "filter"]).ids[0])
            cheap = predictor.predict({"items": ["绿茶", "茶壶"], "filters": {"shelf": "茶"}, "top_k": 3})
            print("茶:", " ".join(cheap.ids))
            why = predictor.explain(["seeds", "beans", "grinder"])
            print("because of:", max(why.steps, key=lambda step: step.weight).id)
            add_items(predictor, [{"id": "new", "name": "garden rake", "shelf": "garden", "price": 12}])
            asked = {"items": ["seeds", "soil"], "filters": {"shelf": "garden"}, "top_k": 8}
            print("the new one is among them:", "new" in predictor.predict(asked).ids)
            print("also read in a history:", predictor.predict(["new", "gone"]).notes[0])


if __name__ == "__main__":
    main()
