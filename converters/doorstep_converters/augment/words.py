"""Other words for the same: from a lexicon file, or from the teacher's own embedding space."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

LATIN = re.compile(r"[A-Za-z][A-Za-z'’-]*")
CHINESE = re.compile(r"[\u3400-\u9fff]+")
_LONGEST_ENGLISH, _LONGEST_CHINESE = 3, 6  # words, characters
_SHARE = 0.2  # of the words that have a synonym


@dataclass(frozen=True, slots=True)
class Synonyms:
    """Replaces a fifth of the words it knows, at least one.

    Attributes:
        lexicon: word in lower case to words that may stand in its place.
    """

    lexicon: Mapping[str, Sequence[str]]

    def __call__(self, text: str, rng: Random) -> str:
        """Return `text` with other words; capitals at the beginning stay."""
        spans = sorted([*self._english(text), *self._chinese(text)])
        if not spans:
            return text
        chosen = sorted(rng.sample(spans, max(1, round(_SHARE * len(spans)))), reverse=True)
        for start, end in chosen:
            old = text[start:end]
            new = rng.choice(self.lexicon[old.lower()])
            text = text[:start] + (new[:1].upper() + new[1:] if old[:1].isupper() else new) + text[end:]
        return text

    def _english(self, text: str) -> list[tuple[int, int]]:
        """Return the places of known words and phrases, the longest first at each place."""
        words = [match.span() for match in LATIN.finditer(text)]
        spans, place = [], 0
        while place < len(words):
            for count in range(min(_LONGEST_ENGLISH, len(words) - place), 0, -1):
                span = words[place][0], words[place + count - 1][1]
                if text[slice(*span)].lower() in self.lexicon:
                    spans.append(span)
                    place += count - 1
                    break
            place += 1
        return spans

    def _chinese(self, text: str) -> list[tuple[int, int]]:
        """Return the places of known words of two or more characters, by forward maximum matching."""
        spans = []
        for run in CHINESE.finditer(text):
            place = run.start()
            while place < run.end():
                longest = min(_LONGEST_CHINESE, run.end() - place)
                for count in range(longest, 1, -1):
                    if text[place : place + count] in self.lexicon:
                        spans.append((place, place + count))
                        place += count - 1
                        break
                place += 1
        return spans
