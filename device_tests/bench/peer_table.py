"""The section `peers` of `make bench`: one table, this project beside what people use today."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from device_tests.bench.catalogue import catalogue
from device_tests.bench.environments import CACHE, ROOT
from device_tests.bench.peer_process import Task
from device_tests.bench.peer_runs import Row, measure
from device_tests.bench.texts import COUNT, write_texts
from doorstep.bundle import Bundle
from doorstep.cli.output import table

_TABLE = ROOT / "examples/shopper_intents/intents.csv"
_COLUMNS = ("peer", "install MB", "model MB", "cold ms", "RSS MiB", "batch RSS", "p50 ms", "texts/s", "accuracy")
_NOTES = """¹ embeds with the same encoder (mean pooling); a linear head trained on the train split classifies
² as ¹, and static word vectors in place of the encoder: another, smaller model
ratios in brackets: the peer's figure divided by that of the first row"""


def peers(bundle: Path, checkpoint: Path | None, text: str, rounds: int, only: Sequence[str]) -> dict[str, Any]:
    """Measure every peer whose name holds one of `only`, or all, and print the table."""
    if checkpoint is None:
        print("peers: left out, no trained checkpoint in .cache; run make convert first\n")
        return {}
    longest = Bundle.open(bundle, is_lazy=True).manifest.options["max_length"]
    data = write_texts(_TABLE, bundle / "tokenizer.json", longest, CACHE)
    chosen = [peer for peer in catalogue(bundle.resolve(), checkpoint.resolve()) if _is_wanted(peer.name, only)]
    load = [os.getloadavg()[0]]
    rows, skipped = measure(chosen, Task(checkpoint.resolve(), text, data, iterations=100, rounds=rounds))
    load.append(os.getloadavg()[0])
    print(
        f"peers: same checkpoint, one thread, medians of {rounds} fresh processes each, taking turns; "
        f"texts/s: {COUNT} texts of up to {longest} tokens in batches of 32;\n"
        f"load average {load[0]:.1f} before, {load[1]:.1f} after, on {os.cpu_count()} CPUs"
    )
    if rows:
        print(table(_COLUMNS, [_cells(row, rows[0]) for row in rows]))
    print(_NOTES)
    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}")
    print()
    return {"rows": [asdict(row) for row in rows], "skipped": skipped, "load_average": load, "rounds": rounds}


def _is_wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(part.lower() in name.lower() for part in only)


def _cells(row: Row, first: Row) -> list[object]:
    def beside(value: Callable[[Row], float], form: str) -> str:
        ratio = "" if row is first else f" ({value(row) / value(first):.2f})"
        return f"{value(row):{form}}{ratio}"

    return [
        row.peer,
        beside(lambda each: each.install_mb, ".0f"),
        beside(lambda each: each.model_mb, ".1f"),
        beside(lambda each: each.cold_ms, ".0f"),
        beside(lambda each: each.rss_mib, ".0f"),
        f"{row.batch_rss_mib:.0f}",
        beside(lambda each: each.p50_ms, ".2f"),
        beside(lambda each: each.texts_per_s, ".0f"),
        f"{row.accuracy:.3f}",
    ]
