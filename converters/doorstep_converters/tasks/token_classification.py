"""token-classification: texts with labelled spans, an encoder with a token head, spans that agree exactly."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import CheckpointError, DataError
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.data import Records, read_records
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.tasks.craft import Craft, Timed
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.text import TextCraft, text_evaluation

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench
    from doorstep_converters.worker import Channel

_NAMES = ("label", "slot", "entity", "type", "entity_group")
_MAX_LENGTH = 256
_IGNORED = -100
_RATE = 5e-5  # as Devlin et al. (BERT, 2019, section A.3) have it for encoders


class TokenCraft(TextCraft):
    """Answers name every span by its characters and label."""

    task = "token-classification"
    metric = "span-f1"
    head = "ForTokenClassification"
    auto = "AutoModelForTokenClassification"
    output = TensorSpec("logits", "float32", ("batch", "sequence", "labels"))

    def read(self, job: "Job") -> Records | None:
        if job.data is None:
            return None
        data = read_records(job.data)
        train, dev, test = (tuple(map(_Row(data.source), rows)) for rows in (data.train, data.dev, data.test))
        return replace(data, train=train, dev=dev, test=test)

    def learn(self, job: "Job", source: Checkpoint, data: Records | None, bench: "Workbench") -> Checkpoint:
        if source.labels is not None and not job.training.is_forced:
            return source
        if data is None or not data.train:
            raise DataError(f"{source.source}: it has no token head; give texts with spans with --data to train one")
        options = {**asdict(job.training), "max_length": min(source.max_length, _MAX_LENGTH)}
        output = self.run_training(bench, source, data, options)
        trained = self.find(replace(job, checkpoint=str(output.folder / "checkpoint")))
        return replace(trained, source=source.source, licence=source.licence, max_length=source.max_length)

    def plan(self, job: "Job", data: Records | None, checkpoint: Checkpoint) -> Evaluation:
        if data is None:
            return text_evaluation([], [], job.eval_limit)
        splits = [([row["text"] for row in rows], [row["spans"] for row in rows]) for rows in (data.dev, data.test)]
        return text_evaluation(splits, [row["text"] for row in data.train], job.eval_limit)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        if not checkpoint.labels:
            raise CheckpointError(f"{checkpoint.source}: its configuration names no labels (id2label)")
        return {**super().options(job, checkpoint), "labels": list(checkpoint.labels)}

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
        import torch
        from transformers import AutoModelForTokenClassification, set_seed

        from doorstep.tasks import softmax
        from doorstep.tasks.token_classification import Decoder, TokenOptions
        from doorstep_converters.tasks.loop import Course, fit
        from doorstep_converters.tokenizer import load_tokenizer

        assert checkpoint is not None  # noqa: S101 -- learn has one
        set_seed(options["seed"])
        names = sorted({label for rows in data.values() for row in rows for _, _, label in row["spans"]})
        labels = ["O", *(f"{prefix}-{name}" for name in names for prefix in ("B", "I"))]
        tokenizer = load_tokenizer(checkpoint)
        model = AutoModelForTokenClassification.from_pretrained(
            checkpoint,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: place for place, label in enumerate(labels)},
            local_files_only=True,
            dtype=torch.float32,
        )
        rows = {
            split: [_tokens(tokenizer, row, labels, options["max_length"]) for row in part]
            for split, part in data.items()
        }

        def batch(part: list[Any]) -> tuple[dict[str, Any], Any]:
            longest = max(len(ids) for ids, _ in part)
            feeds = {
                "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in part]),
                "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in part]),
            }
            return feeds, torch.tensor([marks + [_IGNORED] * (longest - len(marks)) for _, marks in part])

        def loss_of(part: list[Any]) -> Any:
            feeds, marks = batch(part)
            return torch.nn.functional.cross_entropy(model(**feeds).logits.float().flatten(0, 1), marks.flatten())

        split = "dev" if data["dev"] else "train"
        decoder = Decoder(TokenOptions(tuple(labels), options["max_length"]))
        encodings = tokenizer(
            [row["text"] for row in data[split]], truncation=True, max_length=options["max_length"]
        ).encodings

        def dev_figure() -> float:
            """Return span F1: most tokens lie in no span, so that finding none has a good share of right tokens."""
            answers = []
            for start in range(0, len(encodings), 64):
                feeds, _ = batch(rows[split][start : start + 64])
                logits = model(**feeds).logits.float().numpy()  # [texts, sequence, labels]
                for place, row in enumerate(logits, start):
                    window = encodings[place]
                    answers.append(
                        decoder.spans(data[split][place]["text"], [window], [softmax(row[: len(window)])]).flat()
                    )
            return self.figure(answers, [row["spans"] for row in data[split]])

        epochs = round(options["epochs"] or min(20.0, max(4.0, 300 * 32 / len(rows["train"]))))
        rate, precision = options["learning_rate"] or _RATE, options.get("precision", "auto")
        course = Course(epochs, 32, rate, seed=options["seed"], warmup=0.1, precision=precision)
        figures = fit(model, rows["train"], loss_of, dev_figure, course, channel)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return figures


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


def _tokens(tokenizer: Any, row: dict[str, Any], labels: list[str], max_length: int) -> tuple[list[int], list[int]]:
    """Return ids and marks: every token of a span is labelled, B on the tokens of its first word."""
    from doorstep.tasks.token_classification import is_joined

    encoded = tokenizer(row["text"], truncation=True, max_length=max_length).encodings[0]
    places = {label: place for place, label in enumerate(labels)}
    marks = [_IGNORED if special else 0 for special in encoded.special_tokens_mask]
    for start, end, label in row["spans"]:
        word, reached = None, -1  # of the span's first word
        for number, (left, right) in enumerate(encoded.offsets):
            if marks[number] == _IGNORED or left == right or right <= start or left >= end:
                continue
            is_first = reached < 0 or (encoded.word_ids[number] == word and is_joined(row["text"], reached, left))
            if is_first:
                word, reached = encoded.word_ids[number], right
            marks[number] = places[f"{'B' if is_first else 'I'}-{label}"]
    return list(encoded.ids), marks


CRAFT = TokenCraft()
