"""Spans: which characters, whatever the script; long texts; the path of labels; bad input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from doorstep.errors import FormatError, InputError
from doorstep.explain import ROWS, explain, faithfulness
from doorstep.golden import best, flatten
from doorstep.results import Spans
from doorstep.tasks.text import TextEncoder
from doorstep.tasks.token_classification import Decoder, TokenClassification, TokenOptions
from doorstep.tensors import Array, TensorSpec
from doorstep.testing import check_task

LABELS = ("O", "B-thing", "I-thing", "B-brand", "I-brand")
INPUTS = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
TEXTS = ("我想买红色的手机壳", "love it 😍👍🏽 from Größe", "Café crème & ﬁsh", "한국어 리뷰 shoes", "plain words here")


def _word_pieces() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[PAD]", "[UNK]"]))
    return made


def _bytes() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["[PAD]"], initial_alphabet=alphabet)
    made.train_from_iterator(["a"], trainer)  # no merges: every byte is a token
    return made


TOKENIZERS = {"word pieces": _word_pieces, "single bytes": _bytes}


def _task(tokenizer: Tokenizer, max_length: int = 64, **options: Any) -> TokenClassification:
    encoder = TextEncoder.from_bytes(tokenizer.to_str().encode(), max_length, INPUTS, max_length // 4)
    return TokenClassification(encoder, Decoder(TokenOptions(LABELS, max_length, **options)))


def _marked(text: str, piece: str, windows: Sequence[Encoding]) -> list[Array]:
    """Return logits that name the characters of `piece` a thing."""
    start = text.index(piece)
    end = start + len(piece)
    found = []
    for window in windows:
        logits = np.zeros((len(window), len(LABELS)), np.float32)
        for place, (left, right) in enumerate(window.offsets):
            inside = left < end and right > start
            logits[place, 0 if not inside else 1 if left <= start else 2] = 9
        found.append(logits)
    return found


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("我想买红色的手机壳", "手机壳"),
        ("love it 😍👍🏽 from Größe", "😍👍🏽"),
        ("love it 😍👍🏽 from Größe", "Größe"),
        ("Café crème & ﬁsh", "crème"),
        ("한국어 리뷰 shoes", "리뷰"),
    ],
)
def test_a_span_is_the_very_characters_of_the_text(kind: str, text: str, piece: str) -> None:
    task = _task(TOKENIZERS[kind]())
    row = task.prepare([text])[0]
    logits = np.stack(_marked(text, piece, row.windows))
    (spans,) = task.results({"logits": logits}, [row])
    assert [span.text for span in spans.spans] == [piece]
    assert all(text[span.start : span.end] == span.text for span in spans.spans)


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("love it 😍👍🏽 from Größe", "👍🏽"),
        ("我想买红色的手机壳", "红色"),
        ("ราคาถูกมาก", "ถูก"),
        ("👨‍👩‍👧 x", "👨‍👩‍👧"),
    ],
)
def test_spans_inside_runs_without_spaces_are_exact_byte_by_byte(text: str, piece: str) -> None:
    task = _task(_bytes())
    row = task.prepare([text])[0]
    (spans,) = task.results({"logits": np.stack(_marked(text, piece, row.windows))}, [row])
    assert [span.text for span in spans.spans] == [piece]


def test_a_long_text_is_read_in_windows_to_its_end() -> None:
    task = _task(_bytes(), max_length=16)
    text = "x" * 100 + " 手机壳"
    row = task.prepare([text])[0]
    assert len(row.windows) > 5
    longest = max(map(len, row.windows))
    parts = [np.pad(part, ((0, longest - len(part)), (0, 0))) for part in _marked(text, "手机壳", row.windows)]
    (spans,) = task.results({"logits": np.stack(parts)}, [row])
    assert [(span.start, span.end) for span in spans.spans] == [(101, 104)]


def test_texts_of_one_batch_keep_their_own_windows() -> None:
    task = _task(_bytes(), max_length=16)
    rows = task.prepare(["a" * 40, "b", "c" * 20])
    feeds = task.collate(rows)
    assert len(feeds["input_ids"]) == sum(len(row.windows) for row in rows)
    logits = np.zeros((*feeds["input_ids"].shape, len(LABELS)), np.float32)
    logits[..., 0] = 5
    assert task.results({"logits": logits}, rows) == [Spans(())] * 3


def test_a_label_goes_on_only_behind_its_beginning() -> None:
    decoder = Decoder(TokenOptions(LABELS, 32))
    encoding = _word_pieces().encode("plain words here")
    probabilities = np.full((len(encoding), len(LABELS)), 0.02, np.float32)
    probabilities[:, 4] = 0.6  # I-brand everywhere, which must not begin a span
    probabilities[:, 3] = 0.3
    spans = decoder.spans("plain words here", [encoding], [probabilities]).spans
    assert [(span.label, span.start, span.end) for span in spans] == [("brand", 0, 16)]


def test_two_spans_of_one_label_side_by_side_stay_two() -> None:
    decoder = Decoder(TokenOptions(LABELS, 32))
    encoding = _word_pieces().encode("plain words here")
    probabilities = np.full((len(encoding), len(LABELS)), 0.01, np.float32)
    firsts = {place for place, word in enumerate(encoding.word_ids) if word not in encoding.word_ids[:place]}
    for place in range(len(encoding)):
        probabilities[place, 1 if place in firsts else 2] = 0.96
    spans = decoder.spans("plain words here", [encoding], [probabilities]).spans
    assert [span.text for span in spans] == ["plain", "words", "here"]


def test_bare_labels_join_neighbours() -> None:
    decoder = Decoder(TokenOptions(("O", "thing"), 32))
    encoding = _word_pieces().encode("plain words here")
    sides = np.array([[0.1, 0.9] if word != 2 else [0.9, 0.1] for word in encoding.word_ids], np.float32)
    assert [span.text for span in decoder.spans("plain words here", [encoding], [sides]).spans] == ["plain words"]


def test_unsure_spans_can_be_left_out() -> None:
    text, encoding = "shoes", _word_pieces().encode("shoes")
    probabilities = np.tile(np.array([0.35, 0.6, 0.05, 0, 0], np.float32), (len(encoding), 1))
    assert Decoder(TokenOptions(LABELS, 32)).spans(text, [encoding], [probabilities]).spans
    assert not Decoder(TokenOptions(LABELS, 32, abstain_below=0.7)).spans(text, [encoding], [probabilities]).spans


def test_another_span_is_another_golden_answer() -> None:
    decoder = Decoder(TokenOptions(("O", "thing"), 32))
    encoding = _word_pieces().encode("plain words here")
    ones = [np.array([[0.1, 0.9] if word == n else [0.9, 0.1] for word in encoding.word_ids]) for n in (0, 1)]
    one, other = (flatten(decoder.spans("plain words here", [encoding], [part])) for part in ones)
    assert best(one) != best(other)


def test_the_task_keeps_the_contract() -> None:
    check_task(_task(_word_pieces()), list(TEXTS))


@pytest.mark.parametrize("item", [None, 3, b"bytes", ["a"], {"text": "a"}, "\ud800", "x" * 200_001])
def test_what_is_no_text_is_refused_by_its_place(item: Any) -> None:
    with pytest.raises(InputError, match="item 1"):
        _task(_word_pieces()).prepare(["fine", item])


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u200b"])
def test_a_text_of_nothing_has_no_spans(text: str) -> None:
    task = _task(_word_pieces())
    rows = task.prepare([text])
    length = task.collate(rows)["input_ids"].shape[1]
    assert task.results({"logits": np.ones((1, length, len(LABELS)), np.float32)}, rows) == [Spans(())]


@pytest.mark.parametrize("options", [{"labels": ()}, {"labels": ("O", "O")}, {"word": "last"}])
def test_options_that_fit_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        Decoder(TokenOptions(**{"labels": LABELS, "max_length": 8, **options}))


class _Words:
    """A session that names `oat` a thing, `milk` where `oat` stands before it, and nothing else."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = {word: tokenizer.token_to_id(word) for word in ("oat", "milk")}
        self.runs = 0

    inputs, outputs = INPUTS, ()

    def run(self, feeds: Any) -> dict[str, Array]:
        self.runs += 1
        ids = np.asarray(feeds["input_ids"])  # [windows, sequence]
        before = np.roll(ids, 1, axis=1)
        logits = np.zeros((*ids.shape, len(LABELS)), np.float32)
        logits[..., 0] = 4
        logits[ids == self._ids["oat"], 1] = 7
        milk = ids == self._ids["milk"]
        logits[milk, 2] = 3
        logits[milk & (before == self._ids["oat"]), 2] = 7
        return {"logits": logits}

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def shopper() -> tuple[TokenClassification, Any]:
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "oat": 1, "milk": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _task(made), _Words(made)


def test_a_span_is_explained_by_its_own_words_and_those_it_needs(shopper: tuple[TokenClassification, Any]) -> None:
    task, session = shopper
    text = "I want oat milk please"
    told = explain(session, task, text, None, 64)
    assert told.label == "7-15 thing"
    weights = {part.text: part.weight for part in told.parts}
    assert weights["milk"] == pytest.approx(told.score / 2, abs=0.01)  # one of two words is gone
    assert weights["oat"] > weights["milk"] + 0.2  # without it, milk is none either
    assert max(abs(weights[word]) for word in ("I", "want", "please")) < 1e-6
    assert told.score == pytest.approx(task.results(session.run(task.collate(task.prepare([text]))),
                                                    task.prepare([text]))[0].spans[0].score, abs=1e-3)  # fmt: skip


@pytest.mark.parametrize(("label", "start"), [("20-24 thing", 20), ("thing", 4), ("4-7 thing", 4), (None, 4)])
def test_a_label_names_one_span_or_the_surest_of_its_kind(
    shopper: tuple[TokenClassification, Any], label: str | None, start: int
) -> None:
    task, session = shopper
    row = task.prepare(["the oat, more of th oat milk"])[0]
    (spans,) = task.results(session.run(task.collate([row])), [row])
    assert [span.start for span in spans.spans] == [4, 20]
    wanted = spans.spans[1].name if label == "20-24 thing" else label
    assert explain(session, task, row.text, wanted, 64).label == spans.spans[start == 20].name


def test_a_span_that_was_not_found_is_refused(shopper: tuple[TokenClassification, Any]) -> None:
    task, session = shopper
    with pytest.raises(InputError, match=r"a span that was found \(4-7 thing\), got 'brand'"):
        explain(session, task, "the oat", "brand", 64)
    with pytest.raises(InputError, match="no span"):
        explain(session, task, "the oat", "no span", 64)


def test_where_no_span_is_found_nothing_is_explained_by_any_word(shopper: tuple[TokenClassification, Any]) -> None:
    task, session = shopper
    told = explain(session, task, "the tea", None, 64)
    assert (told.label, round(told.score, 2)) == ("no span", 0.93)
    assert max(abs(part.weight) for part in told.parts) < 1e-6


def test_deleting_the_words_of_a_span_costs_more_than_deleting_any(shopper: tuple[TokenClassification, Any]) -> None:
    task, session = shopper
    found = faithfulness(session, task, ["I want oat milk please", "is there no tea", "more oat milk for a friend"])
    assert found.ranked > found.shuffled + 0.05


def test_many_windows_are_explained_in_runs_of_a_bounded_number_of_rows(
    shopper: tuple[TokenClassification, Any],
) -> None:
    task, session = shopper
    seen: list[int] = []
    run = session.run
    session.run = lambda feeds: seen.append(len(feeds["input_ids"])) or run(feeds)
    told = explain(session, task, "oat " + "tea " * 400, "0-3 thing", 64)
    assert len(told.parts) == 64
    assert sum(seen) > 500
    assert max(seen) <= ROWS


def test_a_text_of_too_many_windows_to_explain_says_so(shopper: tuple[TokenClassification, Any]) -> None:
    task, session = shopper
    with pytest.raises(InputError, match="at most 32 windows to explain"):
        explain(session, task, "oat " + "tea " * 4000, None, 64)
