"""A counter that takes spoken commands: a small network learns them, and a stream is cut into commands.

    python examples/voice/voice.py

The "voices" are synthetic: tones that rise, fall, stay or warble, so that the example runs anywhere. Figures
on real voices: `sdk/docs/tasks/audio-classification.md`.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from doorstep import InputError, Predictor
from doorstep.sound.wave import write_wave

RATE = 8000
COMMANDS = ("next", "back", "pay", "help")


def say(command: str, draw: np.random.Generator) -> np.ndarray:
    """Return a made-up recording of a command: float32 [samples]."""
    time = np.linspace(0, 1, int(RATE * draw.uniform(0.3, 0.5)))  # [samples]
    low, high = 400 * draw.uniform(0.9, 1.1), 1400 * draw.uniform(0.9, 1.1)
    warble = 900 + 500 * np.sin(2 * np.pi * 6 * time)
    pitch = {
        "next": low + (high - low) * time,
        "back": high - (high - low) * time,
        "pay": 0 * time + low,
        "help": warble,
    }
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch[command]) / RATE) * np.sin(np.pi * time)
    return (tone + draw.normal(0, 0.003, len(tone))).astype(np.float32)


def write_recordings(folder: Path, draw: np.random.Generator) -> None:
    """Write made-up recordings and the table that names them."""
    lines = ["split,file,label"]
    for split, count in (("train", 20), ("dev", 5), ("test", 5)):
        for number in range(count):
            for command in COMMANDS:
                name = f"{split}-{command}-{number}.wav"
                (folder / name).write_bytes(write_wave(say(command, draw), RATE))
                lines.append(f"{split},{name},{command}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")


def microphone(spoken: list[str], draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield 20 ms of sound at a time, as a microphone does: commands with pauses between them."""
    parts = [np.zeros(RATE // 2), *(part for command in spoken for part in (say(command, draw), np.zeros(RATE // 2)))]
    sound = np.concatenate(parts).astype(np.float32)
    yield from (sound[start : start + RATE // 50] for start in range(0, len(sound), RATE // 50))


def main() -> None:
    draw = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "commands"
        folder.mkdir()
        write_recordings(folder, draw)
        command = [
            sys.executable, "-m", "doorstep.cli.main", "convert", "new:cnn-2l-32w", "--task", "audio-classification",
            "--target", "x86-64", "--data", str(folder), "--out", place, "--epochs", "40", "--variants", "onnx-fp32",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Predictor.load(f"{place}/commands.bundle") as predictor:
            for heard in predictor.stream(microphone(["next", "next", "back", "help", "pay"], draw)):
                print(f"{heard.start:.1f} to {heard.end:.1f} s → {heard.result.label}")
            told = predictor.explain(np.concatenate([np.zeros(RATE), say("pay", draw)]).astype(np.float32))
            best = max(told.segments, key=lambda segment: segment.weight)
            print(f"{told.label} was heard at {best.start:.2f} s")
            (answer,) = predictor.predict_many([b"no sound"], on_error="return")
            print(answer if isinstance(answer, InputError) else "answered")


if __name__ == "__main__":
    main()
