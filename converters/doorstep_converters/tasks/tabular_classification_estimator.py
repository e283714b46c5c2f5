"""Fitted classifiers of scikit-learn, LightGBM and XGBoost as checkpoints: a graph, fields and labels, no pickle."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from doorstep.errors import CheckpointError
from doorstep.tasks.tabular_classification import Field
from doorstep.tensors import Array

_SAME = 1e-4
_TRIED, _ADDED = 50, 1e-3  # rows on which a model is tried for being linear, and how far it may be off
_OPSETS = {"": 18, "ai.onnx.ml": 3}


def save_estimator(estimator: Any, fields: Sequence[Field], labels: Sequence[str], sample: Array, folder: Path) -> None:
    """Write a fitted classifier as a checkpoint: its graph by skl2onnx, its fields and labels as JSON.

    Args:
        estimator: of scikit-learn, LightGBM or XGBoost, or a Pipeline of them; fitted on rows of
            `TabularEncoder.encode(item)["features"]`, with classes 0 to n - 1 in the order of `labels`.
        sample: [rows, features] float32 on which graph and estimator must agree.

    Raises:
        CheckpointError: it gives no probabilities, skl2onnx cannot convert it, or the graph answers otherwise.
    """
    import onnxruntime

    name = type(estimator).__name__
    _check(estimator, name, labels)
    model = _graph(estimator, name, sample[:1].astype(np.float32))
    del model.graph.output[0]  # the label; probabilities say it too
    model.graph.input[0].name, old = "features", model.graph.input[0].name
    model.graph.output[0].name, old_output = "probabilities", model.graph.output[0].name
    for node in model.graph.node:
        node.input[:] = ["features" if name == old else name for name in node.input]
        node.output[:] = ["probabilities" if name == old_output else name for name in node.output]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(["probabilities"], {"features": sample.astype(np.float32)})[0]
    distance = float(np.abs(got - estimator.predict_proba(sample)).max())
    if not distance <= _SAME:
        raise CheckpointError(
            f"{name}: its graph differs by {distance:.3g} from what it predicts; ONNX's trees read rows as float32 and "
            "know neither missing values of forests nor categorical_features: fill gaps with a SimpleImputer and give "
            "categories to a OneHotEncoder in front of it, or train new:trees"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    is_linear = adds_up(lambda rows: np.asarray(session.run(["probabilities"], {"features": rows})[0]), sample)
    write_config(folder, "trees", fields, labels, True, {"is_linear": is_linear})


def adds_up(answer: Callable[[Array], Array], sample: Array) -> bool:
    """Tell whether every field adds to the log-odds whatever the others are, and may be missing: a linear model.

    Args:
        answer: rows [rows, features] float32 to probabilities [rows, classes].
        sample: rows it is tried on, the first 50.
    """
    rows = sample[:_TRIED].astype(np.float32)
    fields = range(rows.shape[1])

    def odds(*gone: int) -> Array:
        left = rows.copy()
        left[:, list(gone)] = np.nan
        told: Array = np.log(np.maximum(answer(left).astype(np.float64), 1e-12))  # [rows, classes]
        return told - told.mean(axis=1, keepdims=True)

    whole = odds()
    shares = [whole - odds(field) for field in fields]  # each [rows, classes]
    for gone in (fields, fields[::2], fields[1::2]):
        left = whole - sum((shares[field] for field in gone), np.zeros_like(whole))
        if not (np.abs(left - odds(*gone)) <= _ADDED * np.maximum(1.0, np.abs(whole))).all():
            return False
    return True


def _check(estimator: Any, name: str, labels: Sequence[str]) -> None:
    if not hasattr(estimator, "predict_proba"):
        raise CheckpointError(
            f"{name}: expected a classifier with predict_proba, got one without; wrap it in CalibratedClassifierCV"
        )
    known = [str(one) for one in getattr(estimator, "classes_", ())]
    if known != [str(place) for place in range(len(labels))]:
        raise CheckpointError(
            f"{name}: expected classes 0 to {len(labels) - 1} for the labels {', '.join(labels)[:80]}, got "
            f"{', '.join(known)[:80] or 'none'}; fit it on labels.index(label)"
        )


def _graph(estimator: Any, name: str, row: Array) -> Any:
    from skl2onnx import to_onnx

    is_known = _register_boosted()
    try:
        with _leaves_in_whole_numbers():
            return to_onnx(estimator, row, options={id(estimator): {"zipmap": False}}, target_opset=_OPSETS)
    except Exception as error:
        remedy = "take another classifier, or train new:trees"
        if not is_known and "Unable to find a shape calculator" in str(error):
            remedy = "LightGBM and XGBoost need: pip install 'doorstep-converters[boosted]'"
        raise CheckpointError(f"{name}: skl2onnx cannot convert it ({error!s:.120}); {remedy}") from error


def _register_boosted() -> bool:
    """Tell skl2onnx of LightGBM and XGBoost, where they are in use; returns whether their converters are installed."""
    try:
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    except ImportError:
        return False
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    for package, kind, convert in (
        ("lightgbm", "LGBMClassifier", convert_lightgbm),
        ("xgboost", "XGBClassifier", convert_xgboost),
    ):
        if package in sys.modules:
            found = getattr(sys.modules[package], kind)
            shapes = calculate_linear_classifier_output_shapes
            update_registered_converter(found, f"Doorstep{kind}", shapes, convert, options=options)
    return True


@contextmanager
def _leaves_in_whole_numbers() -> Iterator[None]:
    """Give onnx 0 where skl2onnx 1.20 marks a leaf of histogram trees with False: onnx 1.23 takes no boolean for it."""
    from skl2onnx.common import tree_ensemble

    add_node = tree_ensemble.add_node

    def add(*arguments: Any, nodes_missing_value_tracks_true: Any = 0, **more: Any) -> None:
        add_node(*arguments, nodes_missing_value_tracks_true=int(nodes_missing_value_tracks_true), **more)

    tree_ensemble.add_node = add
    try:
        yield
    finally:
        tree_ensemble.add_node = add_node


def write_config(
    folder: Path, kind: str, fields: Sequence[Field], labels: Sequence[str], is_probability: bool, extra: dict[str, Any]
) -> None:
    plain = {
        "doorstep_task": "tabular-classification", "kind": kind, "fields": [field._asdict() for field in fields],
        "labels": list(labels), "is_probability": is_probability, **extra,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(plain, ensure_ascii=False, indent=1), encoding="utf-8")
