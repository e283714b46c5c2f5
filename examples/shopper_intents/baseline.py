"""Score TF-IDF and logistic regression on intents.csv: fit on train, print test accuracy and confusions."""

import argparse
import csv
from collections import Counter
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description="Score a bag-of-words baseline on intents.csv.")
    parser.add_argument("--split", choices=["dev", "test"], default="test")
    split: str = parser.parse_args().split
    with (Path(__file__).parent / "intents.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    train = [row for row in rows if row["split"] == "train"]
    held = [row for row in rows if row["split"] == split]
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    guesses = model.predict([row["text"] for row in held])
    wrong = Counter((row["label"], str(guess)) for row, guess in zip(held, guesses) if row["label"] != guess)
    print(f"{split} accuracy {1 - wrong.total() / len(held):.3f} on {len(held)} utterances")
    for (label, guess), count in wrong.most_common(10):
        print(f"{count:5d}  {label} taken for {guess}")


if __name__ == "__main__":
    main()
