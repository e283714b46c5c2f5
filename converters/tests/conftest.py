"""Small real checkpoints of every tested architecture, from random configurations; real tokenizers, trained here."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from doorstep_converters.probes import PROBES, SENTENCES
from doorstep_converters.students.vocabulary import train_word_pieces

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets jobs in the background ignore it

LABELS = ("buy", "return", "ask", "complain")
_SMALL = {
    "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 130, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "embedding_size": 16,
    "initializer_range": 0.4, "type_vocab_size": 2,
}  # fmt: skip
_EXTRA = {
    "roberta": {"type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta": {"type_vocab_size": 1, "pad_token_id": 1},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 64},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
    },
}
_KINDS = {
    "bert": "wordpiece", "distilbert": "wordpiece", "electra": "wordpiece", "roberta": "bpe", "deberta": "bpe",
    "xlm-roberta": "unigram", "albert": "unigram", "deberta-v2": "unigram",
}  # fmt: skip
_SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return train_word_pieces(tokenizer, [*PROBES, *SENTENCES], 400, characters=1000, special=_SPECIAL)


def _bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=_SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*PROBES, *SENTENCES], trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=_SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator([*PROBES, *SENTENCES], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[str], PreTrainedTokenizerFast]:
    """Return a function that trains a tokenizer: `wordpiece`, `bpe` or `unigram`."""
    return _tokenizer


def _tokenizer(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram}[kind]()
    ids = {token: tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=list(ids.items()))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", mask_token="<mask>", model_max_length=32,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes, once, a checkpoint of an architecture."""
    made: dict[str, Path] = {}

    def make(model_type: str) -> Path:
        if model_type not in made:
            folder = tmp_path_factory.mktemp("checkpoints") / model_type
            torch.manual_seed(7)
            config = AutoConfig.for_model(model_type, **{**_SMALL, **_EXTRA.get(model_type, {})})
            config.id2label = dict(enumerate(LABELS))
            config.label2id = {label: place for place, label in enumerate(LABELS)}
            # Weights that fp16 holds exactly: what an fp16 variant is off by is then the graph's fault alone.
            AutoModelForSequenceClassification.from_config(config).half().float().save_pretrained(folder)
            _tokenizer(_KINDS[model_type]).save_pretrained(folder)
            made[model_type] = folder
        return made[model_type]

    return make


@pytest.fixture(scope="session")
def encoder_only(make_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint without a classification head, as sentence encoders come."""
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    source = make_checkpoint("bert")
    model = AutoModelForSequenceClassification.from_pretrained(source)
    model.base_model.save_pretrained(folder)
    _tokenizer("wordpiece").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a learnable CSV: four intents in English and Chinese."""
    stems = {
        "buy": ["I want to buy {}", "我想买{}", "add {} to my basket"],
        "return": ["send back {}", "我要退货 {}", "return {} please"],
        "ask": ["how much is {}", "{}多少钱?", "do you have {}"],
        "complain": ["{} broke, terrible", "{}质量太差", "worst {} ever"],
    }
    things = [
        "milk",
        "shoes",
        "手机壳",
        "a lamp",
        "椅子",
        "size 10½ boots",
        "SKU-77",
        "苹果",
        "headphones",
        "tea",
        "lamp",
        "电池",
    ]
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    lines = ["text,label"]
    for label, patterns in stems.items():
        lines += [f'"{pattern.format(thing)}",{label}' for pattern in patterns for thing in things]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that all converts of the session share."""
    return tmp_path_factory.mktemp("cache")
