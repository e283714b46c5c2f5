"""Noise of shops: other codes, prices, sizes and brands in the same sentence, written as people write them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

_SIGNS = {"$": ("dollars", "USD"), "€": ("euros", "EUR"), "£": ("pounds", "GBP"), "¥": ("元", "块"), "￥": ("元", "块")}
_WORDS = {word: sign for sign, words in _SIGNS.items() for word in words} | {
    "dollar": "$", "euro": "€", "pound": "£", "块钱": "¥", "yuan": "¥", "rmb": "¥",
}  # fmt: skip
_PRICE = re.compile(
    r"(?P<sign>[$€£¥￥])\s?(?P<before>\d{1,6}(?:\.\d{1,2})?)"
    r"|(?P<after>\d{1,6}(?:\.\d{1,2})?)\s?(?P<word>dollars?|euros?|pounds?|USD|EUR|GBP|yuan|rmb|块钱|元|块)(?![A-Za-z])",
    re.IGNORECASE,
)
_CODE = re.compile(r"(?<![A-Za-z0-9])(?=[A-Za-z0-9-]*\d)(?=[A-Za-z0-9-]*[A-Z])[A-Z0-9]+(?:-[A-Z0-9]+)*(?![A-Za-z0-9])")
_SIZES: tuple[tuple[str, ...], ...] = (
    ("XS", "S", "M", "L", "XL", "XXL"),
    ("extra small", "small", "medium", "large", "extra large"),
    ("小号", "中号", "大号", "加大号"),
)
_SIZE = re.compile(
    r"(?<![A-Za-z'’])(?P<letter>XXL|XL|XS|S|M|L)(?![A-Za-z'’])|\b(?P<name>extra small|extra large|small|medium|large)\b"
    r"|(?P<zh>加大号|小号|中号|大号)"
    r"|(?P<number>\d{1,4}(?:\.\d)?)(?P<gap>\s?)(?P<unit>ml|l|cl|g|kg|oz|lb|cm|mm|inch|inches|GB|TB|W|码|寸|升|毫升|公斤|斤|克)"
    r"(?![A-Za-z])|(?P<shoe>(?<=size )\d{1,2}(?:½|\.5)?)"
)
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}")
_SYLLABLES = (
    "ba",
    "do",
    "fen",
    "gor",
    "hel",
    "jun",
    "kar",
    "lin",
    "mor",
    "nex",
    "pel",
    "quo",
    "ril",
    "sum",
    "tav",
    "vel",
)


def price(text: str, rng: Random) -> str:
    """Change each price to between half and double, and now and then how it is written ($5, 5 dollars, 5元)."""

    def other(match: re.Match[str]) -> str:
        amount = float(match["before"] or match["after"]) * rng.uniform(0.5, 2.0)
        sign = match["sign"] or _WORDS[match["word"].lower() if match["word"].lower() in _WORDS else match["word"][:-1]]
        figure = rng.choice((f"{max(1, round(amount))}", f"{int(amount) + 0.99:.2f}", f"{amount:.1f}0"))
        return (
            f"{figure} {rng.choice(_SIGNS[sign])}"
            if rng.random() < 0.3 and sign not in "¥￥"
            else _written(figure, sign, rng)
        )

    return _PRICE.sub(other, text)


def sku(text: str, rng: Random) -> str:
    """Change the digits and letters of each code; a text without one gets one, as copied from a label."""

    def other(match: re.Match[str]) -> str:
        return "".join(
            str(rng.randrange(10)) if c.isdigit() else rng.choice("ABCDEFGHJKLMNPRSTUVWX") if c.isalpha() else c
            for c in match[0]
        )

    if not text.strip():
        return text
    if _CODE.search(text):
        return _CODE.sub(other, text)
    code = f"{rng.choice('ABCDHKLMS')}{rng.choice('AEKPRST')}-{rng.randrange(1000, 99999)}"
    if any("\u4e00" <= character <= "\u9fff" for character in text):
        return f"{text} 货号{code}"
    return rng.choice((f"{text} (SKU {code})", f"{text} {code}", f"{code}: {text}"))


def size(text: str, rng: Random) -> str:
    """Change sizes: S to XXL, small to extra large, 大号, 500 ml, 42码, size 9½."""

    def other(match: re.Match[str]) -> str:
        for group, names in zip(("letter", "name", "zh"), _SIZES, strict=True):
            if match[group]:
                return rng.choice([name for name in names if name != match[group]])
        if match["shoe"]:
            return f"{rng.randrange(3, 13)}{rng.choice(('', '½', '.5'))}"
        number = float(match["number"]) * rng.choice((0.5, 2, 1.5, 0.75))
        return f"{number:g}{rng.choice(('', ' ') if match['unit'].isascii() else ('',))}{match['unit']}"

    return _SIZE.sub(other, text)


@dataclass(frozen=True, slots=True)
class Brands:
    """Swaps brands.

    Attributes:
        names: the shop's brands, each swapped for another one; empty where they are unknown: then every capitalised
            word inside a sentence is taken for a name and swapped for a coined one.
    """

    names: Sequence[str] = ()

    def __call__(self, text: str, rng: Random) -> str:
        """Return `text` with other brands in it."""
        if not self.names:
            return _NAME.sub(lambda match: _coin(rng), text)
        known = re.compile("|".join(_whole(name) for name in sorted(self.names, key=len, reverse=True)))
        return known.sub(lambda match: rng.choice([n for n in self.names if n != match[0]] or [match[0]]), text)


brand: Callable[[str, Random], str] = Brands()


def _written(figure: str, sign: str, rng: Random) -> str:
    if sign in "¥￥" and rng.random() < 0.5:
        return f"{figure}{rng.choice(_SIGNS[sign])}"
    return f"{sign}{figure}"


def _coin(rng: Random) -> str:
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.choice((2, 2, 3)))).capitalize()


def _whole(name: str) -> str:
    """Return a pattern for a name that is no part of a longer word."""
    return rf"(?<![A-Za-z]){re.escape(name)}(?![A-Za-z])" if name.isascii() else re.escape(name)
