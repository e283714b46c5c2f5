"""Tokenizers for students: the teacher's with fewer tokens, or a new one trained on the corpus.

Whatever is made is a `tokenizer.json` that the `tokenizers` library runs on the device.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_PAD, _UNK, _CLS = _SPECIAL = ("[PAD]", "[UNK]", "[CLS]")
_DENSE_SCRIPT = 0.2  # share of characters written without spaces from which a text is cut by likelihood
_LONGEST_PIECE = 4  # characters of a piece of Chinese: words of shop reviews are hardly longer
# Thai, Lao, Burmese, Khmer, kana, Chinese ideographs, half-width kana; emoji and other signs
_ALONE = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003fffd]|\\p{So}|\\p{Sk}"
)
_DIGITS = 2  # of a piece's log probability: the trainer's own sums differ behind them from one time to the next


def student_tokenizer(teacher: Any, texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer of at most `size` tokens for a student.

    Chinese and Japanese texts get pieces of one to four characters; other texts the teacher's WordPiece tokens that
    the corpus uses and the most frequent ones beside them; a teacher with other tokens gives way to trained WordPiece.
    All read full-width letters, digits and signs as the ordinary ones (NFKC), whether or not the teacher does.
    """
    if is_dense(texts):
        return _wrapped(_pieces(texts, size))
    if is_word_piece(teacher):
        tokens = kept_tokens(teacher, texts, size, without=(teacher.sep_token, teacher.mask_token))
        names = {teacher.pad_token: _PAD, teacher.unk_token: _UNK, teacher.cls_token: _CLS}
        cut = _cut(teacher, tokens, names)
        cut.normalizer = normalizers.Sequence([normalizers.NFKC(), cut.normalizer or normalizers.Sequence([])])
        return _wrapped(cut)
    return _wrapped(_word_pieces(texts, size))


def tagger_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Train WordPiece of at most `size` tokens for a student that names spans.

    Case and accents are kept, for they tell names from other words. Characters of scripts without spaces and signs
    are tokens of their own, known or not, so that a span may begin and end at any of them.
    """
    made = Tokenizer(models.WordPiece({}, unk_token=_UNK))
    plain = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), plain])
    words = pre_tokenizers.BertPreTokenizer()
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_ALONE), "isolated"), words])
    return _wrapped(train_word_pieces(made, texts, size, size // 2))


def cut_tokenizer(teacher: Any, texts: Sequence[str], size: int) -> tuple[Any, list[int]]:
    """Return the teacher's tokenizer with at most `size` tokens, its frame around a text kept, and their old ids.

    Other tokenizers than WordPiece are returned whole.
    """
    if not size or not is_word_piece(teacher):
        return teacher, list(range(len(teacher)))
    tokens = kept_tokens(teacher, texts, size, without=())
    ids = teacher.get_vocab()
    names = {token: token for token in teacher.all_special_tokens}
    state = json.loads(_cut(teacher, tokens, names).to_str())
    state["post_processor"] = json.loads(teacher.backend_tokenizer.to_str())["post_processor"]
    for entry in state["post_processor"].get("special_tokens", {}).values():
        entry["ids"] = [tokens.index(token) for token in entry["tokens"]]
    special = {
        name: getattr(teacher, name) for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), model_max_length=teacher.model_max_length, **special
    )
    return wrapped, [ids[token] for token in tokens]


def is_word_piece(teacher: Any) -> bool:
    """Tell whether a tokenizer's tokens can be left out one by one: what has no token is cut into smaller ones."""
    return bool(json.loads(teacher.backend_tokenizer.to_str())["model"]["type"] == "WordPiece")


def character_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose tokens are single characters, the `size` most frequent of the corpus."""
    tokenizer = Tokenizer(models.WordPiece({}, unk_token=_UNK, max_input_chars_per_word=1))
    tokenizer.normalizer = _plain()
    counts = Counter(character for text in texts for character in tokenizer.normalizer.normalize_str(text))
    tokens = [*_SPECIAL, *(character for character, _ in counts.most_common(size - len(_SPECIAL)))]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer.model = models.WordPiece(vocabulary, unk_token=_UNK, max_input_chars_per_word=1)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return _wrapped(tokenizer)


def is_dense(texts: Sequence[str]) -> bool:
    """Tell whether texts are written without spaces: by the share of Chinese and Japanese characters in one."""
    sample = [text for text in texts[:: max(1, len(texts) // 1000)] if text]
    dense = (sum("\u3040" <= character <= "\u9fff" for character in text) / len(text) for text in sample)
    return sum(dense) / max(1, len(sample)) > _DENSE_SCRIPT


def _plain() -> Any:
    return normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Let every text begin with [CLS]: even an empty one has a token then, and filters see where a text starts."""
    first = tokenizer.token_to_id(_CLS)
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[(_CLS, first)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, unk_token=_UNK, cls_token=_CLS, model_max_length=512
    )


def _pieces(texts: Sequence[str], size: int) -> Tokenizer:
    """Train a unigram model; its pieces keep to one run of characters between spaces and punctuation.

    Half of the pieces may be single characters; what is rarer is unknown, for the trainer has to hold every character.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = _plain()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(_SPECIAL), unk_token=_UNK, max_piece_length=_LONGEST_PIECE
    )
    tokenizer.train_from_iterator(_of_frequent_characters(texts, tokenizer.normalizer, size // 2), trainer)
    state = json.loads(tokenizer.to_str())
    special = len(_SPECIAL)
    rounded = [[token, round(score, _DIGITS)] for token, score in state["model"]["vocab"]]
    state["model"]["vocab"] = [*rounded[:special], *sorted(rounded[special:], key=lambda pair: (-pair[1], pair[0]))]
    return Tokenizer.from_str(json.dumps(state))


def _of_frequent_characters(texts: Sequence[str], normalizer: Any, size: int) -> list[str]:
    """Return normalized texts in which a space stands for every character but the `size` most frequent."""
    plain = [normalizer.normalize_str(text) for text in texts]
    counts = Counter(character for text in plain for character in text)
    ordered = sorted(counts, key=lambda character: (-counts[character], character))
    rare = {ord(character): " " for character in ordered[size:]}
    return [text.translate(rare) for text in plain]


def _word_pieces(texts: Sequence[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({}, unk_token=_UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer(lowercase=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return train_word_pieces(tokenizer, texts, size, size // 2)


def train_word_pieces(
    tokenizer: Tokenizer, texts: Sequence[str], size: int, characters: int, special: Sequence[str] = _SPECIAL
) -> Tokenizer:
    """Train WordPiece so that the same texts give the same tokens.

    The trainer of `tokenizers` numbers characters inside of words in the order of a hash table, another one each time,
    and breaks ties by these numbers. So they are given to it in order, as special tokens, and are ordinary ones again
    afterwards.

    Args:
        tokenizer: an untrained WordPiece model with its normalizer and pre-tokenizer.
        size: tokens at most.
        characters: of the texts that are learnt, the most frequent ones; a space stands for the others.
        special: tokens that come first.
    """
    plain = _of_frequent_characters(texts, tokenizer.normalizer, characters)
    words = {word for text in plain for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    inside = sorted({f"##{character}" for word in words for character in word[1:]})
    tokenizer.train_from_iterator(
        plain, trainers.WordPieceTrainer(vocab_size=size, special_tokens=[*special, *inside], show_progress=False)
    )
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    return Tokenizer.from_str(json.dumps(state))


def kept_tokens(teacher: Any, texts: Sequence[str], size: int, without: Sequence[str]) -> list[str]:
    """Choose special tokens, letters, what the corpus uses, then the lowest ids: WordPiece numbers by frequency."""
    vocabulary = teacher.get_vocab()
    by_id = sorted(vocabulary, key=vocabulary.__getitem__)
    counts = Counter(
        token for row in teacher(list(texts), truncation=False, verbose=False)["input_ids"] for token in row
    )
    first = (teacher.pad_token, teacher.unk_token, teacher.cls_token, *teacher.all_special_tokens)
    letters = [token for token in by_id if len(token.removeprefix("##")) == 1 and token.isascii()]
    ordered = [
        *first, *letters, *(by_id[place] for place, _ in counts.most_common()),
        *(token for token in by_id if not token.startswith("[unused")),
    ]  # fmt: skip
    return [token for token in dict.fromkeys(ordered) if token not in without][:size]


def _cut(teacher: Any, tokens: Sequence[str], names: dict[str, str]) -> Tokenizer:
    """Return the teacher's tokenizer with these tokens alone, special ones under their new names."""
    state = json.loads(teacher.backend_tokenizer.to_str())
    state["model"]["vocab"] = {names.get(token, token): place for place, token in enumerate(tokens)}
    state["model"]["unk_token"] = names[teacher.unk_token]
    places = {token: place for place, token in enumerate(tokens)}
    state["added_tokens"] = [{**_added(new), "id": places[old]} for old, new in names.items()]
    state["post_processor"] = state["truncation"] = state["padding"] = None
    return Tokenizer.from_str(json.dumps(state))


def _added(token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": token, "special": True, **flags}
