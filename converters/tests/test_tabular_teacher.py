"""Trees teach a network over fields: whom it believes, made-up rows, and what cannot be taught."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep import Predictor
from doorstep.errors import CheckpointError, UsageError
from doorstep_converters.data import Columns
from doorstep_converters.job import Job, Training
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.tasks.tabular_classification_training import mixed_rows


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _newest_trees(cache: Path) -> Path:
    models = cache.glob("stages/train-*/checkpoint/model.onnx")
    return max(models, key=lambda path: path.stat().st_mtime).parent


def _visits(folder: Path, column: str = "pages", *, is_turned: bool = False) -> Path:
    """Write visits that buy when their value is high, or, turned, when it is low."""
    generator = np.random.default_rng(7)
    folder.mkdir()
    for split, count in (("train", 500), ("dev", 80), ("test", 80)):
        lines = [f"value,month,{column},bought"]
        for _ in range(count):
            value, month = generator.uniform(0, 100), generator.choice(["May", "Dec", "五月"])
            bought = int((value + 20 * (month == "Dec") + generator.normal(0, 5) > 60) != is_turned)
            lines.append(f"{value:.3f},{month},{generator.integers(1, 30)},{bought}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _job(checkpoint: str, teacher: str | None, data: Path, out: Path, cache: Path, **more: Any) -> Job:
    return Job(
        checkpoint, "x86-64-vnni", out, task="tabular-classification", data=data, columns=Columns(label="bought"),
        variants=("onnx-fp32",), bound=Bound(0.0), cache=cache, training=Training(teacher=teacher), **more,
    )  # fmt: skip


@pytest.mark.slow
def test_a_network_learns_what_the_trees_say_not_the_labels(tmp_path: Path, cache: Path) -> None:
    """The trees here know the opposite of the labels, so that whom the network believes shows."""
    data, opposite = _visits(tmp_path / "visits"), _visits(tmp_path / "opposite", is_turned=True)
    trees = convert(_job("new:trees", None, opposite, tmp_path / "trees", cache), Lines())
    taught = convert(_job("new:mlp", str(_newest_trees(cache)), data, tmp_path / "taught", cache), Lines())
    alone = convert(_job("new:mlp", None, data, tmp_path / "alone", cache), Lines())
    found = {}
    for name, report in {"trees": trees, "taught": taught, "alone": alone}.items():
        with Predictor.load(report.bundle or "") as predictor:
            found[name] = [
                predictor.predict({"value": value, "month": "May", "pages": 9}).label for value in (5.0, 99.0)
            ]
    assert found == {"trees": ["1", "0"], "taught": ["1", "0"], "alone": ["0", "1"]}


@pytest.mark.parametrize(("student", "teacher"), [("new:trees", "new:trees"), ("new:mlp", "new:mlp")])
def test_only_trees_teach_and_only_a_network_learns(student: str, teacher: str, tmp_path: Path, cache: Path) -> None:
    data = _visits(tmp_path / "visits")
    with pytest.raises(UsageError, match="trees teach a network"):
        convert(_job(student, teacher, data, tmp_path / "out", cache), Lines())


def test_a_teacher_of_other_fields_is_refused(tmp_path: Path, cache: Path) -> None:
    first = convert(_job("new:trees", None, _visits(tmp_path / "a"), tmp_path / "out", cache), Lines())
    assert first.bundle
    known = _newest_trees(cache)
    other = _visits(tmp_path / "b", column="clicks")
    with pytest.raises(CheckpointError, match="other fields or labels"):
        convert(_job("new:mlp", str(known), other, tmp_path / "out", cache), Lines())


def test_made_up_rows_hold_what_real_rows_hold_in_the_same_field() -> None:
    items = [{"a": place, "b": f"b{place}", "c": None if place % 2 else place} for place in range(20)]
    made = mixed_rows(items, 200, seed=3)
    assert len(made) == 200
    assert made == mixed_rows(items, 200, seed=3)
    assert made != mixed_rows(items, 200, seed=4)
    for name in ("a", "b", "c"):
        assert {row[name] for row in made} <= {item[name] for item in items}
    assert sum(row not in items for row in made) > 50
