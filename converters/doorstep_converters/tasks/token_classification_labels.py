"""Labels of tokens: from spans to marks, and what a teacher's words say about a student's tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding

from doorstep.tasks.token_classification import Word, is_joined
from doorstep.tensors import Array

IGNORED = -100
"""The mark of a token that is no part of the text."""


def names_of(*splits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the labels of all spans, sorted."""
    return sorted({label for rows in splits for row in rows for _, _, label in row["spans"]})


def bio_labels(*splits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the labels of a head that is made for these rows."""
    return ["O", *(f"{prefix}-{name}" for name in names_of(*splits) for prefix in ("B", "I"))]


def places_of(name: str, labels: Sequence[str]) -> tuple[int, int] | None:
    """Return where a head has a span's first word and its others; None where it has no such label.

    A head may know `B-` and `I-`, only one of them, or bare names.
    """
    known = [f"{prefix}-{name}" for prefix in ("B", "I")]
    found = [labels.index(label) for label in known if label in labels] or [
        place for place, label in enumerate(labels) if label == name
    ]
    return (found[0], found[-1]) if found else None


def marks_of(encoding: Encoding, row: Mapping[str, Any], labels: Sequence[str]) -> list[int]:
    """Return the place of each token's label: every token of a span is marked, as its first word or as a later one."""
    marks = [IGNORED if special else labels.index("O") for special in encoding.special_tokens_mask]
    for start, end, name in row["spans"]:
        places = places_of(name, labels)
        assert places is not None  # noqa: S101 -- the craft has checked a teacher's labels
        word, reached = None, -1  # of the span's first word
        for number, (left, right) in enumerate(encoding.offsets):
            if marks[number] == IGNORED or left == right or right <= start or left >= end:
                continue
            is_first = reached < 0 or (encoding.word_ids[number] == word and is_joined(row["text"], reached, left))
            if is_first:
                word, reached = encoding.word_ids[number], right
            marks[number] = places[0] if is_first else places[1]
    return marks


def wanted_of(text: str, encoding: Encoding, words: Sequence[Word], labels: Sequence[str]) -> Array:
    """Return a teacher's probabilities for a student's tokens [tokens, labels]; 0 where it says nothing.

    The two cut a text differently, so what counts are characters: a token learns what the teacher says of the word
    that holds its first one. A word of the student's that begins inside of one of the teacher's goes on with its span.

    Args:
        words: the teacher's, by their places.
    """
    holder = np.full(len(text), -1)
    for number, word in enumerate(words):
        holder[word.start : word.end] = number
    later = [(places[0], places[1]) for name in _bare(labels) if (places := places_of(name, labels))]
    wanted = np.zeros((len(encoding), len(labels)), np.float32)
    for number, (place, first) in enumerate(zip(encoding.offsets, _first_characters(text, encoding), strict=True)):
        if first < 0 or holder[place[0]] < 0:
            continue
        word = words[holder[place[0]]]
        wanted[number] = word.probabilities
        if first > word.start:
            for begin, inside in later:
                if begin != inside:
                    wanted[number, inside] += wanted[number, begin]
                    wanted[number, begin] = 0.0
    return wanted


def _bare(labels: Sequence[str]) -> list[str]:
    return sorted({label[2:] for label in labels if label.startswith(("B-", "I-"))})


def _first_characters(text: str, encoding: Encoding) -> list[int]:
    """Return the first character of the word that each token belongs to; -1 for what is no part of the text."""
    found: list[int] = []
    start, end, number = -1, -1, None
    for offsets, word, special in zip(encoding.offsets, encoding.word_ids, encoding.special_tokens_mask, strict=True):
        if special or offsets[0] == offsets[1]:
            found.append(-1)
            continue
        if start < 0 or word != number or not is_joined(text, end, offsets[0]):
            start, number = offsets[0], word
        end = offsets[1]
        found.append(start)
    return found
