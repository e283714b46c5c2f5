"""The noise of real shops by name: for training data, and for the gate that measures accuracy under each.

>>> from random import Random
>>> NOISE["typo"]("is the oat milk back in stock", Random("7/typo"))
'is the oat milk bsck in stock'
"""

from collections.abc import Callable
from random import Random

from doorstep_converters.augment import shop, spelling

Change = Callable[[str, Random], str]
"""A text and a random generator in, the changed text out; the text itself where nothing in it can be changed."""

NOISE: dict[str, Change] = {
    "typo": spelling.typo,
    "pinyin": spelling.pinyin,
    "width": spelling.width,
    "case": spelling.case,
    "emoji": spelling.emoji,
    "sku": shop.sku,
    "price": shop.price,
    "size": shop.size,
    "brand": shop.brand,
}
