"""Models that are asked for more texts at once than memory holds."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
)

from doorstep.errors import ConversionError
from doorstep_converters import teach
from doorstep_converters.ask import ask
from doorstep_converters.augment.translation import Translators
from doorstep_converters.augment.writer import LanguageModel
from doorstep_converters.memory import Batches
from doorstep_converters.search import jobs
from doorstep_converters.taught import open_taught
from doorstep_converters.worker import Channel

Bounded = Callable[[int], None]
Make = Callable[[str], Path]
TEXTS = [
    f"{verb} the {thing} {end}"
    for verb in ("buy", "ask for", "return")
    for thing in ("milk", "lamp", "tea", "red chair")
    for end in ("today", "now", "please", "at once", "for my mother", "in the morning")
]
HALVED = "out of memory: went on in batches of"


@pytest.fixture
def bounded() -> Iterator[Bounded]:
    """Return a function that makes batches above a size fail, in the real allocator."""
    handles = []

    def bound(most: int) -> None:
        def allocate(module: torch.nn.Module, given: tuple[Any, ...]) -> None:
            if isinstance(module, torch.nn.Embedding) and len(given[0]) > most:
                torch.empty(1 << 50, dtype=torch.uint8)  # nobody has a petabyte

        handles.append(register_module_forward_pre_hook(allocate))

    yield bound
    for handle in handles:
        handle.remove()


def _corpus(path: Path) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return str(path)


def _result(stream: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in stream.read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = lines[-1]["result"]
    return found


def _teach(out: Path, checkpoint: Path) -> dict[str, Any]:
    """Run the job as a stage does; returns what the parent is told."""
    out.mkdir()
    corpus = _corpus(out / "corpus.jsonl")
    with open(out / "messages", "w", encoding="utf-8") as stream:
        channel = Channel(stream)
        channel.result(teach.answer(out, channel, str(checkpoint), corpus, 32, ("vector", "relations")))
    return _result(out / "messages")


def test_a_teacher_short_of_memory_answers_the_same_in_halved_batches_and_says_so(
    make_checkpoint: Make, bounded: Bounded, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint("bert")
    assert "notes" not in _teach(tmp_path / "whole", checkpoint)
    bounded(20)
    told = _teach(tmp_path / "bounded", checkpoint)
    assert told["notes"] == [f"the teacher: {HALVED} 32", f"the teacher: {HALVED} 16"]
    whole, found = open_taught(tmp_path / "whole"), open_taught(tmp_path / "bounded")
    assert found["text"][:] == whole["text"][:]
    assert found["tokens"][:] == whole["tokens"][:]
    for name in ("logits", "vector"):
        np.testing.assert_allclose(found[name][:], whole[name][:], atol=1e-3 if name == "vector" else 1e-4)


def test_a_teacher_asked_for_probabilities_answers_the_same_in_halved_batches(
    make_checkpoint: Make, bounded: Bounded
) -> None:
    notes: list[str] = []
    shares: list[float] = []
    checkpoint = make_checkpoint("bert")
    whole = ask(checkpoint, TEXTS, 32, shares.append, say=notes.append)
    assert not notes
    bounded(9)
    np.testing.assert_allclose(ask(checkpoint, TEXTS, 32, shares.append, say=notes.append), whole, atol=1e-5)
    assert notes == [f"the teacher: {HALVED} {size}" for size in (32, 16, 8)]
    assert shares == [64 / 72, 1.0] * 2


def test_the_teacher_of_a_search_answers_the_same_in_halved_batches(
    make_checkpoint: Make, bounded: Bounded, tmp_path: Path
) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    found = []
    for most in (32, 9):
        bounded(most)
        with open(tmp_path / "messages", "w", encoding="utf-8") as stream:
            channel = Channel(stream)
            arguments = (str(make_checkpoint("bert")), str(tmp_path / "texts.json"), 32, 8)
            channel.result(jobs.answer(tmp_path, channel, *arguments))
        found.append(np.load(tmp_path / "probabilities.npy"))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    assert _result(tmp_path / "messages")["notes"] == [f"the teacher: {HALVED} {size}" for size in (32, 16, 8)]


def _words(folder: Path) -> int:
    """Write a tokenizer of the texts' words; returns how many there are."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>", "</s>"]))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    made.save_pretrained(folder)
    return len(made)


def test_a_language_model_short_of_memory_writes_as_many_texts_in_halved_batches(
    bounded: Bounded, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    size = _words(tmp_path)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=128, eos_token_id=2)
    ).save_pretrained(tmp_path)
    notes: list[str] = []
    model = LanguageModel(tmp_path, notes.append)
    whole = list(model.write(TEXTS, 16, Random(1)))
    assert not notes
    bounded(3)
    found = list(model.write(TEXTS, 16, Random(1)))
    assert len(found) == len(whole) == len(set(found))
    assert found[:2] == list(LanguageModel(tmp_path, notes.append).write(TEXTS, 16, Random(1)))[:2]
    assert notes[:2] == [f"the language model: {HALVED} 4", f"the language model: {HALVED} 2"]


def _translator(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    size = _words(folder)
    config = MarianConfig(
        vocab_size=size, decoder_vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_position_embeddings=160, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, forced_eos_token_id=2,
        init_std=1.0,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def test_translators_short_of_memory_give_every_text_back_in_halved_batches(bounded: Bounded, tmp_path: Path) -> None:
    there, back = _translator(tmp_path / "there", 1), _translator(tmp_path / "back", 2)
    notes: list[str] = []
    abroad = Translators(there, back, notes.append)._there.translate(TEXTS, None)
    bounded(8)
    translators = Translators(there, back, notes.append)
    assert translators._there.translate(TEXTS, None) == abroad  # the likeliest are the same in any batch
    assert notes == [f"translator there: {HALVED} {size}" for size in (8, 4)]  # two beams a text
    assert len(list(translators.translate(TEXTS, Random(1)))) == len(TEXTS)
    assert notes[2:] == [f"translator back: {HALVED} 8"]


def test_one_text_that_does_not_fit_ends_with_advice(make_checkpoint: Make, bounded: Bounded) -> None:
    bounded(0)
    with pytest.raises(ConversionError, match=r"the teacher: out of memory even with one text at a time .*; shorten"):
        ask(make_checkpoint("bert"), TEXTS, 32, lambda share: None)


def test_another_error_of_a_batch_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="size"):
        list(Batches(8, "x", "y", print).ask([1, 2], lambda part: [torch.zeros(2) @ torch.zeros(3)]))


@pytest.mark.slow
def test_a_teacher_in_a_process_of_bounded_memory_answers_its_corpus(make_checkpoint: Make, tmp_path: Path) -> None:
    """The bound is the operating system's: an inner layer of 8192 wants a GiB for a whole batch of 512 tokens."""
    source, wide = make_checkpoint("bert"), tmp_path / "wide"
    config = AutoConfig.from_pretrained(
        source, intermediate_size=8192, num_hidden_layers=1, max_position_embeddings=512
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(wide)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source, model_max_length=512)
    tokenizer.save_pretrained(wide)
    rows = [{"text": f"{number} " + " ".join(TEXTS * 3)} for number in range(70)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    program = (
        "import os, resource, sys; from pathlib import Path\n"
        "from doorstep_converters import teach; from doorstep_converters.worker import Channel\n"
        "load = teach.load_teacher\n"
        "def bounded(folder):\n"
        "    model = load(folder)\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * os.sysconf('SC_PAGE_SIZE')\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (700 << 20), -1))\n"
        "    return model\n"
        "teach.load_teacher = bounded\n"
        f"out = Path({str(tmp_path)!r})\n"
        "channel = Channel(sys.stdout)\n"
        "channel.result(teach.answer(out, channel, str(out / 'wide'), str(out / 'corpus.jsonl'), 512))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])["result"]
    assert told["rows"] == len(open_taught(tmp_path)) == 70
    assert told["notes"][0] == f"the teacher: {HALVED} 32"
