"""What a device fetches when a model was trained again: real checkpoints, real bundles, a real depot, bytes counted.

The shipped example is fine-tuned, then changed in three ways: trained on from where it was (a warm start), given a new
head on the same body, and given other display names. Each is published after the first; a device that has the first
goes to it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_tests.fleet.world import AT_ONCE, World, passes
from doorstep.bundle import Bundle
from doorstep.cli.output import table
from doorstep.fleet.clock import SystemClock
from doorstep.fleet.publishing import Plan, publish

_PRODUCT = "shopper"
_WAYS = {
    "trained on (warm start)": ["--finetune", "full", "--epochs", "1", "--learning-rate", "2e-5", "--seed", "2"],
    "a new head": ["--finetune", "head", "--epochs", "1", "--seed", "3"],
}


def retraining(root: Path, starts: Mapping[str, tuple[str, str]], work: Path) -> dict[str, Any]:
    """Measure, print and return the section.

    Args:
        starts: name of a model to (checkpoint it is fine-tuned from, variant that is shipped).
        work: folder that keeps checkpoints and bundles of an earlier run.
    """
    data = root / "examples/shopper_intents/intents.csv"
    rows: list[list[object]] = []
    found: dict[str, Any] = {}
    for name, (start, variant) in starts.items():
        folder = work / name
        first = _finetune(start, data, folder / "first", ["--epochs", "2"])
        bundles = {way: _convert(_finetune(str(first), data, folder / way, options), data, variant, folder / way)
                   for way, options in _WAYS.items()}  # fmt: skip
        base = _convert(first, data, variant, folder / "first")
        bundles["other display names"] = _renamed(base, folder / "names")
        for way, bundle in bundles.items():
            fetched, whole = _fetched(base, bundle, folder / "world")
            rows.append([name, variant, way, f"{whole / 1e6:.2f}", f"{fetched / 1e3:.1f}", f"{fetched / whole:.1%}"])
            found[f"{name}, {way}"] = {"variant": variant, "whole_bytes": whole, "fetched_bytes": fetched}
    print("what a device fetches that has the release before")
    print(table(("model", "variant", "change", "whole MB", "fetched kB", "share"), rows) + "\n")
    return found


def _finetune(start: str, data: Path, out: Path, options: list[str]) -> Path:
    checkpoint = out / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        _run("finetune", start, "--data", str(data), "--out", str(checkpoint), "--logs", str(out / "logs"), *options)
    return checkpoint


def _convert(checkpoint: Path, data: Path, variant: str, out: Path) -> Path:
    bundle = out / f"{_PRODUCT}.bundle"
    if not (bundle / "manifest.json").is_file():
        _run("convert", str(checkpoint), "--data", str(data), "--target", "x86-64-vnni", "--variants", variant,
             "--max-length", "64", "--name", _PRODUCT, "--out", str(out))  # fmt: skip
    return bundle


def _run(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "doorstep.cli.main", *words], check=True, stdout=subprocess.DEVNULL)


def _renamed(base: Path, out: Path) -> Path:
    """The same bundle with other names shown for its labels."""
    from doorstep.bundle import seal

    shutil.rmtree(out, ignore_errors=True)
    bundle = Path(shutil.copytree(base, out / base.name))
    (bundle / "manifest.json").unlink()
    for signature in bundle.glob("manifest.*"):
        signature.unlink()
    head = Bundle.open(base).manifest
    names = {label: f"{label} (商店)" for label in head.options["labels"]}
    seal(bundle, replace(head, version="2", options={**head.options, "display_names": {"zh": names}}))
    return bundle


def _fetched(base: Path, bundle: Path, folder: Path) -> tuple[int, int]:
    """Bytes a device receives when it goes from `base` to `bundle`, and the whole of what it then has."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    world = World.make(folder)
    world.clock.time = SystemClock().now()
    received = [0, 0]
    for turn, one in enumerate((base, bundle)):
        publish(world.depot, world.ring, one, Plan(product=_PRODUCT, health=AT_ONCE), tell=lambda text: None)
        outcome = world.run("kiosk", product=_PRODUCT, prover=passes)
        assert outcome.kind == "updated", outcome.text
        received[turn] = outcome.received
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return received[1], sum(entry["size"] for entry in manifest["files"])
