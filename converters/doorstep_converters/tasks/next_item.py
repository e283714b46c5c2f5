"""next-item: sequences, a reader of histories with counted transitions beside it, rankings.

`new:attention` trains the large reader, `new:small` and `new:static` its students: with `--teacher new:attention` they
learn its ranking as well.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.errors import CheckpointError, DataError
from doorstep.explain import Faithfulness, faithfulness
from doorstep.recommend.content import features_of, fit_content
from doorstep.recommend.items import Blend, Items, write_items
from doorstep.recommend.transitions import PARTS, Transitions
from doorstep.search.vectors import unit
from doorstep.tasks.next_item import FOLDER, NextItem, NextItemOptions
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec
from doorstep_converters.checkpoint import Checkpoint, own_checkpoint
from doorstep_converters.evaluation import Evaluation, items_digest, thin
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.recipe import NEEDS_CALIBRATION, VariantPlan
from doorstep_converters.tasks.craft import Answered, calibration_items
from doorstep_converters.tasks.explained import warning
from doorstep_converters.tasks.next_item_data import SequenceData, read_sequences
from doorstep_converters.tasks.rankings import RankedCraft

if TYPE_CHECKING:
    from doorstep_converters.job import Job
    from doorstep_converters.variants import Workbench
    from doorstep_converters.worker import Channel

KINDS = ("attention", "small", "static")  # as in next_item_model.SHAPES, which needs torch
_LONGEST = 50  # items read of a history, where nobody says another number
_EXPLAINED = 60  # histories that the faithfulness of explanations is taken on
_ITEMS, _COUNTED, _CONTENT = "items.json", "counted.safetensors", "content.safetensors"


class NextItemCraft(RankedCraft):
    """Answers are item id to score."""

    task = "next-item"
    is_taught = True
    transforms = ("splice",)

    def find(self, job: "Job") -> Checkpoint:
        return own_checkpoint(job.checkpoint, self.task, KINDS)

    def read(self, job: "Job") -> SequenceData | None:
        return read_sequences(job.data) if job.data else None

    def learn(self, job: "Job", source: Checkpoint, data: SequenceData | None, bench: "Workbench") -> Checkpoint:
        if not source.is_new:
            return source
        if data is None:
            raise DataError(f"{source.source}: give sequences with --data to train on")
        teacher = None
        if job.training.teacher:
            wanted = own_checkpoint(job.training.teacher, self.task, KINDS)
            alone = replace(job, training=replace(job.training, teacher=None))
            teacher = self.learn(alone, wanted, data, bench)
        options = {**asdict(job.training), "kind": source.model_type, "max_length": job.max_length or _LONGEST}
        if job.augment is not None:
            options["spliced"] = job.augment.copies
        output = self.run_training(bench, teacher, data, options, ("learnt", "items", "fields"))
        found = own_checkpoint(str(output.folder / "checkpoint"), self.task, KINDS)
        return replace(found, source=source.source)

    def plan(self, job: "Job", data: SequenceData | None, checkpoint: Checkpoint) -> Evaluation:
        if data is None or not (data.dev or data.test):
            raise DataError(f"{checkpoint.source}: give sequences with --data to prove the variants on")
        known = {row["id"] for row in _items_of(checkpoint.folder)}
        usable = [pair for pair in (*data.dev, *data.test) if known.intersection(pair[0])]
        if not usable:
            raise DataError(f"{data.source}: none of its items is in the checkpoint")
        longest = max(usable, key=lambda pair: len(pair[0]))[0]
        probes: list[Any] = [usable[0][0][-1:], longest, ["?", *usable[-1][0]], {"items": usable[0][0], "top_k": 3}]
        items, truth, final = list(probes), [], len(probes)
        for part in (data.dev, data.test):
            rows = [pair for pair in thin(part, job.eval_limit) if known.intersection(pair[0])]
            final = len(items) if rows else final
            items += [history for history, _ in rows]
            truth += [target for _, target in rows]
        calibration = calibration_items([taken for taken in data.train if known.intersection(taken)])
        digest = items_digest([items, calibration])
        return Evaluation(tuple(items), tuple(truth), final, calibration, (), digest, len(probes))

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        config = _config(checkpoint.folder)
        return {
            "max_length": config["max_length"],
            "blend": config["blend"],
            "content_fields": config["content_fields"],
        }

    def specs(self, folder: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        width = _config(folder)["dimensions"]
        vectors = TensorSpec("vectors", "float32", ("batch", "sequence", width))
        inputs = (vectors, TensorSpec("attention_mask", "int64", ("batch", "sequence")))
        return inputs, (TensorSpec("interests", "float32", ("batch", width)),)

    def refusal(self, plan: VariantPlan, checkpoint: Checkpoint) -> str:
        if plan.recipe in NEEDS_CALIBRATION:
            return "activations of a reader this small gain nothing from int8"
        return ""

    def load(self, folder: Path, is_pickle_allowed: bool) -> Exportable:
        return Exportable(_load_model(folder), *self.specs(folder))

    def answer(self, folder: Path, items: Sequence[Any], out: Path, plan: dict[str, Any]) -> Answered:
        target = out / FOLDER
        target.mkdir()
        write_checkpoint_items(folder, target)
        inputs, _ = self.specs(folder)
        options = NextItemOptions(**{**plan["options"], "blend": Blend(**plan["options"]["blend"])})
        catalogue = Items.open(lambda name: target / name, [path.name for path in target.iterdir()],
                               options.content_fields)  # fmt: skip
        task, session = NextItem(catalogue, inputs, options), _Session(_load_model(folder), *self.specs(folder))
        answers: list[dict[str, float]] = []
        for start in range(0, len(items), 64):
            rows = task.prepare(items[start : start + 64])
            answers += [ranking.flat() for ranking in task.results(session.run(task.collate(rows)), rows)]
            plan["progress"]((start + len(rows)) / len(items))
        feeds = tuple(task.collate([row]) for row in task.prepare(plan["calibration"]))
        found = _played(session, task, items)
        if found is None:
            return Answered(answers, {}, feeds)
        return Answered(answers, {}, feeds, _told(found), tuple(warning(*found)))

    def rights(self, truth: Any) -> set[str]:
        return {truth}

    def train(self, out: Path, channel: "Channel", checkpoint: Path | None, data: Any, options: dict[str, Any]) -> Any:
        from doorstep_converters.tasks.next_item_learning import Lessons, learn

        rows, fields = data["items"], data["fields"]
        taken = {id_ for sequence in data["learnt"] for id_ in sequence}
        rows = [row for row in rows if row["id"] in taken or (fields and features_of(row, fields).any())]
        numbers = {row["id"]: number for number, row in enumerate(rows)}
        lessons = Lessons(
            [[numbers[id_] for id_ in sequence] for sequence in data["train"]],
            [([numbers[id_] for id_ in history], numbers[target]) for history, target in data["dev"]],
            [[numbers[id_] for id_ in sequence] for sequence in data["learnt"]],
            len(rows),
        )
        learnt = learn(lessons, options, _teacher(checkpoint, rows), channel)
        vectors = unit(learnt.model.items.weight.detach().numpy())
        projection = None
        if fields:
            is_taken = np.array([row["id"] in taken for row in rows])
            projection = fit_content([row for row in rows if row["id"] in taken], fields, vectors[is_taken])
            cold = [row for row in rows if row["id"] not in taken]
            if cold:
                vectors[~is_taken] = unit(np.array([features_of(row, fields) for row in cold]) @ projection)
                learnt.model.items.weight.data = _tensor(vectors)
        learnt.model.config.blend = learnt.blend._asdict()
        learnt.model.config.content_fields = list(fields)
        learnt.model.save_pretrained(out)
        _write_beside(out, rows, learnt.transitions, projection)
        return learnt.figures


class _Session:
    """The checkpoint itself as a session, so that the device's own code ranks with it."""

    def __init__(self, model: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._model = model
        self.inputs: Sequence[TensorSpec] = inputs
        self.outputs: Sequence[TensorSpec] = outputs

    def run(self, feeds: Feeds) -> Fetches:
        import torch

        with torch.no_grad():
            found = self._model(*(torch.from_numpy(feeds[spec.name]) for spec in self.inputs))
        return {self.outputs[0].name: found.numpy()}

    def close(self) -> None:
        """Nothing is held open."""


def write_checkpoint_items(folder: Path, target: Path) -> None:
    """Write a checkpoint's items as a bundle holds them."""
    from safetensors.numpy import load_file

    counted = load_file(folder / _COUNTED)
    projection = load_file(folder / _CONTENT)["projection"] if (folder / _CONTENT).is_file() else None
    vectors = load_file(folder / "model.safetensors")["items.weight"]
    write_items(_items_of(folder), vectors, Transitions(**{part: counted[part] for part in PARTS}), target, projection)


def _write_beside(
    folder: Path, rows: Sequence[Mapping[str, Any]], transitions: Transitions, projection: Array | None
) -> None:
    from safetensors.numpy import save_file

    (folder / _ITEMS).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    save_file(transitions._asdict(), folder / _COUNTED)
    if projection is not None:
        save_file({"projection": projection}, folder / _CONTENT)


def _played(session: _Session, task: NextItem, items: Sequence[Any]) -> Faithfulness | None:
    """Play the deletion game with histories of more than two items."""
    chosen = [item for item in items if isinstance(item, list) and len(item) > 2]
    return faithfulness(session, task, thin(chosen, _EXPLAINED)) if chosen else None


def _told(found: Faithfulness) -> str:
    """Return what the model card says of explanations."""
    doubt = "; they are not to be relied on" if warning(found.ranked, found.shuffled) else ""
    return (
        "\nExplanations by occlusion: leaving out the items of a history by falling weight costs the best item's score "
        f"{found.ranked:.3f} on average, in random order {found.shuffled:.3f}{doubt}.\n"
    )


def _teacher(checkpoint: Path | None, rows: Sequence[Mapping[str, Any]]) -> Any:
    if checkpoint is None:
        return None
    if [row["id"] for row in rows] != [row["id"] for row in _items_of(checkpoint)]:
        raise CheckpointError(f"{checkpoint}: the teacher knows other items than the data; train it on the same data")
    return _load_model(checkpoint)


def _load_model(folder: Path) -> Any:
    from doorstep_converters.tasks.next_item_model import NextItemModel

    return NextItemModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()


def _tensor(array: Array) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _items_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / _ITEMS).read_text(encoding="utf-8"))
    return rows


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


CRAFT = NextItemCraft()
