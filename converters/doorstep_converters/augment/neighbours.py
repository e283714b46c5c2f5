"""Near words without a lexicon: the corpus's own, or its teacher's, close to each other in the teacher's space."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from doorstep.tensors import Array
from doorstep_converters.augment.words import CHINESE, LATIN
from doorstep_converters.export.classifier import load_model
from doorstep_converters.tokenizer import load_tokenizer

_MOST_WORDS = 4000
_LEAST_COUNT = 3
_LEAST_COSINE = 0.6
_OTHERS, _NEW = 4, 16  # near words of one
_MOST_NEW = 20_000  # of a vocabulary
_BEGINS = ("Ġ", "▁")  # of a token that begins a word, in BPE and in SentencePiece
_BATCH = 128
_LEAST_PMI = 3.0  # bits; pairs of characters that come together by chance lie near 0


def neighbour_lexicon(teacher: Path, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return each frequent word of `texts` to its nearest words, cosine 0.6 or more.

    A word's vector is the mean of the teacher's last hidden states over its tokens.
    """
    words = frequent_words(texts)
    return _nearest(teacher, words, words, _OTHERS)


def vocabulary_lexicon(teacher: Path, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return each frequent word of `texts` to words of the teacher's vocabulary that no text has; as near as above.

    A student meets words of shoppers to come that way, where the texts at hand are few.
    """
    known = {match[0].lower() for text in texts for match in LATIN.finditer(text)}
    return _nearest(teacher, frequent_words(texts), [word for word in whole_words(teacher) if word not in known], _NEW)


def whole_words(teacher: Path) -> list[str]:
    """Return the tokens that begin an English word, in the order of the teacher's vocabulary; most are whole words."""
    ids: dict[str, int] = load_tokenizer(teacher).get_vocab()
    is_word_piece = any(token.startswith("##") for token in ids)  # it marks what begins no word, the others what does
    tokens = (
        token for token in sorted(ids, key=lambda token: ids[token]) if is_word_piece or token.startswith(_BEGINS)
    )
    words = dict.fromkeys(token.lstrip("".join(_BEGINS)) for token in tokens)
    return [word for word in words if word.islower() and LATIN.fullmatch(word) and _says_something(word)][:_MOST_NEW]


def _nearest(teacher: Path, words: Sequence[str], others: Sequence[str], count: int) -> dict[str, tuple[str, ...]]:
    """Return each word to at most `count` of the others that are near it."""
    if not words or not others:
        return {}
    space = _embed(teacher, words)
    beside = space if others is words else _embed(teacher, others)
    found = {}
    for word, vector in zip(words, space, strict=True):
        cosines = beside @ vector  # [others]
        nearest = [place for place in np.argsort(-cosines)[: count + 1] if others[place] != word][:count]
        if near := tuple(others[place] for place in nearest if cosines[place] >= _LEAST_COSINE):
            found[word] = near
    return found


def frequent_words(texts: Sequence[str]) -> list[str]:
    """Return words that occur in three texts or more, most frequent first: English ones, and Chinese pairs.

    Two characters are a word where their pointwise mutual information is 3 bits or more.
    """
    latin: Counter[str] = Counter()
    singles: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for text in texts:
        latin.update({match[0].lower() for match in LATIN.finditer(text)})
        for run in CHINESE.finditer(text):
            singles.update(run[0])
            pairs.update(run[0][place : place + 2] for place in range(len(run[0]) - 1))
    total = max(1, singles.total())
    counts = {word: n for word, n in latin.items() if _says_something(word)}
    for pair, n in pairs.items():
        if n >= _LEAST_COUNT and math.log2(n * total / (singles[pair[0]] * singles[pair[1]])) >= _LEAST_PMI:
            counts[pair] = n
    kept = [word for word, n in counts.items() if n >= _LEAST_COUNT]
    return sorted(kept, key=lambda word: (-counts[word], word))[:_MOST_WORDS]


def _says_something(word: str) -> bool:
    return len(word) > 2 and word not in ENGLISH_STOP_WORDS


def _embed(teacher: Path, words: Sequence[str]) -> Array:
    """Return unit vectors [words, size] float32."""
    tokenizer, model = load_tokenizer(teacher), load_model(teacher)
    parts = [_vectors(tokenizer, model, list(words[start : start + _BATCH])) for start in range(0, len(words), _BATCH)]
    vectors: Array = np.concatenate(parts)
    return vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9)


def _vectors(tokenizer: Any, model: Any, words: list[str]) -> Array:
    encoded = tokenizer(words, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], output_hidden_states=True
        ).hidden_states[-1]  # [words, tokens, size]
    mask = encoded["attention_mask"][..., None].float()
    means: Array = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return means
