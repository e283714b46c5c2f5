"""Training of token heads: an encoder or a student made for it, by marked tokens and maybe a teacher's words."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForTokenClassification, set_seed

from doorstep.tasks import softmax
from doorstep.tasks.token_classification import Decoder, TokenOptions
from doorstep.tensors import Array
from doorstep_converters.architectures import register_architectures
from doorstep_converters.lessons import padded
from doorstep_converters.losses import logit_loss
from doorstep_converters.placement import device_of, feeds_device
from doorstep_converters.students.build_tagger import MadeTagger, load_tagger, make_tagger, tagger_spec
from doorstep_converters.tasks.loop import Course, fit, rate_for
from doorstep_converters.tasks.token_classification_labels import IGNORED, bio_labels, marks_of, wanted_of
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

_BATCH = 32
_SMALL_BATCH = 64
_ASKED = 64  # texts that a teacher reads at once
_WIDE_RATE, _NARROW_RATE = 5e-5, 3e-4  # of an encoder: Devlin et al. (BERT, 2019, section A.3); found on MiniLM
_TRANSFORMER_RATE = 2e-4
_SMALL_RATE = 3e-3
_UNKNOWN = 0.1  # share of tokens that a small student does not get to see in training
_HEAT = 2.0  # temperature of the distillation
_SOFT = 0.7  # share of the loss that a teacher gives; Hinton et al. weigh it higher than the labels
_LEAST = 1e-6  # of a teacher's probability, whose logarithm is taken

Figure = Callable[[Sequence[dict[str, float]], Sequence[Any]], float]


class Lesson(NamedTuple):
    """One text: token ids, the place of each one's label, and a teacher's probabilities [tokens, labels]."""

    ids: list[int]
    marks: list[int]
    wanted: Array | None


def train(
    out: Path, channel: Channel, checkpoint: Path | None, data: Any, options: dict[str, Any], figure: Figure
) -> dict[str, Any]:
    """Train and write a checkpoint to `out`.

    Args:
        checkpoint: an encoder that gets a head; None where `options["student"]` names what is made.
        options: of `Training`, `max_length`, and perhaps `student`, `teacher` (a folder) and `labels`.
        figure: span F1 of answers.
    """
    set_seed(options["seed"])
    teacher = Path(options["teacher"]) if options.get("teacher") else None
    labels = options.get("labels") or bio_labels(*data.values())
    spec = tagger_spec(options["student"]) if options.get("student") else None
    if spec is not None:
        made = make_tagger(spec, teacher, [row["text"] for row in data["train"]], labels, options["seed"])
    else:
        assert checkpoint is not None  # noqa: S101 -- learn has one
        made = _with_head(checkpoint, labels)
    kind, most = spec.kind if spec else "", options["max_length"]
    lessons = _lessons(made.tokenizer, data["train"], labels, most)
    if teacher is not None:
        lessons = _taught(lessons, data["train"], made.tokenizer, _Teacher(teacher, labels, most), most)
    is_small = kind not in ("", "transformer")
    unknown = made.tokenizer.unk_token_id if is_small else None
    loss_of = _Loss(made.model, unknown)
    exam = _Exam(made, data["dev"] or data["train"], labels, most, figure)
    epochs = round(options["epochs"] or _epochs(len(lessons), is_student=bool(kind)))
    rate = options["learning_rate"] or (_SMALL_RATE if is_small else _rate(kind, made.model.config.hidden_size))
    precision = options.get("precision", "auto")
    if is_small and precision == "auto":
        precision = "fp32"  # so small a model gains nothing from less
    batch = min(_SMALL_BATCH, max(8, len(lessons) // 64)) if is_small else _BATCH
    course = Course(epochs, batch, rate, seed=options["seed"], warmup=0.1, precision=precision)
    length_of = (lambda lesson: len(lesson.ids)) if kind else None
    figures = fit(made.model, lessons, loss_of, exam, course, channel, length_of)
    made.model.save_pretrained(out)
    made.tokenizer.save_pretrained(out)
    return figures


def _rate(kind: str, width: int) -> float:
    """Return the learning rate of an encoder, or of a transformer that was cut out of one."""
    if kind:
        return _TRANSFORMER_RATE
    return rate_for(width, _NARROW_RATE, _WIDE_RATE)


def _epochs(rows: int, is_student: bool) -> float:
    """Return how often to pass over the rows: small tables often, and a student, which has more to learn, too."""
    if is_student:
        return min(60.0, max(20.0, 1500 * _BATCH / rows))
    return min(20.0, max(6.0, 300 * _BATCH / rows))


def _with_head(checkpoint: Path, labels: Sequence[str]) -> MadeTagger:
    """Return a checkpoint with a new head; one that it has is of other labels, even where they are as many."""
    register_architectures()
    model = AutoModelForTokenClassification.from_pretrained(
        checkpoint,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        ignore_mismatched_sizes=True,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
    )
    new = AutoModelForTokenClassification.from_config(model.config)
    for name in ("classifier", "head"):
        if hasattr(model, name):
            setattr(model, name, getattr(new, name))
    return MadeTagger(model, load_tokenizer(checkpoint))


def _lessons(tokenizer: Any, rows: Sequence[Any], labels: Sequence[str], most: int) -> list[Lesson]:
    return [
        Lesson(list(encoding.ids), marks_of(encoding, row, labels), None)
        for encoding, row in zip(_encodings(tokenizer, rows, most), rows, strict=True)
    ]


def _taught(
    lessons: Sequence[Lesson], rows: Sequence[Any], tokenizer: Any, teacher: "_Teacher", most: int
) -> list[Lesson]:
    """Ask the teacher once about every text."""
    texts = [row["text"] for row in rows]
    encodings = _encodings(tokenizer, rows, most)
    return [
        lesson._replace(wanted=wanted_of(text, encoding, words, teacher.labels))
        for lesson, text, encoding, words in zip(lessons, texts, encodings, teacher.words(texts), strict=True)
    ]


def _encodings(tokenizer: Any, rows: Sequence[Any], most: int) -> Any:
    return tokenizer([row["text"] for row in rows], truncation=True, max_length=most).encodings


class _Teacher:
    """A checkpoint with a token head that says what it thinks of words."""

    def __init__(self, folder: Path, labels: Sequence[str], most: int) -> None:
        self._model, self._tokenizer = load_tagger(folder).to(feeds_device()), load_tokenizer(folder)
        self._most = min(most, getattr(self._model.config, "max_position_embeddings", most))
        self._decoder = Decoder(TokenOptions(tuple(labels), self._most))
        self.labels = labels

    @torch.no_grad()
    def words(self, texts: Sequence[str]) -> list[Any]:
        """Return the words of each text, with probabilities."""
        found: list[Any] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), _ASKED):
            places = order[start : start + _ASKED]
            encodings = self._tokenizer(
                [texts[place] for place in places], truncation=True, max_length=self._most
            ).encodings
            logits = _logits(self._model, [encoding.ids for encoding in encodings])
            for place, encoding, row in zip(places, encodings, logits, strict=True):
                found[place] = self._decoder.words(texts[place], [encoding], [softmax(row[: len(encoding)])])
        return found


class _Loss:
    """The mean loss of a batch over its tokens.

    Args:
        unknown: the token that stands in the place of some of a small student's, so that it learns to read what
            stands around a word it does not know; None for none.
    """

    def __init__(self, model: Any, unknown: int | None) -> None:
        self._model, self._unknown = model, unknown

    def __call__(self, part: Sequence[Lesson]) -> torch.Tensor:
        batch = padded([lesson.ids for lesson in part], 0)
        longest = batch["input_ids"].shape[1]
        marks = torch.tensor([lesson.marks + [IGNORED] * (longest - len(lesson.marks)) for lesson in part])
        if self._unknown is not None:
            hidden = (torch.rand(marks.shape) < _UNKNOWN) & (marks != IGNORED)
            batch["input_ids"] = torch.where(hidden, self._unknown, batch["input_ids"])
        device = device_of(self._model)
        feeds = {name: tensor.to(device) for name, tensor in batch.items()}
        logits = self._model(**feeds).logits.float().flatten(0, 1)  # [tokens, labels]
        loss = nn.functional.cross_entropy(logits, marks.flatten().to(device))
        if part[0].wanted is None:
            return loss
        known = [torch.from_numpy(lesson.wanted) for lesson in part]
        wanted = nn.utils.rnn.pad_sequence(known, batch_first=True).flatten(0, 1).to(device)  # [tokens, labels]
        is_known = wanted.sum(dim=1) > 0
        if not is_known.any():
            return (1 - _SOFT) * loss
        taught = wanted[is_known].clamp(min=_LEAST).log()
        return (1 - _SOFT) * loss + _SOFT * logit_loss(logits[is_known], taught, _HEAT).mean()


class _Exam:
    """Span F1 on rows, as a device finds them: most tokens lie in no span, so right tokens alone say little."""

    def __init__(self, made: MadeTagger, rows: Sequence[Any], labels: Sequence[str], most: int, figure: Figure) -> None:
        self._model, self._rows, self._figure = made.model, rows, figure
        self._encodings = _encodings(made.tokenizer, rows, most)
        self._decoder = Decoder(TokenOptions(tuple(labels), most))

    def __call__(self) -> float:
        answers = []
        for start in range(0, len(self._encodings), _ASKED):
            part = self._encodings[start : start + _ASKED]
            logits = _logits(self._model, [encoding.ids for encoding in part])
            for place, row in enumerate(logits, start):
                window = self._encodings[place]
                answers.append(
                    self._decoder.spans(self._rows[place]["text"], [window], [softmax(row[: len(window)])]).flat()
                )
        return self._figure(answers, [row["spans"] for row in self._rows])


def _logits(model: Any, ids: Sequence[Sequence[int]]) -> Array:
    """Return [texts, sequence, labels] float32; texts are padded to the longest."""
    feeds = {name: tensor.to(device_of(model)) for name, tensor in padded(ids, 0).items()}
    logits: Array = model(**feeds).logits.float().cpu().numpy()
    return logits
