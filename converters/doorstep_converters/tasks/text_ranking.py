"""text-ranking: a cross-encoder, a head of one number over a query and a text that it reads together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import CheckpointError, DataError
from doorstep.tasks.text import TextEncoder
from doorstep.tasks.text_ranking import RankingOptions, ranked
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import Checkpoint, read_json
from doorstep_converters.data import Records
from doorstep_converters.evaluation import Evaluation
from doorstep_converters.probes import PROBES, SENTENCES
from doorstep_converters.tasks.craft import Craft, GoldenChoice, Timed
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.rankings import RankedCraft
from doorstep_converters.tasks.text import INPUTS, TextCraft, text_evaluation
from doorstep_converters.tasks.text_ranking_data import pairs_of, read_ranking, truth_of
from doorstep_converters.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench
    from doorstep_converters.worker import Channel

_TOP = 10
_LONGEST = 500  # characters of a built-in probe that is ranked, and so may become a golden example
_LISTED = 24  # texts of a built-in item
_MAX_LENGTH = 256  # tokens of a pair in training
_TYPES = TensorSpec("token_type_ids", "int64", ("batch", "sequence"))
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity"}


class RankingCraft(RankedCraft, TextCraft):
    """Answers are places of texts and their scores, best first."""

    task = "text-ranking"
    is_scored = False
    head = "ForSequenceClassification"
    auto = "AutoModelForSequenceClassification"
    output = TensorSpec("logits", "float32", ("batch", 1))
    probes = tuple((one, PROBES[-1 - place]) for place, one in enumerate(PROBES)) + tuple(
        (sentence, probe) for sentence, probe in product(SENTENCES[::4], PROBES)
    )
    samples = tuple(product(SENTENCES[::2], SENTENCES[1::2]))

    def read(self, job: "Job") -> Records | None:
        return read_ranking(job.data) if job.data else None

    def learn(self, job: "Job", source: Checkpoint, data: Records | None, bench: "Workbench") -> Checkpoint:
        if source.labels is not None and not job.training.is_forced:
            if len(source.labels) == 1:
                return source
            raise CheckpointError(
                f"{source.source}: expected a head with 1 output, got {len(source.labels)}; give it a new one, learnt "
                "from queries and texts: --retrain --data"
            )
        if data is None or not any(row["relevant"] for row in data.train):
            raise DataError(
                f"{source.source}: it has no head that ranks; give queries and texts with --data to train one"
            )
        options = {**asdict(job.training), "max_length": job.max_length or min(source.max_length, _MAX_LENGTH)}
        output = self.run_training(bench, source, data, options)
        trained = self.find(replace(job, checkpoint=str(output.folder / "checkpoint")))
        return replace(trained, source=source.source, licence=source.licence, max_length=source.max_length)

    def plan(self, job: "Job", data: Records | None, checkpoint: Checkpoint) -> Evaluation:
        if data is None:
            return text_evaluation([], [], job.eval_limit, built_in_items())
        splits = [([_item(row) for row in rows], [truth_of(row) for row in rows]) for rows in (data.dev, data.test)]
        probes = built_in_items() if not (data.dev or data.test) else built_in_items()[:2]
        return text_evaluation(splits, [_item(row) for row in data.train], job.eval_limit, probes)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        return {**super().options(job, checkpoint), "activation": read_activation(checkpoint.folder)}

    def specs(self, folder: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return (*INPUTS, *((_TYPES,) if reads_types(folder) else ())), (self.output,)

    def texts_of(self, items: Sequence[Any]) -> list[tuple[str, str]]:
        return [pair for item in items for pair in pairs_of(item)]

    def answer_texts(
        self, folder: Path, tokenizer: Any, items: Sequence[Any], plan: dict[str, Any]
    ) -> list[dict[str, float]]:
        import torch

        from doorstep_converters.tasks.text_ranking_training import feeds_of

        model = self.load_model(folder, plan["is_pickle_allowed"])
        options = RankingOptions(plan["max_length"], plan["options"]["activation"])
        answers = []
        for place, item in enumerate(items):
            feeds = feeds_of(model, tokenizer, self.texts_of([item]), plan["max_length"])
            with torch.no_grad():
                logits = model(**feeds).logits[:, 0].float().numpy()  # [texts]
            answers.append(ranked(item["texts"], logits, options).flat())
            plan["progress"]((place + 1) / len(items))
        return answers

    def encoder(self, tokenizer: Path, length: int, folder: Path) -> TextEncoder:
        return TextEncoder.from_bytes(tokenizer.read_bytes(), length, self.specs(folder)[0], is_pair=True)

    def feeds(self, encoder: TextEncoder, texts: Sequence[tuple[str, str]]) -> list[Mapping[str, Any]]:
        return [encoder.collate([row]) for row in encoder.encode_pairs(texts, 0)]

    def timed(self, evaluation: Evaluation, options: dict[str, Any]) -> Timed:
        return Craft.timed(self, evaluation, options)  # a query with all its texts

    def golden(self, trial: "Trial", found: Sequence[Any]) -> GoldenChoice:
        return Craft.golden(self, trial, found)

    def overlap(self, expected: Mapping[str, float], got: Mapping[str, float]) -> float:
        """Return the overlap of the ten best, or of the better half where there are fewer than 20 texts."""
        return best_overlap(list(expected), list(got))

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "words of the best text")

    def train(
        self, out: Path, channel: "Channel", checkpoint: Path | None, data: Any, options: dict[str, Any]
    ) -> dict[str, Any]:
        from doorstep_converters.tasks.text_ranking_training import train

        assert checkpoint is not None  # noqa: S101 -- learn has one
        return train(out, channel, checkpoint, data, options)


def read_activation(folder: Path) -> str:
    """Return what a CrossEncoder of sentence-transformers makes scores with: `sigmoid`, where its folder says nothing.

    Raises:
        CheckpointError: an activation that doorstep does not know.
    """
    config = read_json(folder / "config.json")
    newer = config.get("sentence_transformers")
    named = newer.get("activation_fn") if isinstance(newer, dict) else None
    named = str(named or config.get("sbert_ce_default_activation_function") or "torch.nn.modules.activation.Sigmoid")
    kind = named.rpartition(".")[2]
    if kind not in _ACTIVATIONS or not named.startswith("torch.nn."):
        raise CheckpointError(f"{folder}: expected Sigmoid or Identity of torch behind the head, got {named!r:.80}")
    return _ACTIVATIONS[kind]


def reads_types(folder: Path) -> bool:
    """Tell whether the model has embeddings for which text a token is of, and its tokenizer gives it their numbers."""
    config = read_json(folder / "config.json")
    known = config.get("type_vocab_size") if config.get("model_type") != "distilbert" else 0
    return isinstance(known, int) and known > 1 and _TYPES.name in load_tokenizer(folder).model_input_names


def built_in_items() -> list[dict[str, Any]]:
    """Return items that tokenizers stumble over, where there is no data: sentences among probes."""
    listed = [text for text in (*SENTENCES, *PROBES) if len(text) <= _LONGEST]
    queries = [text for text in listed if text.strip()]
    turned = [listed[place % len(listed) :] + listed[: place % len(listed)] for place in range(0, 7 * len(queries), 7)]
    return [{"query": query, "texts": texts[:_LISTED]} for query, texts in zip(queries, turned, strict=True)]


def best_overlap(expected: Sequence[str], got: Sequence[str]) -> float:
    """Return the share of the best texts that both have: of ten, or of half of them where there are fewer than 20."""
    count = min(_TOP, -(-len(expected) // 2))
    return len(set(expected[:count]) & set(got[:count])) / max(1, count)


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"query": row["query"], "texts": row["texts"]}


CRAFT = RankingCraft()
