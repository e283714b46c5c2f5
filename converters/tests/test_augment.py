"""Augmentation: every transform, its seed, what it needs, and the filter behind it."""

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from pypinyin import lazy_pinyin
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from doorstep.cli.main import main
from doorstep.errors import CheckpointError, DataError, UsageError
from doorstep_converters.ask import ask
from doorstep_converters.augment import neighbours, sift, stage
from doorstep_converters.augment.filter import Leaks, is_sure
from doorstep_converters.augment.lexicon import load_lexicon
from doorstep_converters.augment.make import Augmented, augment
from doorstep_converters.augment.mixing import mixup, splice, splice_sequences
from doorstep_converters.augment.neighbours import frequent_words, neighbour_lexicon, vocabulary_lexicon, whole_words
from doorstep_converters.augment.noise import NOISE
from doorstep_converters.augment.plan import AugmentPlan, check_plan
from doorstep_converters.augment.prepare import augment_stage
from doorstep_converters.augment.shop import Brands
from doorstep_converters.augment.sift import Judge, Sieve
from doorstep_converters.augment.words import Synonyms
from doorstep_converters.augment.writer import NgramWriter
from doorstep_converters.data import DataSet, Row
from doorstep_converters.probes import PROBES, SENTENCES
from doorstep_converters.stages import StageRunner
from doorstep_converters.worker import Channel

Make = Callable[[str], Path]
ENGLISH = "Would you match the $65 for the size medium Tarnwick coffee machine, SKU-7741, 500 ml?"
CHINESE = "这个饭店的位置非常好,我花了800块钱,大号的房间,银行也近。"
TEXTS = {
    "typo": ENGLISH, "pinyin": CHINESE, "width": CHINESE, "case": ENGLISH, "emoji": CHINESE,
    "sku": ENGLISH, "price": CHINESE, "size": CHINESE, "brand": ENGLISH,
}  # fmt: skip
_VERBS = {"buy": "order", "ask": "where is"}
_THINGS = ("milk", "lamp", "red shoes", "tea", "chair", "green soap", "towel", "honey")
_ENDS = ("today", "for my mother", "please")
_ALL = [Row(f"{_VERBS[label]} the {thing} now {end}", label) for label in _VERBS for thing in _THINGS for end in _ENDS]
ROWS = [row for place, row in enumerate(_ALL) if place % 7 not in (2, 5)]  # some are left to be written


def _made(plan: AugmentPlan, seed: int = 1, rows: Sequence[Row] = ROWS) -> list[Augmented]:
    return list(augment(rows, plan, seed))


@pytest.mark.parametrize("name", NOISE)
def test_noise_changes_a_text_and_the_seed_decides_how(name: str) -> None:
    change, text = NOISE[name], TEXTS[name]
    made = [change(text, Random(seed)) for seed in range(20)]
    assert all(other.strip() for other in made)
    assert any(other != text for other in made)
    assert made == [change(text, Random(seed)) for seed in range(20)]


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize("text", ["", " ", "\ud800", "a", "中", "💯", "1" * 5000, "\u202eabc", "$", "$9" * 400])
def test_noise_takes_any_text(name: str, text: str) -> None:
    assert isinstance(NOISE[name](text, Random(3)), str)


def test_a_typo_lies_next_to_the_right_key() -> None:
    words = [NOISE["typo"]("g", Random(seed)) for seed in range(60)]
    assert {word for word in words if len(word) == 1} <= set("rtyfhvbn")


def test_a_homophone_reads_the_same() -> None:
    for seed in range(20):
        changed = NOISE["pinyin"]("我们在北京买东西", Random(seed))
        assert changed != "我们在北京买东西"
        pairs = zip("我们在北京买东西", changed, strict=True)
        assert all(lazy_pinyin(old)[0] == lazy_pinyin(new)[0] for old, new in pairs if old != new)


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("price", "it's $12.50 for two", "for two"),
        ("price", "花了800块钱订房间", "订房间"),
        ("price", "code 4711 only", "code 4711 only"),
        ("size", "it's mine, M please", "it's mine, "),
        ("sku", "where is order DS69621", "where is order "),
    ],
)
def test_only_the_figure_changes(name: str, text: str, kept: str) -> None:
    assert all(kept in NOISE[name](text, Random(seed)) for seed in range(20))


def test_known_brands_are_swapped_for_each_other() -> None:
    brands = Brands(("Acme", "华为", "小米"))
    made = {brands("the Acme phone or 华为 手机, Acmeology", Random(seed)) for seed in range(30)}
    assert all("Acmeology" in text for text in made)
    assert any("小米" in text for text in made)


def test_the_same_seed_gives_the_same_texts_whatever_stands_beside() -> None:
    alone = _made(AugmentPlan(("typo",)))
    assert alone == _made(AugmentPlan(("typo",)))
    assert alone == [row for row in _made(AugmentPlan(("case", "typo"))) if row.transform == "typo"]
    assert alone != _made(AugmentPlan(("typo",)), seed=2)


def test_chained_transforms_all_change_a_text_and_keep_its_label() -> None:
    made = _made(AugmentPlan(("sku+case",), copies=2))
    assert len(made) == 2 * len(ROWS)
    labels = {row.text: row.label for row in ROWS}
    assert all(row.label == labels[row.source] for row in made)
    assert any(row.text.isupper() and "SKU" in row.text for row in made)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (AugmentPlan(("typos",)), "expected some of typo, pinyin"),
        (AugmentPlan(("lexicon",)), "--lexicon"),
        (AugmentPlan(("lexicon",), lexicon="/nowhere/words.txt"), "/nowhere/words.txt: no such file"),
        (AugmentPlan(("neighbours",)), "neighbours needs a checkpoint"),
        (AugmentPlan(("typo+vocabulary",)), "vocabulary needs a checkpoint .* --teacher"),
        (AugmentPlan(("translate",)), "--translators"),
        (AugmentPlan(("splice+typo",)), "cannot stand in a chain"),
        (AugmentPlan(("brand",), brands="/nowhere/brands.txt"), "no such file"),
        (AugmentPlan(("typo",), copies=0), "copies"),
    ],
)
def test_a_wrong_plan_is_named_before_anything_is_made(plan: AugmentPlan, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_plan(plan)


@pytest.mark.parametrize("content", [b"one\n", b"\xb0\xa1\xff"])
def test_a_file_of_brands_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "brands.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"brands\.txt"):
        _made(AugmentPlan(("brand",), brands=str(tmp_path / "brands.txt")))


def test_a_generator_that_is_missing_or_none_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        _made(AugmentPlan(("generate",), generator=str(tmp_path / "gpt")))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="without --generator"):
        _made(AugmentPlan(("generate",), generator=str(broken)))


LEXICONS = {
    "plain": (
        "shoes,trainers\tsneakers\nice cream, gelato\n房间，屋子\n# a remark\n",
        "shoes",
        {"trainers", "sneakers"},
    ),
    "spaces": ("开心 高兴 快乐\n", "高兴", {"开心", "快乐"}),
    "cilin": ("Aa01A02= 人类 生人\nAa01A03# 房间 桌子\nAa01A04@ 独\n", "人类", {"生人"}),
}


@pytest.mark.parametrize("kind", LEXICONS)
def test_a_lexicon_file_is_read(tmp_path: Path, kind: str) -> None:
    content, word, others = LEXICONS[kind]
    (tmp_path / "words.txt").write_text(content, encoding="utf-8")
    lexicon = load_lexicon(tmp_path / "words.txt")
    assert set(lexicon[word]) == others
    assert kind != "cilin" or "房间" not in lexicon


def _wordnet(folder: Path) -> Path:
    """Write WordNet's format: `coach` is first a trainer, and second a bus."""
    (folder / "data.noun").write_text(
        "  1 This is the licence\n"
        "00000010 18 n 02 coach 0 trainer 0 000 | somebody who trains\n"
        "00000090 06 n 03 coach 0 bus 0 motor_coach 0 000 | a vehicle\n"
    )
    (folder / "index.noun").write_text(
        "  1 This is the licence\n"
        "bus n 1 1 @ 1 1 00000090  \ncoach n 2 2 @ ~ 2 1 00000010 00000090  \ntrainer n 1 0 1 1 00000010  \n"
    )
    return folder


def test_wordnet_gives_the_first_sense(tmp_path: Path) -> None:
    lexicon = load_lexicon(_wordnet(tmp_path))
    assert lexicon["trainer"] == ("coach",)
    assert set(lexicon["bus"]) == {"coach", "motor coach"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.txt", b"", "expected lines of two or more words"),
        ("words.txt", b"lonely\n", "expected lines of two or more words"),
        ("words.txt", "开心 高兴".encode("gb18030"), "expected UTF-8"),
        ("index.noun", b"bus n\n", "expected WordNet's"),
    ],
)
def test_a_bad_lexicon_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "data.noun").write_text("00000010 18 n 02 a 0 b 0 000 | x\n")
    place = tmp_path if name == "index.noun" else tmp_path / name
    with pytest.raises(DataError, match=message):
        load_lexicon(place)


def test_synonyms_stand_in_place_of_whole_words() -> None:
    change = Synonyms({"ice cream": ("gelato",), "房间": ("屋子",), "art": ("craft",)})
    assert change("Ice cream in the cart", Random(1)) == "Gelato in the cart"
    assert change("这房间很大", Random(1)) == "这屋子很大"
    assert change("party", Random(1)) == "party"


def test_neighbours_are_words_of_the_corpus(make_checkpoint: Make) -> None:
    texts = [row.text for row in ROWS] + [
        "我要退货",
        "退货很慢",
        "可以退货吗",
        "这家店的房间又大又干净,早餐一般",
        "手机屏幕碎了没人管",
    ]
    words = frequent_words(texts)
    assert "退货" in words
    assert "the" not in words
    lexicon = neighbour_lexicon(make_checkpoint("bert"), texts)
    assert lexicon
    assert {other for others in lexicon.values() for other in others} <= set(words)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])  # WordPiece, BPE, SentencePiece
def test_words_of_the_vocabulary_begin_words_and_are_new_to_the_texts(
    kind: str, make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, texts = make_checkpoint(kind), ["love the fabric"] * 3 + ["the zip", "the zip broke", "a zip"]
    words = whole_words(teacher)
    assert len(words) == len(set(words)) > 1
    said = {word for text in (*SENTENCES, *PROBES) for word in re.findall(r"[a-z]+", text.lower())}
    assert all(any(other.startswith(word) for other in said) for word in words)
    monkeypatch.setattr(neighbours, "_LEAST_COSINE", -1.0)  # random weights: nothing is near
    lexicon = vocabulary_lexicon(teacher, texts)
    assert set(lexicon) == {"love", "fabric", "zip"}
    new = {other for others in lexicon.values() for other in others}
    assert new <= set(words) - {"love", "fabric", "zip", "broke"}
    assert 0 < max(map(len, lexicon.values())) <= 16


def test_a_text_is_changed_to_words_it_never_had(make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_LEAST_COSINE", -1.0)  # random weights: nothing is near
    rows = [Row("love the fabric", "buy"), Row("love the zip", "ask"), Row("love this", "buy")]
    made = list(augment(rows, AugmentPlan(("vocabulary",), copies=4, teacher=str(make_checkpoint("bert"))), 1))
    assert made
    assert all(row.text.split()[0] not in ("love", "the") and row.transform == "vocabulary" for row in made)


def test_two_texts_are_spliced_within_their_class() -> None:
    assert splice("我想退货，东西坏了", "请问多少钱，谢谢", Random(2)) == "我想退货，谢谢"
    made = _made(AugmentPlan(("splice",)))
    assert all(("order" in row.text) == (row.label == "buy") for row in made)


def test_spliced_behaviour_begins_as_one_user_and_ends_as_another() -> None:
    users = [[1, 2, 3, 4], [7, 3, 8, 9]]
    made = list(splice_sequences(users, 40, seed=1))
    assert [1, 2, 3, 8, 9] in made
    assert made == list(splice_sequences(users, 40, seed=1))
    assert not any(a == b for sequence in made for a, b in pairwise(sequence))
    assert list(splice_sequences(users[:1], 5, seed=1)) == []


def test_mixup_keeps_the_larger_share_and_probabilities_sum_to_one() -> None:
    words, mask = torch.randn(6, 5, 8), torch.ones(6, 5)
    labels = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1, 2])]
    mixed, seen, shares = mixup(words, mask, labels, 0.4, torch.Generator().manual_seed(1))
    assert mixed.shape == words.shape
    assert seen.shape == mask.shape
    assert torch.allclose(shares.sum(1), torch.ones(6))
    assert bool((shares.argmax(1) == labels.argmax(1)).all())


def test_the_small_writer_writes_what_it_has_not_read() -> None:
    texts = [row.text for row in ROWS]
    made = [NgramWriter(texts).write(Random(seed)) for seed in range(30)]
    found = {text for text in made if text}
    assert len(found) > 5
    assert not found & set(texts)
    words = {word for text in texts for word in text.split()}
    assert all(word in words for text in found for word in text.split())


def test_the_small_writer_writes_chinese() -> None:
    texts = [f"{a}{b}{c}" for a in ("这个", "那家") for b in ("饭店", "宾馆") for c in ("很好", "位置不好", "很干净")]
    made = {NgramWriter(texts[:-2]).write(Random(seed)) for seed in range(30)} - {None}
    assert made
    assert all("饭" in text or "宾" in text for text in made if text)


def _word_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "</s>"]
    tokenizer.train_from_iterator([row.text for row in ROWS], trainers.WordLevelTrainer(special_tokens=special))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    made.save_pretrained(folder)
    return made


def test_a_language_model_writes_in_place_of_the_small_one(tmp_path: Path) -> None:
    tokenizer = _word_tokenizer(tmp_path)
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=128, eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    plan = AugmentPlan(("generate",), copies=0.4, generator=str(tmp_path))
    made = _made(plan)
    assert len(made) >= 6
    assert {row.label for row in made} == {"buy", "ask"}
    assert made == _made(plan)


@pytest.mark.slow
def test_other_weights_in_the_generators_folder_augment_again(tmp_path: Path) -> None:
    data = DataSet("rows", tmp_path, tuple(ROWS), (), (), "digest")
    runner = StageRunner(tmp_path / "cache", tmp_path / "logs")
    plan, made = AugmentPlan(("generate",), copies=0.4, generator=str(tmp_path / "gpt")), []
    for seed in (1, 2, 2):
        tokenizer = _word_tokenizer(tmp_path / "gpt")
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=128, eos_token_id=2)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt")
        made.append(runner.run(augment_stage(data, plan, 7, tmp_path), lambda share: None, 1))
    assert [output.is_cached for output in made] == [False, False, True]
    assert made[0].digest != made[1].digest == made[2].digest


def test_a_killed_run_asks_the_teacher_no_question_twice(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        [f"{word} the {thing}", label] for word, label in (("buy", "buy"), ("where is", "ask")) for thing in "abcdefgh"
    ]
    (tmp_path / "data.json").write_text(json.dumps({"train": rows, "held_out": []}))
    plan = asdict(AugmentPlan(("typo", "case"), copies=2.0, teacher=str(make_checkpoint("bert")), sure=0.0))
    asked: list[int] = []

    def counting(folder: Path, texts: Sequence[str], *others: Any, **more: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(texts))
        return ask(folder, texts, *others, **more)

    def run(name: str) -> bytes:
        (tmp_path / name).mkdir()
        channel = Channel(io.StringIO(), kept=tmp_path / "kept")
        stage.make(tmp_path / name, channel, str(tmp_path / "data.json"), plan, 7, ["buy", "return", "ask", "complain"])
        return (tmp_path / name / "corpus.jsonl").read_bytes()

    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(sift, "_BATCH", 16)
    monkeypatch.setattr(stage, "ask", counting)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    one, other = sorted((tmp_path / "kept").iterdir())
    answered = len(json.loads(other.read_bytes()[32:]))
    one.write_bytes(one.read_bytes()[:-1])  # and a damaged answer is trusted no more
    asked.clear()
    monkeypatch.setattr(stage, "ask", lambda *all, **more: (asked.append(len(all[1])), ask(*all, **more))[1])
    again = run("again")
    seen = {text for path in (tmp_path / "kept").iterdir() for text in json.loads(path.read_bytes()[32:])}
    assert sum(asked) == len(seen) - answered > 0  # the damaged ones too, and no others
    asked.clear()
    assert run("whole") == again
    assert asked == []


def test_augmentation_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    data = DataSet("rows", tmp_path, tuple(ROWS), (), (), "digest")
    assert augment_stage(data, AugmentPlan(("typo",)), 7, tmp_path).is_resumable


@pytest.mark.parametrize("name", ["lexicon", "brands", "generator", "there", "back"])
def test_what_lies_in_a_folder_that_a_plan_names_is_part_of_the_stage(tmp_path: Path, name: str) -> None:
    data = DataSet("rows", tmp_path, tuple(ROWS), (), (), "digest")
    (tmp_path / "named").mkdir()
    (tmp_path / "named/config.json").write_text("{}")
    keys = []
    for weights in ("one", "two", "two"):
        (tmp_path / "named/model.safetensors").write_text(weights)
        keys.append(augment_stage(data, AugmentPlan(("typo",), **{name: str(tmp_path / "named")}), 7, tmp_path).key)
    assert keys[0] != keys[1] == keys[2]


@pytest.mark.parametrize("split", ["train", "dev"])
def test_what_is_augmented_and_held_out_is_part_of_the_stage_whatever_the_file_said(tmp_path: Path, split: str) -> None:
    data = DataSet("rows", tmp_path, tuple(ROWS), tuple(ROWS[:3]), (), "digest")
    other = replace(data, **{split: tuple(ROWS[1:])})
    assert (
        augment_stage(data, AugmentPlan(("typo",)), 7, tmp_path).key
        != augment_stage(other, AugmentPlan(("typo",)), 7, tmp_path).key
    )


def _marian(folder: Path, seed: int) -> Path:
    """Write a random translator that speaks the rows' words."""
    from transformers import MarianConfig, MarianMTModel

    tokenizer = _word_tokenizer(folder)
    torch.manual_seed(seed)
    size = len(tokenizer)
    config = MarianConfig(
        vocab_size=size, decoder_vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_position_embeddings=160, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, forced_eos_token_id=2,
        init_std=1.0,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(folder)
    config_file = folder / "tokenizer_config.json"
    plain = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**plain, "tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def test_a_text_goes_into_another_language_and_comes_back(tmp_path: Path) -> None:
    there, back = _marian(tmp_path / "there", 1), _marian(tmp_path / "back", 2)
    plan = AugmentPlan(("translate",), copies=0.2, there=str(there), back=str(back))
    made = _made(plan)
    labels = {row.text: row.label for row in ROWS}
    assert made
    assert all(row.label == labels[row.source] and row.text != row.source for row in made)
    assert made == _made(plan)


def test_a_translator_that_is_none_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    encoder = str(make_checkpoint("bert"))
    with pytest.raises(CheckpointError, match="sequence-to-sequence"):
        _made(AugmentPlan(("translate",), there=encoder, back=encoder))


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("Where is the oat milk aisle?", True),
        ("where  is the OAT milk aisle?", True),
        ("ｗｈｅｒｅ is the oat milk aisle?", True),
        ("Where is the oat milk aisle, 1?", True),
        ("Where is the manager?", False),
        ("这家店的服务态度很好很好", True),
        ("这家店的服务态度很好很好！", True),
        ("这家店的房间不太好", False),
        ("", False),
    ],
)
def test_what_is_held_out_leaks_in_any_dress(text: str, leaks: bool) -> None:
    held_out = Leaks(["Where is the oat milk aisle?", "这家店的服务态度很好很好", "x"])
    assert held_out.find([text, "nothing like it at all"]).tolist() == [leaks, False]


def test_the_teacher_must_be_sure_and_agree() -> None:
    probabilities = np.array([[0.9, 0.1], [0.45, 0.4], [0.9, 0.1], [0.1, 0.9]])
    assert is_sure(probabilities, [0, 0, 1, None], 0.5).tolist() == [True, False, False, True]


def test_a_sieve_keeps_what_is_new_clean_and_clear_and_counts_the_rest() -> None:
    def ask(texts: Sequence[str]) -> np.ndarray:
        return np.array([[0.5, 0.5] if "unclear" in text else [0.1, 0.9] for text in texts])

    sieve = Sieve({"Known"}, Leaks(["held out text"]), Judge(("a", "b"), ask, 0.6))
    texts = ["Known", "new", "new", "held out text", "unclear", "other"]
    kept = list(sieve.sift(Augmented(text, None, "typo", "") for text in texts))
    assert [(row.text, row.label) for row in kept] == [("new", "b"), ("other", "b")]
    assert sieve.counts["typo"] == Counter(kept=2, repeated=2, leaking=1, unsure=1)


def _csv(path: Path) -> Path:
    lines = [f'"{row.text}",{row.label},{"dev" if number % 4 == 0 else "train"}' for number, row in enumerate(ROWS)]
    path.write_text("text,label,split\n" + "\n".join(lines) + "\n")
    return path


def test_the_command_writes_texts_and_what_they_bring(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made.jsonl"
    command = ["augment", str(_csv(tmp_path / "d.csv")), "--augment", "typo,generate", "--ablation", "--json"]
    assert main([*command, "--out", str(out), "--cache", str(cache)]) == 0
    told = json.loads(capsys.readouterr().out)
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(made) == sum(fates["kept"] for fates in told["counts"].values())
    held_out = {row.text for number, row in enumerate(ROWS) if number % 4 == 0}
    assert not held_out & {row["text"] for row in made}
    learnt = [row["learnt"] for row in told["ablation"]["rows"]]
    assert learnt == ["nothing", "typo", "generate", "all", "all but typo", "all but generate"]
    assert json.loads(out.with_suffix(".ablation.json").read_text())["ablation"] == told["ablation"]


def test_labels_the_teacher_lacks_are_named(
    make_checkpoint: Make, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "d.csv"
    data.write_text("text,label\n" + "".join(f"a{n},cat\nb{n},dog\n" for n in range(40)))
    command = ["augment", str(data), "--augment", "typo", "--teacher", str(make_checkpoint("bert"))]
    assert main([*command, "--out", str(tmp_path / "made.jsonl"), "--cache", str(cache)]) == 1
    assert "lacks cat, dog" in capsys.readouterr().err
    assert not (tmp_path / "made.jsonl").exists()
