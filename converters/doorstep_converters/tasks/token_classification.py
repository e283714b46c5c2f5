"""token-classification: texts with labelled spans, an encoder with a token head, spans that agree exactly."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import CheckpointError, DataError, UsageError
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.data import Records, read_records
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.job import Training
from doorstep_converters.students import is_small
from doorstep_converters.tasks.craft import Craft, Timed
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.text import TextCraft, text_evaluation
from doorstep_converters.tasks.token_classification_labels import bio_labels, names_of, places_of

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench
    from doorstep_converters.worker import Channel

_NAMES = ("label", "slot", "entity", "type", "entity_group")
_MAX_LENGTH = 256


class TokenCraft(TextCraft):
    """Answers name every span by its characters and label."""

    task = "token-classification"
    metric = "span-f1"
    is_taught = True
    head = "ForTokenClassification"
    auto = "AutoModelForTokenClassification"
    output = TensorSpec("logits", "float32", ("batch", "sequence", "labels"))

    def read(self, job: "Job") -> Records | None:
        if job.data is None:
            return None
        data = read_records(job.data)
        train, dev, test = (tuple(map(_Row(data.source), rows)) for rows in (data.train, data.dev, data.test))
        return replace(data, train=train, dev=dev, test=test)

    def find(self, job: "Job") -> Checkpoint:
        if not job.checkpoint.startswith("new:"):
            return super().find(job)
        from doorstep_converters.students.build_tagger import tagger_spec

        spec = tagger_spec(job.checkpoint.removeprefix("new:"))
        if spec.kind == "transformer" and not job.training.teacher:
            raise UsageError(f"{job.checkpoint}: a transformer is cut out of its teacher; name one with --teacher")
        return Checkpoint(job.checkpoint, Path(), spec.kind, None, 0, "", False, job.checkpoint, is_new=True)

    def learn(self, job: "Job", source: Checkpoint, data: Records | None, bench: "Workbench") -> Checkpoint:
        if source.labels is not None and not job.training.is_forced:
            return source
        if data is None or not data.train:
            raise DataError(f"{source.source}: it has no token head; give texts with spans with --data to train one")
        teacher = self._teacher(job, data, bench)
        options = {
            **asdict(job.training),
            "student": source.source.removeprefix("new:") if source.is_new else "",
            "max_length": min(source.max_length or _MAX_LENGTH, _MAX_LENGTH),
            "teacher": str(teacher.folder.resolve()) if teacher else "",
            "teacher_digest": teacher.digest if teacher else "",
            "labels": list(teacher.labels or ()) if teacher else bio_labels(data.train, data.dev),
        }
        output = self.run_training(bench, None if source.is_new else source, data, options)
        trained = self.find(replace(job, checkpoint=str(output.folder / "checkpoint")))
        licence = source.licence or (teacher.licence if teacher else "")
        return replace(
            trained, source=source.source, licence=licence, max_length=source.max_length or trained.max_length
        )

    def _teacher(self, job: "Job", data: Records, bench: "Workbench") -> Checkpoint | None:
        """Return the teacher that was asked for; one without a token head is trained first, in the usual way."""
        asked = job.training
        if asked.teacher is None:
            return None
        own = Training(seed=asked.seed, precision=asked.precision)
        plain = replace(job, checkpoint=asked.teacher, training=own)
        found = self.find(plain)
        if job.checkpoint.startswith("new:transformer") and (found.is_new or is_small(found.model_type)):
            raise UsageError(f"{job.checkpoint}: expected an encoder's layers to begin with, got {found.model_type}")
        teacher = self.learn(plain, found, data, bench)
        if "O" not in (teacher.labels or ()):
            named = ", ".join(teacher.labels or ())
            raise CheckpointError(f"{asked.teacher}: expected a label O, of words in no span, got {named:.80}")
        if unknown := sorted(label for label in names_of(data.train) if not places_of(label, teacher.labels or ())):
            raise CheckpointError(
                f"{asked.teacher}: this teacher knows no label {unknown[0]!r}; train it on the same data"
            )
        return teacher

    def plan(self, job: "Job", data: Records | None, checkpoint: Checkpoint) -> Evaluation:
        if data is None:
            return text_evaluation([], [], job.eval_limit)
        splits = [([row["text"] for row in rows], [row["spans"] for row in rows]) for rows in (data.dev, data.test)]
        return text_evaluation(splits, [row["text"] for row in data.train], job.eval_limit)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        if not checkpoint.labels:
            raise CheckpointError(f"{checkpoint.source}: its configuration names no labels (id2label)")
        return {**super().options(job, checkpoint), "labels": list(checkpoint.labels)}

    def load_model(self, folder: Path, is_pickle_allowed: bool) -> Any:
        from doorstep_converters.architectures import register_architectures

        register_architectures()
        return super().load_model(folder, is_pickle_allowed)

    def answer_texts(
        self, folder: Path, tokenizer: Any, items: Sequence[Any], plan: dict[str, Any]
    ) -> list[dict[str, float]]:
        import torch

        from doorstep.tasks import softmax
        from doorstep.tasks.token_classification import Decoder, TokenOptions

        model = self.load_model(folder, plan["is_pickle_allowed"])
        decoder = Decoder(TokenOptions(tuple(plan["options"]["labels"]), plan["max_length"]))
        answers = []
        for place, text in enumerate(items):
            encoded = tokenizer(text, truncation=True, max_length=plan["max_length"])
            feeds = {name: torch.tensor([encoded[name]]) for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                logits = model(**feeds).logits[0].float().numpy()  # [sequence, labels]
            answers.append(decoder.spans(text, encoded.encodings, [softmax(logits)]).flat())
            plan["progress"]((place + 1) / len(items))
        return answers

    def timed(self, evaluation: Evaluation, options: dict[str, Any]) -> Timed:
        return Craft.timed(self, evaluation, options)  # a long text would be several windows

    def figure(self, answers: Sequence[dict[str, float]], truth: Sequence[Any]) -> float:
        return span_f1([_spans(answer) for answer in answers], [{tuple(span) for span in spans} for spans in truth])

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "words", "the surest span")

    def train(
        self, out: Path, channel: "Channel", checkpoint: Path | None, data: Any, options: dict[str, Any]
    ) -> dict[str, Any]:
        from doorstep_converters.tasks.token_classification_training import train

        return train(out, channel, checkpoint, data, options, self.figure)


def span_f1(found: Sequence[set[Any]], truth: Sequence[set[Any]]) -> float:
    """Return micro F1 over exact spans: characters and label must be right (CoNLL 2003)."""
    hits = sum(len(one & other) for one, other in zip(found, truth, strict=True))
    total = sum(map(len, found)) + sum(map(len, truth))
    return 2 * hits / total if total else 1.0


def _spans(answer: dict[str, float]) -> set[tuple[int, int, str]]:
    """Read spans back from their names; the first name stands for all of them together."""
    found = set()
    for name in list(answer)[1:] or [name for name in answer if name != "no span" and " | " not in name]:
        place, _, label = name.partition(" ")
        start, _, end = place.partition("-")
        found.add((int(start), int(end), label))
    return found


class _Row:
    """Checks one row and gives it one form: a text and `[start, end, label]` lists."""

    def __init__(self, source: Path) -> None:
        self._source, self._number = source, 0

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        text, spans = record.get("text"), record.get("spans", record.get("entities"))
        place = f"{self._source}: row {self._number}"
        if not isinstance(text, str) or not isinstance(spans, list):
            raise DataError(f"{place}: expected a text and a list of spans, got {text!r:.40} and {spans!r:.40}")
        found, last = [], 0
        for span in sorted(spans, key=lambda span: _start(span, place)):
            label = next((span[name] for name in _NAMES if name in span), None)
            start, end = span.get("start"), span.get("end")
            if not isinstance(label, str) or not label.strip() or type(start) is not int or type(end) is not int:
                raise DataError(f"{place}: expected spans with label, start and end, got {span!r:.80}")
            if not last <= start < end <= len(text):
                raise DataError(f"{place}: span {start} to {end} lies outside the text or over another one")
            found.append([start, end, label])
            last = end
        return {"text": text, "spans": found}


def _start(span: Any, place: str) -> int:
    if not isinstance(span, dict) or type(span.get("start")) is not int:
        raise DataError(f"{place}: expected spans with label, start and end, got {span!r:.80}")
    start: int = span["start"]
    return start


CRAFT = TokenCraft()
