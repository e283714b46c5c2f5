"""Training on sound: recordings change a little each time they are seen; labels or letters, and maybe a teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from doorstep.sound.items import SoundOptions, SoundReader
from doorstep.tensors import Array, TensorSpec
from doorstep_converters.placement import device_of, feeds_device
from doorstep_converters.students.audio_cnn import AudioCnnConfig, AudioCnnForCTC, AudioCnnForSequenceClassification
from doorstep_converters.tasks.loop import Course, fit
from doorstep_converters.tasks.sound_graph import graph_of, load_model

if TYPE_CHECKING:
    from doorstep_converters.worker import Channel

INPUTS = (TensorSpec("waveform", "float32", ("batch", "samples")), TensorSpec("lengths", "int64", ("batch",)))
_SMALLEST_BATCH, _BATCH, _DEV_BATCH = 8, 32, 64
_STEPS = 1200  # of a course that chooses its epochs by the data
_HEAT = 2.0  # of the distillation (Hinton et al., https://arxiv.org/abs/1503.02531)


class Augmenter:
    """Changes speed and pitch together, loudness, place and background of a recording; a seed says how.

    Speed perturbation: Ko et al., "Audio Augmentation for Speech Recognition", Interspeech 2015.
    """

    def __init__(self, rate: int, seed: int) -> None:
        self._rate = rate
        self._generator = np.random.default_rng(seed)

    def __call__(self, samples: Array) -> Array:
        """Return a changed copy of float32 [samples]; every second one stays as it is."""
        draw = self._generator
        if draw.random() < 0.5:
            return samples
        places = np.arange(0, len(samples) - 1, draw.uniform(0.84, 1.19))
        changed = np.interp(places, np.arange(len(samples)), samples)
        before, after = draw.integers(0, self._rate // 10, 2)
        changed = np.pad(changed, (before, after))
        if draw.random() < 0.5:
            noise = draw.standard_normal(len(changed))
            if draw.random() < 0.5:  # more of it below: 6 dB an octave
                noise = np.convolve(noise, 0.9 ** np.arange(48))[: len(changed)]
            level = np.sqrt(np.mean(changed**2) / np.mean(noise**2))
            changed = changed + noise * level * 10 ** (-draw.uniform(12, 40) / 20)
        return (changed * 10 ** (draw.uniform(-14, 6) / 20)).astype(np.float32)


def train_sound(out: Path, channel: "Channel", checkpoint: Path | None, data: Any, options: dict[str, Any]) -> Any:
    """Train a network of its own or a checkpoint with a new head; writes the checkpoint to `out`."""
    torch.manual_seed(options["seed"])
    torch.set_num_threads(max(1, torch.get_num_threads()))
    names: list[str] = options["names"]
    model = _new(options, names) if checkpoint is None else _with_head(checkpoint, options, names)
    graph = graph_of(model, checkpoint or out)
    teacher = None
    if options["teacher"]:
        teacher = graph_of(load_model(Path(options["teacher"]), options["is_ctc"]), Path(options["teacher"]))
        teacher.to(feeds_device())
    reader = SoundReader(SoundOptions(options["rate"], 600.0, options["shortest"]), INPUTS)
    rows = {split: _rows(reader, part, options, names) for split, part in data.items()}
    judge = _Judge(options["is_ctc"], options["blank"])
    augment = Augmenter(options["rate"], options["seed"])

    def loss_of(part: list[Any]) -> torch.Tensor:
        feeds = _feeds(reader, [augment(samples) for samples, _ in part], device_of(graph))
        logits = graph(*feeds)
        loss = judge.loss(logits, feeds[1], [truth for _, truth in part], model.config)
        if teacher is None:
            return loss
        with torch.no_grad():
            wanted = teacher(*feeds)
        return 0.3 * loss + 0.7 * distance(logits, wanted)

    def dev_figure() -> float:
        known = rows["dev"] or rows["train"][:500]
        return judge.figure(graph, reader, known)

    batch = min(_BATCH, max(_SMALLEST_BATCH, len(rows["train"]) // 64))  # a small table still gives many steps
    steps = max(1, -(-len(rows["train"]) // batch))
    epochs = round(options["epochs"] or min(60.0, max(4.0, _STEPS / steps)))
    rate = options["learning_rate"] or (6e-3 if checkpoint is None else 1e-4)
    course = Course(epochs, batch, rate, 0.02, warmup=0.1, seed=options["seed"])
    graph.train()
    figures = fit(graph, rows["train"], loss_of, dev_figure, course, channel, lambda row: len(row[0]))
    model.eval()
    model.save_pretrained(out)
    return figures


def distance(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return how far softened answers [..., classes] are from a teacher's (Kullback and Leibler's divergence).

    Networks of one step may see a frame more or less of the end; what both have is compared.
    """
    if logits.dim() == 3:  # [batch, frames, tokens]
        frames = min(logits.shape[1], wanted.shape[1])
        logits, wanted = logits[:, :frames], wanted[:, :frames]
    found = torch.log_softmax(logits / _HEAT, dim=-1).flatten(0, -2)
    target = torch.softmax(wanted / _HEAT, dim=-1).flatten(0, -2)
    return nn.functional.kl_div(found, target, reduction="batchmean") * _HEAT**2


def frame_of(rate: int) -> tuple[int, int, int]:
    """Return window, hop (25 and 10 ms) and points of the Fourier transform for a rate."""
    window = round(rate * 0.025)
    return window, round(rate * 0.01), 1 << (window - 1).bit_length()


class _Judge:
    """Loss and figure of labels, or of letters."""

    def __init__(self, is_ctc: bool, blank: int) -> None:
        self._is_ctc, self._blank = is_ctc, blank

    def loss(self, logits: torch.Tensor, lengths: torch.Tensor, truth: Sequence[Any], config: Any) -> torch.Tensor:
        if not self._is_ctc:
            wanted = torch.tensor(truth, device=logits.device)
            return nn.functional.cross_entropy(logits, wanted, label_smoothing=0.05)
        from doorstep_converters.tasks.sound_graph import frame_samples

        frames = torch.clamp(lengths // frame_samples(config), min=1, max=logits.shape[1])
        letters = torch.tensor([letter for text in truth for letter in text], device=logits.device)
        sizes = torch.tensor([len(text) for text in truth], device=logits.device)
        chances = torch.log_softmax(logits, dim=-1).transpose(0, 1)  # [frames, batch, tokens]
        return nn.functional.ctc_loss(chances, letters, frames, sizes, self._blank, zero_infinity=True)

    def figure(self, graph: nn.Module, reader: SoundReader, rows: Sequence[Any]) -> float:
        """Return the share of rows that are answered right."""
        right = 0
        for start in range(0, len(rows), _DEV_BATCH):
            part = rows[start : start + _DEV_BATCH]
            feeds = _feeds(reader, [samples for samples, _ in part], device_of(graph))
            found = graph(*feeds).argmax(-1).tolist()
            right += sum(self._read(answer) == truth for answer, (_, truth) in zip(found, part, strict=True))
        return right / max(1, len(rows))

    def _read(self, answer: Any) -> Any:
        if not self._is_ctc:
            return answer
        runs = [place for n, place in enumerate(answer) if n == 0 or place != answer[n - 1]]
        return [place for place in runs if place != self._blank]


def _new(options: dict[str, Any], names: Sequence[str]) -> Any:
    window, hop, points = frame_of(options["rate"])
    layers, width, states = options["spec"]
    config = AudioCnnConfig(
        rate=options["rate"], window=window, hop=hop, fft=points, layers=layers, width=width, states=states,
        vocab_size=len(names) if options["is_ctc"] else 0, pad_token_id=options["blank"],
    )  # fmt: skip
    if options["is_ctc"]:
        return AudioCnnForCTC(config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: place for place, name in enumerate(names)}
    return AudioCnnForSequenceClassification(config)


def _with_head(checkpoint: Path, options: dict[str, Any], names: Sequence[str]) -> Any:
    """Load a checkpoint with an untrained head of the right size."""
    from transformers import AutoModelForAudioClassification, AutoModelForCTC

    from doorstep_converters.architectures import register_architectures

    register_architectures()
    head: dict[str, Any] = {
        "id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)},
    }  # fmt: skip
    if options["is_ctc"]:
        head = {"vocab_size": len(names), "pad_token_id": options["blank"]}
    auto = AutoModelForCTC if options["is_ctc"] else AutoModelForAudioClassification
    return auto.from_pretrained(
        checkpoint,
        ignore_mismatched_sizes=True,
        local_files_only=True,
        dtype=torch.float32,
        use_safetensors=True,
        **head,
    )


def _rows(reader: SoundReader, part: Sequence[Any], options: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """Return (samples, class or letters) of every row."""
    places = {name: place for place, name in enumerate(names)}
    rows = []
    for row in part:
        (samples,) = reader.read([row["file"]])
        truth: Any = places[row["truth"]] if not options["is_ctc"] else [
            places[letter] for letter in "|".join(row["truth"].split()) if letter in places
        ]  # fmt: skip
        rows.append((samples, truth))
    return rows


def _feeds(reader: SoundReader, samples: Sequence[Array], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    feeds = reader.collate(list(samples))
    return torch.from_numpy(feeds["waveform"]).to(device), torch.from_numpy(feeds["lengths"]).to(device)
