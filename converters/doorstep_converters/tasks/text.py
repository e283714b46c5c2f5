"""What crafts for texts share: a transformers checkpoint, its tokenizer, ids and mask in, one tensor out."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from doorstep.errors import CheckpointError
from doorstep.golden import Example
from doorstep.tasks.text import TextEncoder
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import Checkpoint, find_checkpoint
from doorstep_converters.evaluation import Evaluation, items_digest, thin
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.probes import PROBES, SENTENCES
from doorstep_converters.tasks.craft import Answered, Craft, GoldenChoice, Timed, calibration_items
from doorstep_converters.tasks.text_classification import length_option, timed_text
from doorstep_converters.tokenizer import Text

if TYPE_CHECKING:
    from doorstep_converters.job import Job
    from doorstep_converters.variants import Trial

INPUTS = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))


class TextCraft(Craft):
    """A task whose items are texts.

    Attributes:
        head: how architectures with the task's head end.
        auto: the transformers class that loads them.
        output: the graph's output.
        probes: texts that every tokenizer is proven on.
        samples: texts of usual length, where there is no data.
    """

    head = ""
    auto = "AutoModel"
    output = TensorSpec("logits", "float32", ("batch", "classes"))
    probes: Sequence[Text] = PROBES
    samples: Sequence[Text] = SENTENCES

    def find(self, job: "Job") -> Checkpoint:
        return find_checkpoint(job.checkpoint, is_pickle_allowed=job.is_pickle_allowed, head=self.head)

    def specs(self, folder: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return INPUTS, (self.output,)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        return length_option(job, checkpoint)

    def timed(self, evaluation: Evaluation, options: dict[str, Any]) -> Timed:
        return timed_text(evaluation, options)

    def texts_of(self, items: Sequence[Any]) -> list[Any]:
        """Return every text that will be tokenized for these items."""
        return list(items)

    def text_read(self, item: Any, options: dict[str, Any]) -> str:
        """Return the text that a device tokenizes for an item."""
        return str(item)

    def load_model(self, folder: Path, is_pickle_allowed: bool) -> Any:
        """Load the checkpoint in fp32, in eval mode (worker)."""
        from doorstep_converters.export.classifier import load_model

        return load_model(folder, is_pickle_allowed, self.auto)

    def load(self, folder: Path, is_pickle_allowed: bool) -> Exportable:
        from doorstep_converters.export.classifier import choose_mask

        model = self.load_model(folder, is_pickle_allowed)
        model.set_attn_implementation("eager")
        return Exportable(choose_mask(model), *self.specs(folder))

    def answer(self, folder: Path, items: Sequence[Any], out: Path, plan: dict[str, Any]) -> Answered:
        from doorstep_converters.reference import covering_length
        from doorstep_converters.tokenizer import differing_texts, export_tokenizer, load_tokenizer, token_lengths

        tokenizer, limit = load_tokenizer(folder), plan["max_length"]
        texts, samples = self.texts_of(items), self.texts_of(plan["calibration"]) or list(self.samples)
        length = plan["options"].get("max_length")
        length = length or covering_length(token_lengths(tokenizer, samples), limit)
        export_tokenizer(tokenizer, out / "tokenizer.json", length)
        if wrong := differing_texts(tokenizer, out / "tokenizer.json", [*self.probes, *texts], length):
            raise CheckpointError(
                f"{folder}: the exported tokenizer gives other tokens for {len(wrong)} texts: {wrong[0]!r:.80}"
            )
        options = {**plan["options"], "max_length": length}
        answers = self.answer_texts(folder, tokenizer, items, {**plan, "options": options, "shared": out})
        feeds = self.feeds(self.encoder(out / "tokenizer.json", length, folder), samples)
        return Answered(answers, options, tuple(feeds))

    def answer_texts(
        self, folder: Path, tokenizer: Any, items: Sequence[Any], plan: dict[str, Any]
    ) -> list[dict[str, float]]:
        """Answer items with the checkpoint and transformers' own tokenizer (worker)."""
        raise NotImplementedError

    def encoder(self, tokenizer: Path, length: int, folder: Path) -> TextEncoder:
        """Return what makes tokens of texts on a device, for the graph of the checkpoint `folder` (worker)."""
        return TextEncoder.from_bytes(tokenizer.read_bytes(), length, self.specs(folder)[0])

    def feeds(self, encoder: TextEncoder, texts: Sequence[Any]) -> list[Mapping[str, Any]]:
        """Return calibration feeds as a device makes them (worker)."""
        return [encoder.collate([row]) for row in encoder.encode(list(texts))]

    def golden(self, trial: "Trial", found: Sequence[Any]) -> GoldenChoice:
        """Add to every example the tokens of its text, so that a device can tell where it differs."""
        chosen = super().golden(trial, found)
        device = Tokenizer.from_file(str(trial.tokenizer))
        examples = [
            _with_tokens(example, self.text_read(example.item, trial.options), device) for example in chosen.examples
        ]
        return GoldenChoice(chosen.places, examples)


def text_evaluation(
    splits: Sequence[tuple[Sequence[Any], Sequence[Any]]],
    train: Sequence[Any],
    limit: int,
    probes: Sequence[Any] = PROBES,
) -> Evaluation:
    """Plan an evaluation: probes, then the held-out splits as (items, truths), then calibration from `train`."""
    items: list[Any] = list(probes)
    truth: list[Any] = []
    final = 0
    for part, truths in splits:
        final = len(items) if part else final
        items += thin(part, limit)
        truth += thin(truths, limit)
    calibration = calibration_items(train)
    return Evaluation(
        tuple(items), tuple(truth), final, calibration, (), items_digest([items, calibration]), len(probes)
    )


def _with_tokens(example: Example, text: str, tokenizer: Tokenizer) -> Example:
    ids = tokenizer.encode(text).ids
    digest = hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
    return Example(example.item, example.expected, len(ids), digest)
