"""What crafts for pictures share: a transformers checkpoint, its processor, pixels in, one tensor out."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from doorstep.errors import DataError, InputError
from doorstep.tensors import Array, TensorSpec
from doorstep_converters.checkpoint import Checkpoint, find_picture_checkpoint
from doorstep_converters.evaluation import Evaluation, items_digest, thin
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.tasks.craft import Answered, Craft, calibration_items
from doorstep_converters.tasks.images_data import PictureData, read_pictures
from doorstep_converters.tasks.images_new import new_checkpoint
from doorstep_converters.tasks.images_probes import draw_probes
from doorstep_converters.tasks.images_processor import (
    load_processor,
    open_upright,
    picture_specs,
    pictures_of,
    prove,
    read_processor,
)

if TYPE_CHECKING:
    from doorstep_converters.job import Job

CONVOLUTIONS = ("efficientnet", "mobilenet_v1", "mobilenet_v2", "regnet", "resnet")
"""Architectures whose work is convolutions."""

_PROBES = 12  # of the synthetic pictures, where there are real ones
_PROVEN = 48  # pictures whose pixels are compared with the processor's


class ImageCraft(Craft):
    """A task whose items are pictures.

    Attributes:
        auto: the transformers class that loads the checkpoint.
        output: the graph's output.
    """

    auto = "AutoModel"
    output = TensorSpec("logits", "float32", ("batch", "classes"))
    most_numbers = 1 << 20

    def find(self, job: "Job") -> Checkpoint:
        if job.checkpoint.startswith("new:"):
            return new_checkpoint(job.checkpoint)
        return find_picture_checkpoint(job.checkpoint, is_pickle_allowed=job.is_pickle_allowed)

    def read(self, job: "Job") -> PictureData | None:
        return read_pictures(job.data, job.columns, job.cache) if job.data else None

    def plan(self, job: "Job", data: PictureData | None, checkpoint: Checkpoint) -> Evaluation:
        probes = [str(path) for path in draw_probes(job.cache / "pictures")]
        if data is None:
            items = _items(probes)
            return Evaluation(items, (), 0, items, (), items_digest([len(items)]), 0)
        paths, truth, final = probes[:_PROBES], [], _PROBES
        for rows in (thin(data.dev, job.eval_limit), thin(data.test, job.eval_limit)):
            final = len(paths) if rows else final
            paths += [path for path, _ in rows]
            truth += [label for _, label in rows]
        calibration = calibration_items([path for path, _ in data.train]) or tuple(probes)
        digest = items_digest([data.digest, job.eval_limit])
        return Evaluation(_items(paths), tuple(truth), final, _items(calibration), (), digest, _PROBES)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        return read_processor(checkpoint.folder)

    def specs(self, folder: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return picture_specs(read_processor(folder)), (self.output,)

    def load(self, folder: Path, is_pickle_allowed: bool) -> Exportable:
        return Exportable(self.module(folder, is_pickle_allowed), *self.specs(folder))

    def module(self, folder: Path, is_pickle_allowed: bool) -> Any:
        """Return the torch module from pixels to `output` (worker)."""
        raise NotImplementedError

    def answers_of(self, rows: Array, options: Mapping[str, Any]) -> list[dict[str, float]]:
        """Return answers for what the module gave [items, …]."""
        raise NotImplementedError

    def answer(self, folder: Path, items: Sequence[Any], out: Path, plan: dict[str, Any]) -> Answered:
        import torch

        _check_readable(items, plan["options"])
        prove(folder, plan["options"], [items[place] for place in thin(range(len(items)), _PROVEN)])
        module, process = self.module(folder, plan["is_pickle_allowed"]), load_processor(folder)
        rows = []
        for place in range(len(items)):
            with torch.no_grad():
                rows.append(module(torch.from_numpy(process(open_upright(items[place]))[None]))[0].float().numpy())
            plan["progress"]((place + 1) / len(items))
        device = pictures_of(plan["options"])
        feeds = [device.collate([device.see(item, place).pixels]) for place, item in enumerate(plan["calibration"])]
        return Answered(self.answers_of(np.array(rows, np.float32), plan["options"]), {}, tuple(feeds))

    def refusal(self, plan: VariantPlan, checkpoint: Checkpoint) -> str:
        if checkpoint.model_type in CONVOLUTIONS and plan.recipe.startswith("dynamic"):
            return "convolutions whose ranges are found at run time are slower than fp32; int8-static is the quick one"
        if checkpoint.model_type in CONVOLUTIONS and "wi4" in plan.recipe:
            return "int4 is for dense layers, and this network is convolutions"
        return ""

    def source_digest(self) -> str:
        digest = hashlib.sha256(super().source_digest().encode())
        for path in sorted(Path(__file__).parent.glob("images*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def _items(paths: Sequence[str]) -> tuple[dict[str, str], ...]:
    return tuple({"file": path} for path in paths)


def _check_readable(items: Sequence[Any], options: Mapping[str, Any]) -> None:
    device = pictures_of(options)
    for place, item in enumerate(items):
        try:
            device.see(item, place)
        except InputError as error:
            raise DataError(f"the data's pictures: {error}") from error
