"""Will this visit end in a purchase? Boosted trees from a table to a bundle, and answers where fields are missing.

    python examples/visits/visits.py

The table is made up here, so that the example runs anywhere; real figures: `sdk/docs/tasks/tabular-classification.md`.
"""

import csv
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from doorstep import InputError, Predictor


def write_visits(path: Path, count: int = 800) -> None:
    """Write made-up visits: who looks at many pages in December buys."""
    draw = random.Random(7)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["pages", "seconds", "month", "visitor", "bought"])
        for _ in range(count):
            pages, month = draw.randint(1, 60), draw.choice(["May", "Nov", "Dec"])
            seconds = round(pages * draw.uniform(10, 60), 1)
            bought = int(pages + 15 * (month == "Dec") + draw.gauss(0, 6) > 45)
            table.writerow([pages, seconds, month, draw.choice(["new", "returning"]), bought])


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_visits(folder / "visits.csv")
        command = [
            sys.executable, "-m", "doorstep.cli.main", "convert", "new:trees", "--task", "tabular-classification",
            "--target", "x86-64", "--data", str(folder / "visits.csv"), "--label-column", "bought", "--out", place,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Predictor.load(folder / "visits.bundle") as predictor:
            visits = [
                {"pages": 55, "seconds": 1800.0, "month": "Dec", "visitor": "returning"},
                {"pages": 3},
                {"page": 3},
            ]
            for visit, answer in zip(visits, predictor.predict_many(visits, on_error="return"), strict=True):
                chances = {score.label: score.score for score in getattr(answer, "scores", ())}
                told = answer if isinstance(answer, InputError) else f"buys with probability {chances['1']:.2f}"
                print(visit, "→", told)


if __name__ == "__main__":
    main()
