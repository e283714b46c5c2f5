"""Which number was keyed in on the phone? A small network learns to write down the tones of a telephone's keys.

    python examples/keys/keys.py

The tones are those of ITU-T Q.23, made here with noise, gaps and lengths by chance; figures on voices:
`sdk/docs/tasks/automatic-speech-recognition.md`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from doorstep import Predictor
from doorstep.sound.wave import write_wave

RATE = 8000
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477)
KEYS = {key: (LOW[place // 3], HIGH[place % 3]) for place, key in enumerate("123456789*0#") if key.isdigit()}


def dial(number: str, draw: np.random.Generator) -> np.ndarray:
    """Return a made-up recording of keys that are pressed: float32 [samples]."""
    parts = [np.zeros(int(RATE * draw.uniform(0.05, 0.1)))]
    for key in number:
        time = np.arange(int(RATE * draw.uniform(0.1, 0.16))) / RATE  # [samples]
        tones = sum(np.sin(2 * np.pi * hertz * time + draw.uniform(0, 6)) for hertz in KEYS[key])
        parts += [0.2 * tones, np.zeros(int(RATE * draw.uniform(0.06, 0.12)))]
    sound = np.concatenate(parts)
    return (sound * draw.uniform(0.4, 1) + draw.normal(0, 0.004, len(sound))).astype(np.float32)


def write_recordings(folder: Path, draw: np.random.Generator) -> None:
    """Write made-up recordings and the table that names them."""
    lines = ["split,file,text"]
    for split, count in (("train", 120), ("dev", 12), ("test", 12)):
        for place in range(count):
            number = "".join(draw.choice(list(KEYS), draw.integers(2, 6)))
            (folder / f"{split}-{place}.wav").write_bytes(write_wave(dial(number, draw), RATE))
            lines.append(f"{split},{split}-{place}.wav,{number}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")


def main() -> None:
    draw = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "calls"
        folder.mkdir()
        write_recordings(folder, draw)
        command = [
            sys.executable, "-m", "doorstep.cli.main", "convert", "new:cnn-1l-32w", "--target", "x86-64",
            "--task", "automatic-speech-recognition", "--data", str(folder), "--epochs", "110",
            "--variants", "onnx-fp32", "--out", place,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Predictor.load(f"{place}/calls.bundle") as predictor:
            for number in ("4711", "2580", "90210"):
                heard = predictor.predict({"array": dial(number, draw), "sampling_rate": RATE})
                word = heard.words[0]
                print(f"keyed in {number} → {heard.text}, from {word.start:.1f} to {word.end:.1f} s")


if __name__ == "__main__":
    main()
