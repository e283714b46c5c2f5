"""Noise of fingers and input methods: typos by keyboard distance, homophones, widths, case, emoji.

Every function takes a text and a random generator and returns the text changed, or as it was where nothing fits.
"""

import unicodedata
from collections import defaultdict
from functools import cache
from random import Random
from typing import Any

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LETTERS_A_TYPO = 18
_CHINESE_A_SLIP = 10
_WIDE = 0xFEE0  # distance from ASCII to its full-width forms
_PUNCTUATION = dict(zip(",.!?:;()", "，。！？：；（）", strict=True))
_EMOJI = ("🛒", "🛍️", "📦", "🙏", "👀", "👋", "🤔", "😅", "✨", "📱")


def typo(text: str, rng: Random) -> str:
    """Slip on a QWERTY keyboard, once for every 18 letters: a neighbouring key, a key twice, missed, or too early."""
    letters = [place for place, character in enumerate(text) if character.lower() in _neighbours()]
    if not letters:
        return text
    characters = list(text)
    for place in rng.sample(letters, max(1, len(letters) // _LETTERS_A_TYPO)):
        if rng.random() < 0.2 and place and text[place - 1].isalpha():
            characters[place - 1], characters[place] = characters[place], characters[place - 1]
        else:
            characters[place] = _slip(text[place], rng)
    return "".join(characters)


def pinyin(text: str, rng: Random) -> str:
    """Choose the wrong character for the right pinyin (tones aside), once for every 10 Chinese characters.

    Readings come from pypinyin, which knows words, so that 银行 reads yin hang; candidates are the 3,755 common
    characters of GB 2312, level 1.
    """
    from pypinyin import lazy_pinyin

    places = [place for place, character in enumerate(text) if "\u4e00" <= character <= "\u9fff"]
    readings = lazy_pinyin(text, errors=_singly) if places else []
    usable = [place for place in places if len(_homophones().get(readings[place], "")) > 1]
    if not usable:
        return text
    characters = list(text)
    for place in rng.sample(usable, min(len(usable), max(1, len(places) // _CHINESE_A_SLIP))):
        others = _homophones()[readings[place]].replace(text[place], "")
        characters[place] = rng.choice(others or text[place])
    return "".join(characters)


def width(text: str, rng: Random) -> str:
    """Swap half- and full-width forms: punctuation of Chinese texts, digits and some words of others."""
    narrow = unicodedata.normalize("NFKC", text)
    if narrow != text and rng.random() < 0.7:
        return narrow
    if any("\u4e00" <= character <= "\u9fff" for character in text):
        return "".join(_PUNCTUATION.get(character, _widen(character, rng, digits=True)) for character in text)
    words = text.split(" ")
    chosen = set(rng.sample(range(len(words)), max(1, len(words) // 4)))
    return " ".join(
        "".join(_widen(character, rng) for character in word) if place in chosen else word
        for place, word in enumerate(words)
    )


def case(text: str, rng: Random) -> str:
    """Write all in capitals, none, a capital for every word, or as with caps lock left on."""
    ways = (text.upper(), text.lower(), text.title(), text.swapcase())
    others = [way for way in ways if way != text]
    return rng.choice(others) if others else text


def emoji(text: str, rng: Random) -> str:
    """Put one or two emoji that say little behind the text or before it; or drop those it has."""
    if not text.strip():
        return text
    bare = "".join(character for character in text if not _is_emoji(character)).strip()
    if bare and bare != text.strip() and rng.random() < 0.5:
        return bare
    added = "".join(rng.choice(_EMOJI) for _ in range(rng.choice((1, 1, 2))))
    return f"{text} {added}" if rng.random() < 0.8 else f"{added} {text}"


def _slip(character: str, rng: Random) -> str:
    """Return what is written in place of a character: a neighbouring key, the key twice, or nothing."""
    kind = rng.choice(("neighbour", "neighbour", "twice", "missed"))
    if kind == "twice":
        return character * 2
    if kind == "missed":
        return ""
    near = rng.choice(_neighbours()[character.lower()])
    return near.upper() if character.isupper() else near


def _singly(run: str) -> Any:
    """Give each character that has no reading a place of its own; pypinyin's types know strings only."""
    return list(run)


@cache
def _neighbours() -> dict[str, str]:
    """Return each key's neighbours; a row lies about half a key right of the one above."""
    keys = {key: (row, column + row / 2) for row, line in enumerate(_ROWS) for column, key in enumerate(line)}
    return {
        key: "".join(
            other for other, (r, c) in keys.items() if other != key and abs(r - row) <= 1 and abs(c - column) <= 1
        )
        for key, (row, column) in keys.items()
    }


@cache
def _homophones() -> dict[str, str]:
    """Return pinyin without tones to the common characters that read so; rows 16 to 55 of GB 2312."""
    from pypinyin import lazy_pinyin

    found: dict[str, str] = defaultdict(str)
    for high in range(0xB0, 0xD8):
        for low in range(0xA1, 0xFF):
            try:
                character = bytes((high, low)).decode("gb2312")
            except UnicodeDecodeError:
                continue  # the last row is short
            found[lazy_pinyin(character)[0]] += character
    return dict(found)


def _widen(character: str, rng: Random, digits: bool = False) -> str:
    is_wanted = character.isdigit() if digits else "!" <= character <= "~"
    return chr(ord(character) + _WIDE) if is_wanted and character.isascii() else character


def _is_emoji(character: str) -> bool:
    return (
        unicodedata.category(character) == "So"
        or character in "\ufe0f\u200d"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )
