"""Distillation: a student learns the teacher's answers from a taught corpus. Start here.

`train` is a job of `stages`. The corpus is mapped from disk, so it may be far larger than memory; a killed run goes on
from its last whole save; a loss that is no number keeps the best weights so far; a batch that is too large for memory
is halved.
"""

import json
import resource
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback

from doorstep.errors import ConversionError, DataError
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.curves import CURVES
from doorstep_converters.data import Row
from doorstep_converters.export.classifier import load_model
from doorstep_converters.learner import (
    Learner,
    NotFiniteError,
    Watch,
    best_save,
    newest_save,
    weights_of,
)
from doorstep_converters.lessons import Batches, Collator, dev_rows, text_lengths
from doorstep_converters.losses import Lesson, Weights
from doorstep_converters.memory import is_out_of_memory
from doorstep_converters.precision import is_bf16
from doorstep_converters.prune.sparsity import (
    SETTLED,
    Sparsity,
    check_sparsity,
    count_zeros,
    prunable,
    zero_smallest,
)
from doorstep_converters.students.fake_quant import Bits, finish_rounding, start_rounding
from doorstep_converters.students.keep import keep_student
from doorstep_converters.taught import Taught, open_taught, read_index
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

_FEWEST_STEPS, _MOST_STEPS, _PASSES = 500, 6000, 12
_TRANSFORMER_SHARE = 0.1  # of the learning rate of a student that starts from random filters


@dataclass(frozen=True, slots=True)
class Options:
    """How a student is taught.

    Attributes:
        steps: updates of the weights; 0 chooses by the corpus's size.
        max_steps: stop after so many, the learning rate having fallen to nothing there; 0 for none.
        batch: texts an update learns from.
        learning_rate: of small students; a transformer learns at a tenth of it.
        max_length: tokens the student keeps of a text.
        dropped: share of tokens left out of a training text (0 to 1).
        bits: quantization-aware training.
        saves: how often the student is judged on dev and saved.
        precision: of matrix products on a GPU, as `precision.is_bf16` reads it; fp32 on a CPU.
        zeros: share of each large tensor's weights that are zero in the end (0 to below 1); more of them become so
            while training goes on, and only what is saved with all of them counts as best.
    """

    steps: int = 0
    max_steps: int = 0
    batch: int = 64
    learning_rate: float = 2e-3
    max_length: int = 128
    seed: int = 20261124
    dropped: float = 0.1
    saves: int = 20
    precision: str = "auto"
    zeros: float = 0.0
    bits: Bits = field(default_factory=Bits)
    weights: Weights = field(default_factory=Weights)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Options":
        """Read what `dataclasses.asdict` wrote, or a part of it.

        Raises:
            DataError: an option that is none. UsageError: `zeros` is no share.
        """
        try:
            check_sparsity(plain.get("zeros", 0.0))
            nested = {"bits": Bits(**plain.get("bits", {})), "weights": Weights(**plain.get("weights", {}))}
            return cls(**{**plain, **nested})
        except TypeError as error:
            raise DataError(f"options of distillation: {error}") from error


def train(
    out: Path,
    channel: Channel,
    student: str,
    taught: str,
    data: str,
    options: dict[str, Any],
    resume: str = "",
) -> dict[str, Any]:
    """Teach a student and write it to `out/checkpoint`; a job of `stages`.

    TensorBoard's curves go to `channel.logs`; to `out/logs` where that is None.

    Args:
        student: checkpoint folder, its head in the order of the taught corpus's labels.
        taught: folder that `teach.answer` wrote.
        data: JSON file with `{"dev": [[text, label]…]}`; the student that does best on dev is kept.
        options: of `Options`.
        resume: folder that keeps saves until training is over, so that a killed run goes on from there.

    Raises:
        DataError: the corpus, its labels and the student's head do not fit.
        ConversionError: the loss is no number before a first save, or one text does not fit into memory.
    """
    began = time.monotonic()
    lessons = _Lessons.load(Path(student), Path(taught), Path(data), Options.from_plain(options))
    run = Path(resume or out / "run")
    outcome = _teach(lessons, run, channel.logs or out / CURVES, channel)
    keep_student(lessons.lesson.student, lessons.tokenizer, find_checkpoint(student).licence, out / "checkpoint")
    shutil.rmtree(run, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        **outcome,
        "all_steps": lessons.all_steps(),
        "seconds": round(time.monotonic() - began, 1),
        "peak_rss_mib": round(peak),
    }


@dataclass(slots=True)
class _Lessons:
    """Everything a training run needs; `lesson` holds the student."""

    options: Options
    index: Taught
    corpus: Dataset
    dev: list[dict[str, Any]]
    tokenizer: Any
    lesson: Lesson
    is_transformer: bool
    prunable: list[torch.Tensor]

    @classmethod
    def load(cls, student: Path, taught: Path, data: Path, options: Options) -> "_Lessons":
        set_seed(options.seed)
        index, corpus, model = read_index(taught), open_taught(taught), load_model(student)
        names = model.config.id2label
        if (own := tuple(str(names[place]) for place in sorted(names))) != index.labels:
            raise DataError(
                f"{student}: expected a head with the teacher's labels {', '.join(index.labels[:4])}, …, "
                f"got {', '.join(own[:4])}, …; build the student with the teacher's labels"
            )
        dev = [Row(*pair) for pair in json.loads(data.read_text(encoding="utf-8"))["dev"]]
        if unknown := {row.label for row in dev} - set(index.labels):
            raise DataError(f"{data}: its dev split has a label {min(unknown)!r:.60} that the teacher lacks")
        if not dev:
            raise DataError(f"{data}: expected a dev split to judge the student on, got no rows")
        weights = options.weights
        lesson = Lesson(model, weights, index.width if weights.vector else 0, index.heads if weights.relations else 0)
        large = prunable(model)  # looked up while they stand in their modules as they are
        start_rounding(model, options.bits)
        is_transformer = hasattr(model.config, "num_attention_heads")
        return cls(
            options, index, corpus, dev_rows(dev, index.labels), load_tokenizer(student), lesson, is_transformer, large
        )

    def all_steps(self) -> int:
        """Return how many updates there are until the corpus is learnt."""
        wanted = round(_PASSES * len(self.corpus) / self.options.batch)
        return self.options.steps or min(_MOST_STEPS, max(_FEWEST_STEPS, wanted))

    def steps(self) -> int:
        """Return how many updates there are to be."""
        return min(self.all_steps(), self.options.max_steps) if self.options.max_steps else self.all_steps()

    def learner(self, run: Path, batch: int, callbacks: list[TrainerCallback]) -> Learner:
        """Return a trainer whose updates learn from the asked number of texts, `batch` at a time."""
        options, steps = self.options, self.steps()
        share = -(-options.batch // batch)
        every = max(1, steps // max(1, options.saves))
        has_cuda = torch.cuda.is_available()
        arguments = TrainingArguments(
            output_dir=str(run),
            max_steps=steps,
            gradient_accumulation_steps=share,
            per_device_eval_batch_size=128,
            learning_rate=options.learning_rate * (_TRANSFORMER_SHARE if self.is_transformer else 1.0),
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 20),
            weight_decay=0.01,
            seed=options.seed,
            bf16=has_cuda and is_bf16(options.precision, on_gpu=True),
            use_cpu=not has_cuda,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=every,
            save_steps=every,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model=SETTLED if options.zeros else "accuracy",
            logging_steps=max(1, every // 2),
            logging_nan_inf_filter=False,
            label_names=["labels"],
            remove_unused_columns=False,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        extras = [name for name in ("vector", "relations", "tokens") if name in self.corpus.column_names]
        if options.zeros:
            callbacks = [Sparsity(self.prunable, options.zeros), *callbacks]
        unused = [name for name in extras if not _is_used(name, options.weights)]
        return Learner(
            Batches(text_lengths(self.corpus), batch, options.seed),
            model=self.lesson,
            args=arguments,
            train_dataset=self.corpus.remove_columns(unused).with_format("numpy"),
            eval_dataset=self.dev,
            data_collator=Collator(
                self.tokenizer, options.max_length, options.dropped, keeps_places=bool(options.weights.relations)
            ),
            compute_metrics=_accuracy,
            callbacks=callbacks,
        )


def _is_used(column: str, weights: Weights) -> bool:
    return bool(weights.vector if column == "vector" else weights.relations)


def _teach(lessons: _Lessons, run: Path, logs: Path, channel: Channel) -> dict[str, Any]:
    """Run the training, in halved batches where memory does not suffice; the best weights are in the lesson then."""
    from torch.utils.tensorboard import SummaryWriter

    batch, notes = lessons.options.batch, []
    writer = SummaryWriter(str(logs))  # one for all attempts: each has a thread, for which memory may not suffice
    while True:
        save = newest_save(run)
        if save is not None:
            notes.append(f"went on from step {save.name.rpartition('-')[2]}")
        learner = lessons.learner(run, batch, [Watch(channel), TensorBoardCallback(writer)])
        try:
            learner.train(resume_from_checkpoint=str(save) if save else None)
            break
        except NotFiniteError as error:
            notes.append(_go_back(lessons.lesson, run, error))
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch == 1:
                raise ConversionError("one text at a time does not fit into memory; shorten max_length") from error
            batch //= 2
            notes.append(f"out of memory: went on in batches of {batch}")
        print(notes[-1], file=sys.stderr)  # noqa: T201 -- the log
    zeroed: dict[str, int] = {}
    if share := lessons.options.zeros:
        zero_smallest(lessons.prunable, share)
        zeroed = count_zeros(lessons.prunable)
    accuracy = learner.evaluate()["eval_accuracy"]
    writer.close()
    finish_rounding(lessons.lesson.student)
    best = learner.state.best_global_step
    return {
        "dev_accuracy": accuracy, "steps": learner.state.global_step, "best_step": best, "batch": batch, "notes": notes,
        **zeroed,
    }  # fmt: skip


def _go_back(lesson: Lesson, run: Path, error: NotFiniteError) -> str:
    """Put the best weights so far into the lesson; returns what happened."""
    save = best_save(run)
    if save is None:
        raise ConversionError(
            f"{error}, before a first save; lower the learning rate, or look for damaged logits in the taught corpus"
        ) from error
    lesson.load_state_dict(weights_of(save))
    return f"{error}: stopped, and kept the weights of step {save.name.rpartition('-')[2]}"


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}
