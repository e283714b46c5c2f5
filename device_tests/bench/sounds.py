"""Spoken digits: a teacher and its int8 student, every speaker left out once, and digit strings written by CTC."""

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.cli.output import table
from doorstep.sound.items import recording_of
from doorstep.sound.wave import write_wave
from doorstep.tensors import Array
from doorstep_converters.tasks.sound_data import read_sounds

SEEDS = (1, 2, 3)
TEACHER, STUDENT, WRITER = "new:cnn", "new:cnn-2l-48w", "new:cnn-3l-64w-48r"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_STRINGS = {"train": 2400, "dev": 200, "test": 300}
PARTS = ("digits", "speakers", "strings")


def sounds(folder: Path, root: Path, parts: Sequence[str] = PARTS, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Train, convert and judge on test; print every figure beside the baseline."""
    data = folder / "audio_fsdd"
    if not data.is_dir():
        print(f"sounds: audio_fsdd is not in {folder}, left out")
        return {}
    found: dict[str, Any] = {}
    rows: list[list[object]] = []
    if "digits" in parts:
        for seed in seeds:
            for checkpoint, more in ((TEACHER, ()), (STUDENT, ("--teacher", TEACHER))):
                rows += _convert(checkpoint, "audio-classification", data, f"digits-{seed}", seed, root, found, more)
                print(rows[-1], flush=True)
    if "speakers" in parts:
        for speaker in _speakers(data):
            with tempfile.TemporaryDirectory() as place:
                left_out = _without(data, speaker, Path(place))
                rows += _convert(TEACHER, "audio-classification", left_out, f"without-{speaker}", 1, root, found)
                print(rows[-1], flush=True)
    if "strings" in parts:
        strings = _strings(data, root / ".cache/bench/digit-strings")
        for seed in seeds:
            rows += _convert(WRITER, "automatic-speech-recognition", strings, f"strings-{seed}", seed, root, found)
            print(rows[-1], flush=True)
    print(table(("run", "checkpoint", "variant", "test", "agreement", "KiB", "p50 ms", "verdict"), rows))
    return found


def _convert(
    checkpoint: str, task: str, data: Path, name: str, seed: int, root: Path, found: dict[str, Any],
    more: Sequence[str] = (),
) -> list[list[object]]:  # fmt: skip
    out, name = root / "dist/sounds", f"{name}-{checkpoint.partition(':')[2]}"
    command = [
        sys.executable, "-m", "doorstep.cli.main", "convert", checkpoint, "--task", task, "--target", "x86-64-vnni",
        "--data", str(data), "--out", str(out), "--name", name, "--seed", str(seed), "--eval-limit", "5000",
        "--variants", "onnx-fp32,onnx-int8,tflite-int8", *more,
    ]  # fmt: skip
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    report = json.loads((out / f"{name}.report.json").read_text(encoding="utf-8"))
    found[name] = report["candidates"]
    rows: list[list[object]] = []
    for candidate in report["candidates"]:
        parity, measured = candidate["parity"] or {}, candidate["measured"] or {}
        size = round(measured["bytes"] / 1024) if measured else None
        rows.append(
            [
                name,
                checkpoint,
                candidate["variant"],
                measured.get("accuracy"),
                parity.get("agreement"),
                size,
                measured.get("p50_ms"),
                candidate["reason"][:60] or "packed",
            ]
        )
    return rows


def _table(data: Path) -> list[dict[str, str]]:
    with open(data / "index.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _speakers(data: Path) -> list[str]:
    return sorted({row["speaker"] for row in _table(data)})


def _without(data: Path, speaker: str, place: Path) -> Path:
    """Write a table whose test split is all of one speaker's recordings, whom the others do not hold."""
    for archive in data.glob("*.zip"):
        (place / archive.name).symlink_to(archive)
    with open(place / "index.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("split", "file", "label"))
        for row in _table(data):
            is_left_out = row["speaker"] == speaker
            split = "test" if is_left_out else "dev" if row["split"] == "dev" else "train"
            writer.writerow((split, row["file"], row["label"]))
    return place


def _strings(data: Path, place: Path) -> Path:
    """Join recordings of one split and one speaker to strings of two to five digits: a synthetic set, real voices."""
    if (place / "index.csv").is_file():
        return place
    place.mkdir(parents=True, exist_ok=True)
    sounds_of = read_sounds(data, place.parent, ("label",), "")
    generator, lines = np.random.default_rng(20261124), ["split,file,text"]
    speakers = {(row["split"], row["file"]): row["speaker"] for row in _table(data)}
    for split, count in _STRINGS.items():
        known = [row for row in _table(data) if row["split"] == split]
        paths = [row["file"] for row in getattr(sounds_of, split)]
        by_speaker: dict[str, list[int]] = {}
        for number, row in enumerate(known):
            by_speaker.setdefault(speakers[split, row["file"]], []).append(number)
        for number in range(count):
            places = generator.choice(by_speaker[generator.choice(sorted(by_speaker))], generator.integers(2, 6))
            parts: list[Array] = [np.zeros(generator.integers(200, 1200), np.float32)]
            for chosen in places.tolist():
                samples, _ = recording_of(paths[chosen], 8000, 600.0)
                parts += [samples / max(1e-3, float(np.abs(samples).max())) * 0.5]
                parts += [np.zeros(generator.integers(400, 2400), np.float32)]
            (place / f"{split}-{number:05d}.wav").write_bytes(write_wave(np.concatenate(parts), 8000))
            text = " ".join(WORDS[int(known[chosen]["label"])] for chosen in places.tolist())
            lines.append(f"{split},{split}-{number:05d}.wav,{text}")
    (place / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place
