"""Texts to token ids."""

from collections.abc import Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from doorstep.errors import FormatError, InputError
from doorstep.tasks.text import MAX_CHARACTERS, TextEncoder
from doorstep.tensors import TensorSpec

NAMES = ("input_ids", "attention_mask", "token_type_ids")
PAD, UNKNOWN, FIRST, LAST = 0, 1, 2, 3


def specs(*names: str, dtype: str = "int64", sequence: int | str = "sequence", pad: int = 0) -> list[TensorSpec]:
    return [TensorSpec(name, dtype, ("batch", sequence), pad) for name in names or NAMES[:2]]


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> TextEncoder:
    return TextEncoder.from_bytes(tokenizer.to_str().encode(), 16, specs())


def ids(encoder: TextEncoder, texts: Sequence[str]) -> list[list[int]]:
    return [row.ids for row in encoder.encode(texts)]


NASTY = {
    "Chinese": "配送很快，包装也很好",
    "traditional Chinese": "質量太差了",
    "emoji": "love it 👍🏽👩‍👩‍👧",
    "a fraction": "½ price",
    "zero width": "love\u200bit\ufeff",
    "HTML": "a &lt;b&gt; &amp; <i>c</i>",
    "right to left": "مرحبا \u202eabc",
    "controls": "a\x00b\x07c\r\n\tz",
    "combining": "e\u0301" * 50,
    "astral": "𝓁𝑜𝓋𝑒",
    "spaces only": " \u3000\u00a0 ",
    "special tokens": "[CLS] [SEP] [PAD]",
}


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_one_text_and_a_batch_give_the_tokenizers_own_ids(
    encoder: TextEncoder, tokenizer: Tokenizer, text: str
) -> None:
    bare = Tokenizer.from_str(tokenizer.to_str())
    bare.enable_truncation(16)
    expected = bare.encode(text).ids
    assert ids(encoder, [text]) == [expected]
    assert ids(encoder, ["love it", text]) == [bare.encode("love it").ids, expected]


@pytest.mark.parametrize("text, expected", [("", [FIRST, LAST]), ("   ", [FIRST, LAST])])
def test_an_empty_text_is_only_its_frame(encoder: TextEncoder, text: str, expected: list[int]) -> None:
    assert ids(encoder, [text]) == [expected]


@pytest.mark.parametrize("length", [100, 10_000, MAX_CHARACTERS])
def test_a_long_text_is_cut_to_the_maximum_length(encoder: TextEncoder, length: int) -> None:
    row = ids(encoder, ["love " * (length // 5)])[0]
    assert (len(row), row[0], row[-1]) == (16, FIRST, LAST)


class Text(str):
    """A text of another class."""

    __slots__ = ()


@pytest.mark.parametrize("text", [Text("love it"), np.str_("love it")])
def test_a_text_of_a_subclass_is_a_text(encoder: TextEncoder, text: str) -> None:
    assert ids(encoder, [text]) == ids(encoder, ["love it"])


WRONG = {
    "None": (None, "expected a text \\(str\\), got NoneType"),
    "bytes": (b"love it", "got bytes; decode it: item.decode\\('utf-8'\\)"),
    "bytearray": (bytearray(b"love"), "got bytearray; decode it"),
    "int": (3, "got int"),
    "float": (float("nan"), "got float"),
    "list": (["love it"], "got list"),
    "tuple": (("love", "it"), "got tuple"),
    "dict": ({"text": "love it"}, "got dict"),
    "array": (np.array(["love it"]), "got ndarray"),
    "too long": ("x" * (MAX_CHARACTERS + 1), "expected at most 200000 characters, got 200001; cut it"),
    "1 MB": ("x" * (1 << 20), "expected at most 200000 characters, got 1048576; cut it"),
    "a lone surrogate": ("love \ud83d it", "half of a surrogate pair"),
    "a lone low surrogate": ("\udc80", "half of a surrogate pair"),
}


@pytest.mark.parametrize("item, message", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_wrong_item_is_refused_by_its_place(encoder: TextEncoder, item: object, message: str, before: int) -> None:
    with pytest.raises(InputError, match=f"item {before}: .*{message}"):
        encoder.encode(["fine"] * before + [item])


def test_rows_are_padded_to_the_longest_with_the_declared_value(tokenizer: Tokenizer) -> None:
    inputs = [*specs("input_ids", pad=9), *specs("attention_mask")]
    encoder = TextEncoder.from_bytes(tokenizer.to_str().encode(), 16, inputs)
    rows = encoder.encode(["love it", ""])
    feeds = encoder.collate(rows)
    assert feeds["input_ids"].tolist() == [rows[0].ids, [FIRST, LAST, 9, 9]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("texts", [["love it"], ["love it", ""]])
def test_feeds_have_the_declared_names_and_dtypes(tokenizer: Tokenizer, dtype: str, texts: list[str]) -> None:
    encoder = TextEncoder.from_bytes(tokenizer.to_str().encode(), 16, specs(*NAMES, dtype=dtype))
    feeds = encoder.collate(encoder.encode(texts))
    assert list(feeds) == list(NAMES)
    assert {array.dtype.name for array in feeds.values()} == {dtype}
    assert {array.shape for array in feeds.values()} == {(len(texts), 4)}


@pytest.mark.parametrize("texts", [["love it"], ["love it", ""], ["love it " * 50]])
def test_a_fixed_length_is_filled(tokenizer: Tokenizer, texts: list[str]) -> None:
    encoder = TextEncoder.from_bytes(tokenizer.to_str().encode(), 16, specs(sequence=16))
    assert encoder.collate(encoder.encode(texts))["input_ids"].shape == (len(texts), 16)


@pytest.mark.parametrize("texts", [[""], ["", ""]])
def test_a_text_without_any_token_still_makes_a_row(texts: list[str]) -> None:
    bare = Tokenizer(models.WordLevel({"love": 0, "[UNK]": 1}, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = TextEncoder.from_bytes(bare.to_str().encode(), 16, specs())
    feeds = encoder.collate(encoder.encode(texts))
    assert feeds["attention_mask"].tolist() == [[0]] * len(texts)


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b"\xff", b'{"version": "1.0", "model": {}}', b"[]"])
def test_what_is_no_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="tokenizers library cannot read it"):
        TextEncoder.from_bytes(data, 16, specs())


@pytest.mark.parametrize("max_length", [-1, 0, 1])
def test_a_maximum_length_without_room_for_the_frame_is_refused(tokenizer: Tokenizer, max_length: int) -> None:
    with pytest.raises(FormatError):
        TextEncoder.from_bytes(tokenizer.to_str().encode(), max_length, specs())


def test_a_maximum_length_beyond_a_fixed_model_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(FormatError, match="max_length: the model takes 16 tokens, got 32"):
        TextEncoder.from_bytes(tokenizer.to_str().encode(), 32, specs(sequence=16))


def test_an_input_that_no_text_gives_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(FormatError, match="got pixels"):
        TextEncoder.from_bytes(tokenizer.to_str().encode(), 16, specs("input_ids", "pixels"))
