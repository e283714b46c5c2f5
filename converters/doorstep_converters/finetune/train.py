"""The fine-tuning job: rows in, a checkpoint folder out. It goes on after a kill, and says what went otherwise."""

import json
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorWithPadding, set_seed

from doorstep.errors import ConversionError, DataError, UsageError
from doorstep.tasks import softmax
from doorstep.tensors import Array
from doorstep_converters.ask import ask, labels_of
from doorstep_converters.calibration_error import fit_temperature
from doorstep_converters.data import names_in
from doorstep_converters.export.classifier import load_model
from doorstep_converters.finetune.load import load_for_training
from doorstep_converters.finetune.memory import halving
from doorstep_converters.finetune.methods import Method, find_method
from doorstep_converters.finetune.resume import last_good, last_whole, step_of
from doorstep_converters.finetune.trainer import (
    SAVE_EVERY_S,
    Diverged,
    GuardedTrainer,
    callbacks,
    epochs_for,
    training_arguments,
)
from doorstep_converters.finetune.tuned import register
from doorstep_converters.together import share_of
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

_BATCH = 32
_PROOF_ROWS, _SAME = 32, 1e-3
_UNSURE = 0.85  # fitted temperature below which answers are flatter than they are wrong


def train(
    out: Path, channel: Channel, checkpoint: str, data: str, labels: list[str], max_length: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Fine-tune a checkpoint with a head for `labels` and write it to `out`; a job of `stages`.

    The epoch that does best on the dev split is kept. The state of the run lies in `channel.kept`, so that the next
    try goes on from its last checkpoint.

    Args:
        data: a JSON file `{"train": [[text, label]…], "dev": …}`; a list of probabilities may stand for a label.
        options: `method`, `seed`, `epochs`, `learning_rate` (None for the method's own), `is_pickle_allowed`, and
            where wanted `teacher` (folder that labels the training texts), `batch`, `save_every_s`, `precision`,
            `is_multi_label` (rows name several labels, and `dev_accuracy` is the share of rows whose whole set is
            right).

    Raises:
        ConversionError: the loss became NaN; or what was merged answers otherwise than what was trained.
        DataError: a label that is not among `labels`, or that the teacher lacks.
        UsageError: the method is unknown or does not fit the architecture; more processes than GPUs.
    """
    set_seed(options["seed"])
    register()
    start = time.monotonic()
    folder, run = Path(checkpoint), (channel.kept or out) / "run"
    method = find_method(options.get("method", "full"))
    if options.get("mixup") and not method.can_mix:
        raise UsageError(f"finetune: {options['method']} cannot mix embeddings; leave --mixup out, or use lora or full")
    tokenizer = load_tokenizer(folder)
    splits: dict[str, list[list[Any]]] = json.loads(Path(data).read_text(encoding="utf-8"))
    if options.get("teacher"):
        splits["train"] = _taught(Path(options["teacher"]), splits["train"], labels, max_length, channel.note)
    is_multi_label = options.get("is_multi_label", False)
    if is_multi_label:
        splits = {name: _as_sets(pairs, labels) for name, pairs in splits.items()}
    rows = {name: encode(tokenizer, pairs, labels, max_length) for name, pairs in splits.items()}
    if (done := last_whole(run)) is not None:
        channel.note(f"training goes on from step {step_of(done)}")

    def attempt(batch: int) -> GuardedTrainer:
        model = load_for_training(folder, labels, options["is_pickle_allowed"], is_multi_label=is_multi_label)
        trainer = _trainer(run, channel, model, tokenizer, rows, method, batch, options)
        return _run(trainer, run)

    trainer = halving(attempt, share_of(options.get("batch") or _BATCH), channel.note)
    found = trainer.predict(rows["dev"], metric_key_prefix="eval")
    figures = {
        "dev_accuracy": found.metrics["eval_accuracy"],
        "steps": trainer.state.global_step,
        "method": options.get("method", "full"),
        "processes": trainer.args.world_size,
        **_sizes(trainer.model),
    }
    if trainer.is_world_process_zero():
        if not is_multi_label:
            figures["temperature"] = fitting_temperature(found.predictions, found.label_ids, channel.note)
        _save(trainer, method, tokenizer, folder, out / "checkpoint", rows["dev"][:_PROOF_ROWS])
        if channel.kept is None:
            shutil.rmtree(run, ignore_errors=True)
    return {**figures, "seconds": round(time.monotonic() - start, 2), **_peaks()}


def encode(tokenizer: Any, pairs: Sequence[Sequence[Any]], labels: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """Return rows for the Trainer; a label is a class number, or the distribution it was given as.

    Raises:
        DataError: a label that is not among `labels`.
    """
    places = {label: place for place, label in enumerate(labels)}
    _refuse_unknown({label for _, label in pairs if isinstance(label, str)}, labels)
    ids = tokenizer([text for text, _ in pairs], truncation=True, max_length=limit)["input_ids"]
    return [
        {
            "input_ids": row,
            "attention_mask": [1] * len(row),
            "labels": places[label] if isinstance(label, str) else label,
        }
        for row, (_, label) in zip(ids, pairs, strict=True)
    ]


def _refuse_unknown(found: set[str], labels: Sequence[str]) -> None:
    if unknown := sorted(found - set(labels)):
        raise DataError(f"training data: expected labels of the head ({', '.join(labels[:5])}, …), got {unknown[0]!r}")


def _as_sets(pairs: Sequence[Sequence[Any]], labels: Sequence[str]) -> list[list[Any]]:
    """Return rows whose labels are 0 or 1 for each of `labels`; a teacher's probabilities stay.

    Raises:
        DataError: a label that is not among `labels`.
    """
    found: list[list[Any]] = []
    for text, label in pairs:
        names = names_in(label) if isinstance(label, str) else []
        _refuse_unknown(set(names), labels)
        found.append([text, [float(name in names) for name in labels] if isinstance(label, str) else label])
    return found


def _taught(
    teacher: Path, pairs: list[list[Any]], labels: list[str], limit: int, say: Callable[[str], None]
) -> list[list[Any]]:
    """Put the teacher's probabilities in the places of the labels."""
    places = labels_of(teacher, labels, "training data")
    answers = ask(teacher, [text for text, _ in pairs], limit, lambda share: None, say=say)[:, places]
    return [[text, row.tolist()] for (text, _), row in zip(pairs, answers, strict=True)]


def _trainer(
    run: Path,
    channel: Channel,
    model: Any,
    tokenizer: Any,
    rows: dict[str, list[dict[str, Any]]],
    method: Method,
    batch: int,
    options: dict[str, Any],
) -> GuardedTrainer:
    whole = options.get("batch") or _BATCH
    epochs = epochs_for(len(rows["train"]), whole, options["epochs"])
    steps = int(epochs * max(1, -(-len(rows["train"]) // whole)))
    arguments = training_arguments(
        run, batch, share_of(whole) // batch, epochs, options["learning_rate"] or method.learning_rate, options
    )
    return GuardedTrainer(
        model=method.prepare(model, steps),
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["dev"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_of_sets if options.get("is_multi_label") else _accuracy,
        callbacks=callbacks(channel, options.get("save_every_s", SAVE_EVERY_S)),
        mixup=options.get("mixup", 0.0),
    )


def fitting_temperature(logits: Array, truth: Sequence[int], note: Callable[[str], None]) -> float:
    """Return the temperature that fits `logits` [rows, classes] best, and tell where it is a poor teacher's."""
    temperature = fit_temperature(softmax(logits.astype(np.float32)), truth)
    if temperature < _UNSURE:
        note(
            f"a temperature of {temperature:.2f} fits its answers on dev: it is more often right than it is sure, and "
            "a student would learn flat answers; before it teaches, give it more --epochs or a higher --learning-rate"
        )
    return temperature


def _run(trainer: GuardedTrainer, run: Path) -> GuardedTrainer:
    last = last_whole(run)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except Diverged as error:
        good = last_good(run)
        kept = f"the last good checkpoint, of step {step_of(good)}, is kept in {good}" if good else "none was saved yet"
        raise ConversionError(
            f"training: the loss is no number at step {error.step}; {kept}; lower the learning rate: "
            f"--learning-rate {trainer.args.learning_rate / 10:g}"
        ) from error
    return trainer


def _save(
    trainer: GuardedTrainer, method: Method, tokenizer: Any, source: Path, target: Path, rows: list[dict[str, Any]]
) -> None:
    """Write the checkpoint and see that, loaded again, it answers as what was trained."""
    feeds = DataCollatorWithPadding(tokenizer)([{**row, "labels": 0} for row in rows])
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).to("cpu").float().eval()
    with torch.inference_mode():
        expected = model(input_ids=feeds["input_ids"], attention_mask=feeds["attention_mask"]).logits
    method.finish(model).save_pretrained(target)
    tokenizer.save_pretrained(target)
    _keep_limits(source, target)
    with torch.inference_mode():
        got = load_model(target)(input_ids=feeds["input_ids"], attention_mask=feeds["attention_mask"]).logits
    error = float((got - expected).abs().max())
    if not error <= _SAME * max(1.0, float(expected.abs().max())):
        raise ConversionError(
            f"finetune: the saved checkpoint answers otherwise than what was trained (a logit differs by {error:.3g}); "
            "use --finetune full"
        )


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def _of_sets(prediction: Any) -> dict[str, float]:
    """Judge sets at the probability of one half: whole sets, and micro-F1, by which the best epoch is kept."""
    from sklearn.metrics import f1_score

    found, right = prediction.predictions > 0, prediction.label_ids > 0.5  # [rows, classes]
    return {
        "accuracy": float((found == right).all(axis=1).mean()),
        "micro_f1": float(f1_score(right, found, average="micro", zero_division=0.0)),
    }


def _sizes(model: Any) -> dict[str, int]:
    counts = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return {"parameters": sum(n for n, _ in counts), "trainable": sum(n for n, learns in counts if learns)}


def _peaks() -> dict[str, float]:
    """Return the most memory this process has had, in MiB: resident, and on the GPU where there is one."""
    peaks = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if torch.cuda.is_available():
        peaks["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return {name: round(value, 1) for name, value in peaks.items()}


def _keep_limits(source: Path, target: Path) -> None:
    """Carry over what says how long a text may be and under which licence the weights are."""
    for name in ("sentence_bert_config.json", "README.md"):
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())
