"""Training over pictures: all weights, the head alone, or a student that learns a teacher's probabilities.

Every picture is seen flipped, shifted and in other light, drawn from the seed (Krizhevsky et al., 2012, section 4.1).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doorstep.errors import DataError, UsageError
from doorstep.tasks.pictures import PictureOptions, Pictures
from doorstep.tensors import Array, TensorSpec
from doorstep_converters.placement import device_of, feeds_device
from doorstep_converters.tasks.images_model import load_model
from doorstep_converters.tasks.images_new import NewNetwork
from doorstep_converters.tasks.images_processor import FILE, INPUT, pictures_of, read_processor
from doorstep_converters.tasks.loop import Course, fit
from doorstep_converters.worker import Channel

METHODS = ("full", "head")
_AUTO = "AutoModelForImageClassification"
_ROOM = 1.15  # a training picture is this much larger than what is cut out of it
_LIGHT = 0.25  # largest change of a channel's brightness
_TEMPERATURE = 2.0
_SOFT = 0.7  # share of the loss that a teacher gives, as Hinton et al. (2015) weigh it higher than the labels
_VIEWS = 2  # of each picture, where the head alone learns
_KEEPING = ("mobilenet_v1", "mobilenet_v2")
_MOMENTUM = 0.1  # share of a batch in a norm's running figures, PyTorch's own
_LARGEST = 1 << 30  # bytes of pixels that are kept between epochs


def train(out: Path, channel: Channel, checkpoint: Path | None, data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Write the trained checkpoint to `out`; see `Craft.train`.

    Raises:
        UsageError: no such method for pictures.
        DataError: a picture cannot be read, or the teacher has other labels.
    """
    if options["method"] not in METHODS:
        raise UsageError(f"finetune: pictures know {' and '.join(METHODS)}, got {options['method']!r}")
    torch.manual_seed(options["seed"])
    labels = list(options["labels"])
    model = _model(out, checkpoint, labels, options)
    forget_rather_than_keep(model)
    shown = read_processor(out)
    rows = {split: Rows(part, labels, shown, is_roomy=split == "train") for split, part in data.items()}
    soft = None
    if options.get("teacher"):
        soft = _taught(Path(options["teacher"]), [path for path, _ in data["train"]], labels)
    learner = Learner(model, rows, soft, shown, np.random.default_rng(options["seed"]))
    figures = _fit_head(learner, options, channel) if options["method"] == "head" else _fit(learner, options, channel)
    model.save_pretrained(out)
    return figures


def _model(out: Path, checkpoint: Path | None, labels: Sequence[str], options: Mapping[str, Any]) -> Any:
    """Return a model with a head for `labels`, and write its processor to `out`."""
    if checkpoint is None:
        network = NewNetwork.from_name(options["new"])
        network.write_processor(out)
        return network.build(labels)
    import transformers

    shutil.copyfile(checkpoint / FILE, out / FILE)
    return getattr(transformers, _AUTO).from_pretrained(
        checkpoint,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        ignore_mismatched_sizes=True,
        local_files_only=True,
        dtype=torch.float32,
    )


def forget_rather_than_keep(model: Any) -> None:
    """Turn round the numbers that transformers took over from TensorFlow, where they name the share that is kept.

    MobileNet v1 would drop 99.9 % of what its head reads, v2 80 %, and their norms and EfficientNet's would know the
    last batch alone.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and (module.momentum or 0.0) > 0.5:
            module.momentum = _MOMENTUM
        if isinstance(module, torch.nn.Dropout) and model.config.model_type in _KEEPING and module.p > 0.5:
            module.p = model.config.classifier_dropout_prob = round(1.0 - module.p, 6)


class Rows:
    """Pixels and classes of one split; decoded once where they fit into memory."""

    def __init__(self, part: Sequence[Any], labels: Sequence[str], shown: Mapping[str, Any], is_roomy: bool) -> None:
        scale = _ROOM if is_roomy else 1.0
        width, height = round(shown["width"] * scale), round(shown["height"] * scale)
        resize = tuple(round(edge * scale) for edge in shown["resize"])
        options = PictureOptions(width, height, resize=resize, resample=shown["resample"])
        spec = TensorSpec(INPUT, "float32", ("batch", height, width, 3))
        self._pictures = Pictures(options, [spec])
        self._paths = [path for path, _ in part]
        places = {label: place for place, label in enumerate(labels)}
        self.truth = np.array([places[label] for _, label in part], np.int64)
        is_small = len(part) * width * height * 3 <= _LARGEST
        self._kept = [self._see(place) for place in range(len(part))] if is_small else None

    def __len__(self) -> int:
        return len(self._paths)

    def pixels(self, place: int) -> Array:
        """Return [height, width, 3] uint8."""
        return self._see(place) if self._kept is None else self._kept[place]

    def _see(self, place: int) -> Array:
        return self._pictures.see(self._paths[place], place).pixels


@dataclass(slots=True)
class Learner:
    """A model, what it learns from, and the random numbers of its pictures.

    Attributes:
        soft: the teacher's logits [train, classes]; None without one.
    """

    model: Any
    rows: dict[str, Rows]
    soft: torch.Tensor | None
    shown: Mapping[str, Any]
    generator: np.random.Generator

    def batch(self, places: Sequence[int]) -> torch.Tensor:
        """Return training pictures, each flipped, shifted and lit by chance: [batch, 3, height, width]."""
        return self.tensor([self._changed(self.rows["train"].pixels(place)) for place in places])

    def tensor(self, pixels: Sequence[Array]) -> torch.Tensor:
        found = torch.from_numpy(pictures_of(self.shown).collate(pixels)[INPUT])
        on_device = found.to(device_of(self.model))
        return on_device.contiguous(memory_format=torch.channels_last)  # in which convolutions are quicker

    def loss(self, logits: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        truth = torch.from_numpy(self.rows["train"].truth[list(places)]).to(logits.device)
        hard = torch.nn.functional.cross_entropy(logits, truth, label_smoothing=0.1 if self.soft is None else 0.0)
        if self.soft is None:
            return hard
        taught = (self.soft[list(places)].to(logits.device) / _TEMPERATURE).softmax(-1)
        soft = torch.nn.functional.cross_entropy(logits / _TEMPERATURE, taught) * _TEMPERATURE**2
        return _SOFT * soft + (1 - _SOFT) * hard

    def logits(self, split: str) -> torch.Tensor:
        """Return logits of a split's pictures as a device sees them."""
        rows, found = self.rows[split], []
        for start in range(0, len(rows), 64):
            pixels = [self._middle(rows.pixels(place)) for place in range(start, min(start + 64, len(rows)))]
            found.append(self.model(pixel_values=self.tensor(pixels)).logits.float().cpu())
        return torch.cat(found)

    def dev_figure(self) -> float:
        split = "dev" if len(self.rows["dev"]) else "train"
        return float((self.logits(split).argmax(-1).numpy() == self.rows[split].truth).mean())

    def _changed(self, pixels: Array) -> Array:
        height, width = self.shown["height"], self.shown["width"]
        top = int(self.generator.integers(0, pixels.shape[0] - height + 1))
        left = int(self.generator.integers(0, pixels.shape[1] - width + 1))
        cut = pixels[top : top + height, left : left + width]
        if self.generator.random() < 0.5:
            cut = cut[:, ::-1]
        light = 1 + self.generator.uniform(-_LIGHT, _LIGHT) + self.generator.uniform(-_LIGHT / 4, _LIGHT / 4, 3)
        return (cut * light).clip(0, 255).astype(np.uint8)

    def _middle(self, pixels: Array) -> Array:
        top, left = (pixels.shape[0] - self.shown["height"]) // 2, (pixels.shape[1] - self.shown["width"]) // 2
        return pixels[top : top + self.shown["height"], left : left + self.shown["width"]]


def _fit(learner: Learner, options: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    is_new = "new" in options
    epochs = round(options["epochs"] or (40 if is_new else 8))
    rate = options["learning_rate"] or (2e-3 if is_new else 3e-4)
    course = Course(epochs, 32, rate, 0.05, 0.1, options["seed"], precision=options.get("precision", "auto"))

    def loss_of(places: list[int]) -> torch.Tensor:
        return learner.loss(learner.model(pixel_values=learner.batch(places)).logits.float(), places)

    return fit(learner.model, range(len(learner.rows["train"])), loss_of, learner.dev_figure, course, channel)


def _fit_head(learner: Learner, options: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """Compute what the head reads once for a few views of each picture, and train the head on that."""
    model = learner.model.eval().to(feeds_device())
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    read: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].detach()))
    count, views = len(learner.rows["train"]), []
    for view in range(_VIEWS):
        for start in range(0, count, 64):
            with torch.no_grad():
                model(pixel_values=learner.batch(range(start, min(start + 64, count))))
            channel.progress(0.8 * (view + start / count) / _VIEWS)
        views.append(torch.cat(read))
        read.clear()
    split = "dev" if len(learner.rows["dev"]) else "train"
    with torch.no_grad():
        learner.logits(split)
    dev = torch.cat(read)
    hook.remove()
    seen, truth = torch.cat(views), learner.rows[split].truth  # [views * train, features]
    model.to("cpu")

    def loss_of(places: list[int]) -> torch.Tensor:
        return learner.loss(head(seen[places]), [place % count for place in places])

    def dev_figure() -> float:
        return float((head(dev).argmax(-1).cpu().numpy() == truth).mean())

    course = Course(round(options["epochs"] or 60), 64, options["learning_rate"] or 3e-3, 0.05, seed=options["seed"])
    return fit(head, range(len(seen)), loss_of, dev_figure, course)


def _taught(folder: Path, paths: Sequence[str], labels: Sequence[str]) -> torch.Tensor:
    """Return a teacher's logits [pictures, classes] for pictures as its own processor makes them, in our labels' order.

    Raises:
        DataError: it lacks a label.
    """
    model, shown = load_model(folder, _AUTO, False).to(feeds_device()), pictures_of(read_processor(folder))
    names = {label: place for place, label in model.config.id2label.items()}
    if missing := [label for label in labels if label not in names]:
        raise DataError(f"{folder}: the teacher has no label {missing[0]!r}; fine-tune it on the same data first")
    found = []
    with torch.no_grad():
        for start in range(0, len(paths), 32):
            pixels = [shown.see(path, place).pixels for place, path in enumerate(paths[start : start + 32])]
            tensor = torch.from_numpy(shown.collate(pixels)[INPUT]).to(device_of(model))
            both = model(pixel_values=tensor).logits + model(pixel_values=tensor.flip(-1)).logits
            found.append(both.cpu() / 2)
    return torch.cat(found)[:, [names[label] for label in labels]]
