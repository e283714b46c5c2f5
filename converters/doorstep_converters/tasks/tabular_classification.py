"""tabular-classification: rows of fields, trees or a small network, probabilities.

`new:trees` trains scikit-learn's histogram gradient boosting, `new:mlp` a network with embeddings; `save_estimator`
makes a checkpoint of any fitted classifier that skl2onnx converts.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.errors import CheckpointError, DataError, UsageError
from doorstep.tasks.tabular_classification import Field, TabularEncoder
from doorstep.tensors import Array, TensorSpec
from doorstep_converters.checkpoint import Checkpoint, own_checkpoint
from doorstep_converters.data import Records, read_records
from doorstep_converters.evaluation import Evaluation, items_digest, thin
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.recipe import NEEDS_CALIBRATION, VariantPlan
from doorstep_converters.tasks.craft import Answered, Craft, calibration_items
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.tabular_classification_estimator import save_estimator, write_config
from doorstep_converters.tasks.tabular_classification_training import Table, load_net, train_net

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench
    from doorstep_converters.worker import Channel

__all__ = ["CRAFT", "read_table", "save_estimator"]

KINDS = ("trees", "mlp")
_LABELS = ("label", "target", "class", "y")
_MOST_CATEGORIES, _FEW_NUMBERS, _QUANTILES = 1000, 12, 33
_MEMBERS = 8  # boosted models that vote, each with its own share of rows and fields


@dataclass(frozen=True, slots=True)
class TabularData:
    """Items (dicts of fields) and their labels, in three splits."""

    name: str
    source: Path
    fields: tuple[Field, ...]
    labels: tuple[str, ...]
    train: tuple[Any, ...]
    dev: tuple[Any, ...]
    test: tuple[Any, ...]
    digest: str


class TabularCraft(Craft):
    """Answers are label to probability."""

    task = "tabular-classification"
    metric = "auc"
    is_taught = True

    def find(self, job: "Job") -> Checkpoint:
        return own_checkpoint(job.checkpoint, self.task, KINDS)

    def read(self, job: "Job") -> TabularData | None:
        return read_table(read_records(job.data), job.columns.label) if job.data else None

    def learn(self, job: "Job", source: Checkpoint, data: TabularData | None, bench: "Workbench") -> Checkpoint:
        if not source.is_new:
            return source
        if data is None or not data.train:
            raise DataError(f"{source.source}: give rows with a label with --data to train on")
        fields = [field._asdict() for field in data.fields]
        options = {**asdict(job.training), "kind": source.model_type, "fields": fields, "labels": data.labels}
        options |= self._teacher(job, source, data, bench)
        output = self.run_training(bench, None, data, options)
        found = own_checkpoint(str(output.folder / "checkpoint"), self.task, KINDS)
        return replace(found, source=source.source)

    def _teacher(self, job: "Job", student: Checkpoint, data: TabularData, bench: "Workbench") -> dict[str, str]:
        """Return where the teacher that was asked for lies; a new one is trained first."""
        if not job.training.teacher:
            return {"teacher": ""}
        plain = replace(job, checkpoint=job.training.teacher, training=replace(job.training, teacher=None))
        source = self.find(plain)
        if student.model_type != "mlp" or source.model_type != "trees":
            raise UsageError(f"--teacher {job.training.teacher}: trees teach a network; convert new:mlp with it")
        teacher = self.learn(plain, source, data, bench)
        wanted = {"labels": list(data.labels), "fields": [field._asdict() for field in data.fields]}
        known = _config(teacher.folder)
        if json.loads(json.dumps(wanted)) != {name: known[name] for name in wanted}:
            raise CheckpointError(f"{job.training.teacher}: it knows other fields or labels; train it on the same data")
        return {"teacher": str(teacher.folder.resolve()), "teacher_digest": teacher.digest}

    def plan(self, job: "Job", data: TabularData | None, checkpoint: Checkpoint) -> Evaluation:
        if data is None:
            raise DataError(f"{checkpoint.source}: give rows with --data to prove the variants on")
        if unknown := sorted(set(data.labels) - set(checkpoint.labels or ())):
            raise DataError(f"{data.source}: the checkpoint has no label {unknown[0]!r}")
        probes = [{}, *(({field.name: None}) for field in data.fields[:3])]
        probes = [{**row[0], **probe} for row, probe in zip(data.dev or data.train, probes, strict=False)]
        items, truth, final = list(probes), [], len(probes)
        for rows in (thin(data.dev, job.eval_limit), thin(data.test, job.eval_limit)):
            final = len(items) if rows else final
            items += [item for item, _ in rows]
            truth += [label for _, label in rows]
        calibration = calibration_items([item for item, _ in data.train])
        digest = items_digest([items, calibration])
        return Evaluation(tuple(items), tuple(truth), final, calibration, (), digest, len(probes))

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        config = _config(checkpoint.folder)
        keys = ("labels", "fields", "is_probability", *(("is_linear",) if config.get("is_linear") else ()))
        return {key: config[key] for key in keys} | {"top_k": len(config["labels"])}

    def specs(self, folder: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        config = _config(folder)
        widths = TabularEncoder([_field(plain) for plain in config["fields"]]).widths
        names = ("features",) if config["kind"] == "trees" else ("numbers", "missing", "categories")
        dtypes = {"categories": "int64"}
        inputs = tuple(TensorSpec(name, dtypes.get(name, "float32"), ("batch", widths[name])) for name in names)
        name = "probabilities" if config["kind"] == "trees" else "logits"
        return inputs, (TensorSpec(name, "float32", ("batch", len(config["labels"]))),)

    def refusal(self, plan: VariantPlan, checkpoint: Checkpoint) -> str:
        if checkpoint.model_type == "trees" and plan.name != "onnx-fp32":
            return "trees run in ONNX Runtime alone, as pipelines of scikit-learn do, and have no weights to quantize"
        if plan.recipe in NEEDS_CALIBRATION:
            return "activations of a few fields gain nothing from int8"
        return ""

    def load(self, folder: Path, is_pickle_allowed: bool) -> Exportable:
        if _config(folder)["kind"] == "trees":
            return Exportable(None, *self.specs(folder), (folder / "model.onnx").read_bytes())
        return Exportable(load_net(folder), *self.specs(folder))

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "fields")

    def answer(self, folder: Path, items: Sequence[Any], out: Path, plan: dict[str, Any]) -> Answered:
        config = _config(folder)
        encoder = TabularEncoder([_field(plain) for plain in config["fields"]])
        rows = [encoder.encode(item, place) for place, item in enumerate([*items, *plan["calibration"]])]
        inputs, _ = self.specs(folder)
        feeds = [{spec.name: row[spec.name][None].astype(spec.dtype) for spec in inputs} for row in rows]
        answered = self._probabilities(
            folder, {n: np.concatenate([f[n] for f in feeds[: len(items)]]) for n in feeds[0]}
        )
        answers = [dict(zip(config["labels"], map(float, row), strict=True)) for row in answered]
        return Answered(answers, {}, tuple(feeds[len(items) :]))

    def figure(self, answers: Sequence[dict[str, float]], truth: Sequence[Any]) -> float:
        """Return the area under the ROC curve of the last label; of more than two, each against the rest, averaged."""
        from sklearn.metrics import roc_auc_score

        labels = list(answers[0])
        table = np.array([[answer[label] for label in labels] for answer in answers])
        if len(labels) == 2:
            return float(roc_auc_score([label == labels[1] for label in truth], table[:, 1]))
        areas = [roc_auc_score([t == n for t in truth], table[:, c]) for c, n in enumerate(labels) if n in truth]
        return float(np.mean(areas))

    def train(self, out: Path, channel: "Channel", checkpoint: Path | None, data: Any, options: dict[str, Any]) -> Any:
        fields = [_field(plain) for plain in options["fields"]]
        encoder, labels = TabularEncoder(fields), list(options["labels"])
        rows = {split: [encoder.encode(item, n) for n, (item, _) in enumerate(part)] for split, part in data.items()}
        truth = {split: np.array([labels.index(label) for _, label in part]) for split, part in data.items()}
        if options["kind"] == "trees":
            features = {split: np.array([row["features"] for row in part]) for split, part in rows.items()}
            estimator = boosted(fields, options["seed"]).fit(features["train"], truth["train"])
            save_estimator(estimator, fields, labels, features["train"][:200], out)
            return {"members": _MEMBERS}
        table = Table(fields, labels, rows, truth, data["train"])
        teacher = Path(options["teacher"]) if options["teacher"] else None
        shape, figures = train_net(out, channel, table, teacher, options)
        write_config(out, "mlp", fields, labels, False, {"net": shape})
        return figures

    def _probabilities(self, folder: Path, feeds: dict[str, Array]) -> Array:
        if _config(folder)["kind"] == "trees":
            import onnxruntime

            session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
            found: Array = session.run(["probabilities"], feeds)[0]
            return found
        import torch

        with torch.no_grad():
            probabilities: Array = load_net(folder)(*map(torch.from_numpy, feeds.values())).softmax(-1).numpy()
        return probabilities


def boosted(fields: Sequence[Field], seed: int) -> Any:
    """Return an untrained vote of boosted trees; each sees other shares of rows and fields."""
    from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier

    def member(number: int) -> Any:
        return HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=150, max_leaf_nodes=12, min_samples_leaf=30, l2_regularization=5.0,
            max_features=0.4, early_stopping=False, random_state=seed + number,
        )  # fmt: skip

    return VotingClassifier(
        [(f"m{number}", member(number)) for number in range(_MEMBERS)], voting="soft", flatten_transform=False
    )


def read_table(records: Records, label: str | None) -> TabularData:
    """Tell numbers from categories by the training rows, and give every value its type.

    Raises:
        DataError: no label column, a label missing, or nothing to learn from.
    """
    rows = records.train or records.dev or records.test
    column = label or next((name for name in _LABELS if name in rows[0]), None)
    if column is None or column not in rows[0]:
        names = ", ".join(map(str, rows[0]))
        raise DataError(f"{records.source}: expected a column {label or 'label'!r}, got {names}; use --label-column")
    fields = tuple(_look_at(name, [row.get(name) for row in rows]) for name in rows[0] if name != column)
    labels = sorted({str(row.get(column)) for part in (records.train, records.dev, records.test) for row in part})
    if len(labels) < 2 or "" in labels or "None" in labels:
        raise DataError(f"{records.source}: expected two or more labels and none empty, got {', '.join(labels[:5])}")
    train, dev, test = (
        tuple((_typed(row, fields), str(row[column])) for row in part)
        for part in (records.train, records.dev, records.test)
    )
    return TabularData(
        records.name, records.source, fields, tuple(labels), train, dev, test, items_digest([records.digest, column])
    )


def _look_at(name: str, values: Sequence[Any]) -> Field:
    """Decide what a field is: a number where all values are, and they are many or broken."""
    present = [value for value in values if value is not None and value != ""]
    numbers = [_as_number(value) for value in present]
    known = [number for number in numbers if number is not None]
    is_number = len(known) == len(present) and (len(set(known)) > _FEW_NUMBERS or any(n != int(n) for n in known))
    if is_number:
        quantiles = sorted({round(float(q), 7) for q in np.quantile(known, np.linspace(0, 1, _QUANTILES))})
        return Field(name, "number", (), tuple(quantiles if len(quantiles) > 1 else [quantiles[0], quantiles[0] + 1]))
    counts: dict[str, int] = {}
    for value in present:
        counts[_as_text(value)] = counts.get(_as_text(value), 0) + 1
    kept = sorted(sorted(counts, key=lambda text: (-counts[text], text))[:_MOST_CATEGORIES])
    return Field(name, "category", tuple(kept))


def _typed(row: dict[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for field in fields:
        value = row.get(field.name)
        if value is None or value == "":
            item[field.name] = None
        else:
            item[field.name] = _as_number(value) if field.kind == "number" else _as_text(value)
    return item


def _as_number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _as_text(value: Any) -> str:
    number = _as_number(value)
    return str(int(number)) if number is not None and number == int(number) else str(value)


def _field(plain: dict[str, Any]) -> Field:
    return Field(plain["name"], plain["kind"], tuple(plain["categories"]), tuple(plain["quantiles"]))


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


CRAFT = TabularCraft()
