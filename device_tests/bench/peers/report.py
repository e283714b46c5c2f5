"""What the scripts of the peers share: two verbs, and one line of JSON.

python PEER.py make JOB.json        export, quantize or distil; done once and kept
python PEER.py measure JOB.json     load, answer one text, then many
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

WARM_UP = 10
BATCH = 32


class Job(NamedTuple):
    """What to measure.

    Attributes:
        checkpoint: the folder that every peer starts from.
        made: this peer's own folder, filled by `make`.
        text: answered first and alone.
        data: a JSON file: `mixed` (texts for throughput), `train` and `test` (pairs of text and label).
        iterations: timed answers to `text`; 0 stops after the first answer.
        is_scored: also answer the test split.
        options: what else the script wants to know.
    """

    checkpoint: str
    made: str
    text: str
    data: str
    iterations: int
    is_scored: bool
    options: dict[str, Any]


class Answers(NamedTuple):
    """A loaded model: a text to its label, texts to their labels in batches of BATCH."""

    one: Callable[[str], str]
    many: Callable[[list[str]], list[str]]


def main(load: Callable[[Job], Answers], make: Callable[[Job], None] | None = None) -> None:
    """Do what the command line asks."""
    verb, path = sys.argv[1:3]
    with open(path, encoding="utf-8") as file:
        job = Job(**json.load(file))
    if verb == "measure":
        report(job, load(job))
    elif make:
        make(job)


def report(job: Job, answers: Answers) -> None:
    """Print the moment of the first answer, the peak RSS until then, and what is warm."""
    label = answers.one(job.text)
    found: dict[str, Any] = {"first": time.monotonic(), "rss_mib": _peak_mib(), "answer": label}
    if job.iterations:
        data = json.loads(read(job.data))
        found["latencies_ms"] = _latencies(job, answers)
        answers.many(data["mixed"][: WARM_UP * BATCH])
        start = time.perf_counter()
        answers.many(data["mixed"])
        found["texts_per_s"] = len(data["mixed"]) / (time.perf_counter() - start)
        found["batch_rss_mib"] = _peak_mib()
        if job.is_scored:
            labels = answers.many([text for text, _ in data["test"]])
            right = sum(said == label for said, (_, label) in zip(labels, data["test"], strict=True))
            found["accuracy"] = right / len(labels)
    print(json.dumps(found))


def read(path: str) -> str:
    """Return a file's text."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def labels_of(checkpoint: str) -> list[str]:
    """Return the labels that a checkpoint's outputs stand for."""
    names = json.loads(read(f"{checkpoint}/config.json"))["id2label"]
    return [names[str(number)] for number in range(len(names))]


def batches(texts: list[str]) -> list[list[str]]:
    """Cut texts into batches in the order given."""
    return [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]


def _latencies(job: Job, answers: Answers) -> list[float]:
    latencies = []
    for _ in range(WARM_UP + job.iterations):
        start = time.perf_counter()
        answers.one(job.text)
        latencies.append(1e3 * (time.perf_counter() - start))
    return latencies[WARM_UP:]


def _peak_mib() -> float:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
