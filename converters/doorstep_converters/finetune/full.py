"""Full fine-tuning with transformers' Trainer: every weight learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from doorstep.errors import ConversionError
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

_BATCH = 32
_WARMUP = 0.1
_MIN_STEPS, _MAX_STEPS = 300, 3000


def train(
    out: Path, channel: Channel, checkpoint: str, data: str, labels: list[str], max_length: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Fine-tune a checkpoint with a new head and write it to `out`; a job of `stages`.

    The epoch that does best on the dev split is kept. `data` is a JSON file `{"train": [[text, label]…], "dev": …}`.

    Raises:
        ConversionError: the loss became NaN.
    """
    set_seed(options["seed"])
    folder = Path(checkpoint)
    tokenizer = load_tokenizer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        ignore_mismatched_sizes=True,
        use_safetensors=None if options["is_pickle_allowed"] else True,
        local_files_only=True,
        dtype=torch.float32,
    )
    splits = json.loads(Path(data).read_text(encoding="utf-8"))
    rows = {name: _encode(tokenizer, pairs, labels, max_length) for name, pairs in splits.items()}
    trainer = Trainer(
        model=model,
        args=_arguments(out / "run", len(rows["train"]), options),
        train_dataset=rows["train"],
        eval_dataset=rows["dev"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
        callbacks=[_Progress(channel)],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not losses or not np.isfinite(losses).all():
        raise ConversionError("the training loss is no number; lower the learning rate: --learning-rate 1e-5")
    accuracy = trainer.evaluate()["eval_accuracy"]
    trainer.model.to("cpu").save_pretrained(out / "checkpoint")
    tokenizer.save_pretrained(out / "checkpoint")
    _keep_limits(folder, out / "checkpoint")
    import shutil

    shutil.rmtree(out / "run", ignore_errors=True)
    return {"dev_accuracy": accuracy, "steps": trainer.state.global_step}


def _arguments(folder: Path, rows: int, options: dict[str, Any]) -> TrainingArguments:
    per_epoch = max(1, rows // _BATCH)
    epochs = options["epochs"] or min(20.0, max(3.0, _MIN_STEPS / per_epoch), max(1.0, _MAX_STEPS / per_epoch))
    has_cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=round(epochs),
        per_device_train_batch_size=_BATCH,
        per_device_eval_batch_size=64,
        learning_rate=options["learning_rate"],
        warmup_steps=_WARMUP,
        weight_decay=0.01,
        seed=options["seed"],
        bf16=has_cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not has_cuda,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_steps=25,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _encode(tokenizer: Any, pairs: list[list[str]], labels: list[str], max_length: int) -> list[dict[str, Any]]:
    places = {label: place for place, label in enumerate(labels)}
    ids = tokenizer([text for text, _ in pairs], truncation=True, max_length=max_length)["input_ids"]
    return [
        {"input_ids": row, "attention_mask": [1] * len(row), "labels": places[label]}
        for row, (_, label) in zip(ids, pairs, strict=True)
    ]


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def _keep_limits(source: Path, target: Path) -> None:
    """Carry over what says how long a text may be and under which licence the weights are."""
    for name in ("sentence_bert_config.json", "README.md"):
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())


class _Progress(TrainerCallback):
    """Tells the parent how far training is."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._channel.progress(state.global_step / max(1, state.max_steps))
