"""transformers' Trainer with what a long run needs: it stops on NaN, saves often and tells how far it is."""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from doorstep_converters.augment.mixing import mixup
from doorstep_converters.precision import is_bf16
from doorstep_converters.worker import Channel

SAVE_EVERY_S = 60.0
_WARMUP = 0.1
_MIN_STEPS, _MAX_STEPS = 300, 3000


class Diverged(ArithmeticError):
    """The loss of a training step is no finite number."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class GuardedTrainer(Trainer):
    """Takes class numbers or distributions as labels, and stops at the first loss that is no number."""

    def __init__(self, mixup: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self._mixup = mixup
        config = self.accelerator.unwrap_model(self.model).config
        is_multi_label = config.problem_type == "multi_label_classification"
        self._entropy = functional.binary_cross_entropy_with_logits if is_multi_label else functional.cross_entropy
        self.model_accepts_loss_kwargs = False  # the mean is taken here, and divided by the accumulated batches there

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the cross entropy with labels [batch] of class numbers, or [batch, classes] of probabilities.

        For a head that answers each label on its own it is the mean over labels of each one's own cross entropy.
        """
        labels = inputs.pop("labels")
        if self._mixup and model.training:
            inputs, labels = self._mix(model, inputs, labels)
        outputs = model(**inputs)
        loss = self._entropy(outputs.logits, labels)
        return (loss, outputs) if return_outputs else loss

    def _mix(self, model: Any, inputs: dict[str, Any], labels: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
        """Mix the batch's embeddings; drawn by the step's number, so that a run that goes on mixes the same."""
        bare = self.accelerator.unwrap_model(model)
        words = bare.get_input_embeddings()(inputs["input_ids"])  # [batch, sequence, size]
        if labels.dim() == 1:
            labels = functional.one_hot(labels, bare.config.num_labels).to(words.dtype)  # [batch, classes]
        generator = torch.Generator().manual_seed(self.args.seed + self.state.global_step)
        mixed, mask, labels = mixup(words, inputs["attention_mask"], labels, self._mixup, generator)
        return {"inputs_embeds": mixed, "attention_mask": mask}, labels

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Do one step.

        Raises:
            Diverged: its loss is NaN or infinite.
        """
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not bool(torch.isfinite(loss).all()):
            raise Diverged(self.state.global_step + 1)
        return loss

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write what learns, and nothing that needs a pickle; a model that learns wholly as a checkpoint folder.

        Adapters' own files would lose shape here: AdaLoRA's shrink to the ranks of the moment and no longer load.
        """
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        learns = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        if len(learns) == len(list(self.model.parameters())):
            self.model.save_pretrained(folder)
            self.data_collator.tokenizer.save_pretrained(folder)
        else:
            tensors = {name: weight.detach().cpu().contiguous() for name, weight in learns.items()}
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    def _load_best_model(self) -> None:
        """Take the best epoch's weights."""
        weights = load_file(Path(str(self.state.best_model_checkpoint)) / "model.safetensors")
        self.model.load_state_dict(weights, strict=False)


class TellProgress(TrainerCallback):
    """Tells the parent how far training is; the parent shows the time left."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._channel.progress(state.global_step / max(1, state.max_steps))


class SaveOften(TrainerCallback):
    """Saves a checkpoint when `seconds` have passed since the last, beside those at the end of each epoch."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if args.world_size == 1 and time.monotonic() - self._saved >= self._seconds:
            control.should_save = True  # several processes save at epochs only: their clocks differ

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._saved = time.monotonic()


class MoveRank(TrainerCallback):
    """AdaLoRA takes rank from where it helps little, after each step and before the gradients are gone."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """A run that goes on finds the ranks that were taken as zeros."""
        tuner: Any = getattr(others["model"], "base_model", None)
        if state.global_step and hasattr(tuner, "update_and_allocate"):
            tuner.peft_config["default"].rank_pattern = {
                name: (weight != 0).view(-1).tolist()
                for name, weight in tuner.model.named_parameters()
                if "lora_E.default" in name
            }

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        tuner: Any = getattr(others["model"], "base_model", None)
        if hasattr(tuner, "update_and_allocate"):
            tuner.update_and_allocate(state.global_step)


def callbacks(channel: Channel, save_every_s: float) -> list[TrainerCallback]:
    """Return what watches a run; curves go to `channel.logs`."""
    watching: list[TrainerCallback] = [TellProgress(channel), SaveOften(save_every_s), MoveRank()]
    if channel.logs is not None:
        from torch.utils.tensorboard import SummaryWriter

        watching.append(TensorBoardCallback(SummaryWriter(str(channel.logs))))
    return watching


def epochs_for(rows: int, batch: int, wanted: float | None) -> float:
    """Return the passes over the data: as wanted, else enough for 300 steps, and at most 3,000 steps."""
    per_epoch = max(1, rows // batch)
    return wanted or float(round(min(20.0, max(3.0, _MIN_STEPS / per_epoch), max(1.0, _MAX_STEPS / per_epoch))))


def training_arguments(
    folder: Path, batch: int, accumulate: int, epochs: float, learning_rate: float, options: dict[str, Any]
) -> TrainingArguments:
    """Return settings: the best epoch by the data's figure kept, every loss logged."""
    has_cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        per_device_eval_batch_size=2 * batch,
        learning_rate=learning_rate,
        warmup_steps=_WARMUP,
        weight_decay=0.01,
        seed=options["seed"],
        bf16=is_bf16(options.get("precision", "auto"), has_cuda),
        use_cpu=not has_cuda,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="micro_f1" if options.get("is_multi_label") else "accuracy",
        logging_steps=25,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )
