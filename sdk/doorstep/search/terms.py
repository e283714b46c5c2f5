"""What a text is looked up by: words, and the character n-grams that find a misspelt or glued-together one."""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

_WORD = re.compile(r"[^\W_]+(?:[.\-/'][^\W_]+)*")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+")
_PIECES = re.compile(r"[.\-/']")
_MOST_CHARACTERS = 2000  # of one text; what stands behind says nothing new

Analyzer = Callable[[str], Counter[int]]
"""A text to the 32-bit keys of its terms and how often each stands there."""


def words(text: str) -> Counter[int]:
    """Return words, lower case; of `wh-1000xm4` also its pieces, of Chinese, Japanese and Korean runs the pairs."""
    return Counter(_key(term) for term in _word_terms(text[:_MOST_CHARACTERS].lower()))


def pieces(text: str) -> Counter[int]:
    """Return the character n-grams, 3 to 5 long, of every word in lower case with a space before and behind it."""
    found: Counter[int] = Counter()
    for word in text[:_MOST_CHARACTERS].lower().split():
        spaced = f" {word} "
        for size in (3, 4, 5):
            if len(spaced) <= size:
                found[_key(spaced)] += 1  # a short word counts once, as it is
                break
            for start in range(len(spaced) - size + 1):
                found[_key(spaced[start : start + size])] += 1
    return found


ANALYZERS: dict[str, Analyzer] = {"words": words, "pieces": pieces}


def _word_terms(text: str) -> Iterator[str]:
    for match in _CJK.finditer(text):
        run = match.group()
        yield from (f"{one}{two}" for one, two in pairwise(run))
        yield from run
    for match in _WORD.finditer(_CJK.sub(" ", text)):
        word = match.group()
        yield word
        parts = _PIECES.split(word)
        if len(parts) > 1:
            yield from (part for part in parts if part)
            yield "".join(parts)


def _key(term: str) -> int:
    return zlib.crc32(term.encode(errors="surrogatepass"))
