"""Golden examples of an adopted model: raw items, and what the bare engine answers to them."""

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.bundle import MANIFEST, Bundle, seal
from doorstep.errors import DataError
from doorstep.golden import FORMAT, Example, Golden, flatten, raw_item
from doorstep.manifest import Manifest
from doorstep.tasks import load_task
from doorstep.tensors import Feeds, Fetches, TensorSpec
from doorstep_converters.probes import SENTENCES

_TOLERANCE = 0.02  # room for the rounding of other CPUs
_PICTURES = 3
_SEED = 20261124

Run = Callable[[Path, Feeds], Fetches]


def record_golden(folder: Path, head: Manifest, run: Run, samples: Sequence[Path]) -> Golden:
    """Answer raw items with the bare engine; pictures are kept in `folder`, which is a bundle in the making."""
    variant = head.variants[0]
    items = _items(folder, head.task, variant.inputs, samples)
    (folder / head.golden).write_text("{}", encoding="ascii")
    seal(folder, head)
    bundle = Bundle.open(folder)
    task = load_task(bundle, variant.inputs, {"top_k": 1 << 20} if "labels" in head.options else {})
    examples = []
    for item in items:
        prepared = task.prepare([raw_item(bundle, item)])
        feeds = task.collate(prepared)
        rows = {spec.source or spec.name: feeds[spec.name] for spec in variant.inputs}
        fetched = run(folder / variant.entry, rows)
        named = {spec.name: fetched[spec.source or spec.name] for spec in variant.outputs}
        answer = flatten(task.results(named, prepared)[0])
        examples.append(Example(item, {name: round(value, 6) for name, value in list(answer.items())[:256]}))
    (folder / MANIFEST).unlink()
    return Golden(FORMAT, tuple(examples), {variant.name: _TOLERANCE})


def _items(folder: Path, task: str, inputs: Sequence[TensorSpec], samples: Sequence[Path]) -> list[Any]:
    if task == "text-classification":
        return [line for path in samples for line in _lines(path)][:16] or list(SENTENCES)
    if task in ("image-classification", "image-feature-extraction"):
        return [_keep(folder, path) for path in samples[:16]] or [_picture(folder, n) for n in range(_PICTURES)]
    generator = np.random.default_rng(_SEED)
    return [{spec.name: _numbers(generator, spec) for spec in inputs} for _ in range(_PICTURES)]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected one text a line in UTF-8 ({error!s:.80})") from error


def _keep(folder: Path, path: Path) -> dict[str, str]:
    name = f"golden/{path.stem[:60]}{path.suffix}"
    (folder / "golden").mkdir(exist_ok=True)
    shutil.copyfile(path, folder / name)
    return {"file": name}


def _picture(folder: Path, number: int) -> dict[str, str]:
    """Make a picture of coloured shapes; synthetic, good only for comparing engines."""
    from PIL import Image, ImageDraw

    generator = np.random.default_rng(_SEED + number)
    picture = Image.new("RGB", (320, 240), tuple(int(c) for c in generator.integers(0, 256, 3)))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = int(generator.integers(0, 280)), int(generator.integers(0, 200))
        draw.ellipse((x, y, x + 60, y + 50), fill=tuple(int(c) for c in generator.integers(0, 256, 3)))
    name = f"golden/synthetic-{number}.png"
    (folder / "golden").mkdir(exist_ok=True)
    data = io.BytesIO()
    picture.save(data, "PNG")
    (folder / name).write_bytes(data.getvalue())
    return {"file": name}


def _numbers(generator: np.random.Generator, spec: TensorSpec) -> Any:
    """Make a small array of one item, without its batch axis; an open axis gets length 4."""
    shape = [axis if isinstance(axis, int) else 4 for axis in spec.shape[1:]]
    if np.dtype(spec.dtype).kind == "f":
        return np.round(generator.standard_normal(shape), 3).tolist()
    return generator.integers(0, 2, shape).tolist()
