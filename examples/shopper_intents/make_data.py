"""Expand grammar.toml into intents.csv, split by template.

    python make_data.py            # write intents.csv
    python make_data.py --check    # exit 1 if intents.csv is not what would be written

In a template, `{slot}` takes a value of the slot, `{a:slot}` puts a or an before it, `{many:slot}` makes it plural,
and `[one|two]` takes one of the wordings. A slot named twice gets two different values.
"""

import argparse
import csv
import io
import json
import math
import os
import random
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
TABLE = HERE / "intents.csv"
SEED = 20261124
PER_INTENT = 400  # utterances, at most
POOL = 200  # expansions drawn of one template, at most
FEWEST_TEMPLATES = 30
DEV_SHARE, TEST_SHARE = 0.1, 0.2

_PART = re.compile(r"\{(?:(a|many):)?([a-z_]+)\}|\[([^\]]*)\]")

Slots = dict[str, list[str]]


class Part(NamedTuple):
    """A stretch of a template: the values that may stand there, and the slot and form they come from."""

    values: list[str]
    slot: str = ""
    form: str = ""


class Row(NamedTuple):
    text: str
    label: str
    template: str
    split: str


def inflect(noun: str, form: str) -> str:
    """Put a noun into the form that a template asks for."""
    if form == "a":
        return ("an " if noun[0].lower() in "aeiou" else "a ") + noun
    if form == "many":
        if re.search(r"(s|x|ch|sh)$", noun):
            return noun + "es"
        return re.sub(r"([^aeiou])y$", r"\1ie", noun) + "s"
    return noun


def parse(template: str, slots: Slots) -> list[Part]:
    """Cut a template into its parts."""
    parts, end = [], 0
    for match in _PART.finditer(template):
        parts.append(Part([template[end : match.start()]]))
        form, slot, wordings = match.groups()
        parts.append(Part(slots[slot], slot, form or "") if slot else Part(wordings.split("|")))
        end = match.end()
    parts.append(Part([template[end:]]))
    if any(mark in literal for part in parts if not part.slot for literal in part.values for mark in "{}[]"):
        raise ValueError(f"unreadable template: {template}")
    return parts


def expand(template: str, slots: Slots, rng: random.Random) -> list[str]:
    """Draw expansions of a template, in a random order."""
    parts = parse(template, slots)
    total = math.prod(len(part.values) for part in parts)
    texts = []
    for number in rng.sample(range(total), min(total, POOL)):
        chosen, text, left = [], "", number
        for part in parts:
            left, at = divmod(left, len(part.values))
            text += inflect(part.values[at], part.form)
            if part.slot:
                chosen.append(part.values[at])
        if len(set(chosen)) == len(chosen):
            texts.append(text)
    return texts


def read_slots(lists: Slots, patterns: dict[str, list[str]], rng: random.Random) -> Slots:
    """Resolve `@slot` entries, and fill each `?` of a pattern with a digit."""
    slots = {name: [v for item in items for v in (lists[item[1:]] if item[0] == "@" else [item])]
             for name, items in lists.items()}  # fmt: skip
    for name, shapes in patterns.items():
        slots[name] = [re.sub(r"\?", lambda _: str(rng.randint(1, 9)), shape) for shape in shapes for _ in range(12)]
    return slots


def splits(count: int, rng: random.Random) -> list[str]:
    """Assign the templates of an intent to train, dev and test."""
    dev, test = round(count * DEV_SHARE), round(count * TEST_SHARE)
    names = ["dev"] * dev + ["test"] * test + ["train"] * (count - dev - test)
    rng.shuffle(names)
    return names


def generate() -> list[Row]:
    """Build the rows of the table; a text occurs once, whatever its case."""
    grammar = tomllib.loads((HERE / "grammar.toml").read_text(encoding="utf-8"))
    rng = random.Random(SEED)
    slots = read_slots(grammar["slots"], grammar["patterns"], rng)
    intents: dict[str, list[str]] = grammar["intents"]
    if set(json.loads((HERE / "labels.zh.json").read_text(encoding="utf-8"))) != set(intents):
        raise ValueError("labels.zh.json and grammar.toml name different intents")
    owner: dict[str, str] = {}
    rows: list[Row] = []
    for label, templates in intents.items():
        if len({t.casefold() for t in templates}) != len(templates) or len(templates) < FEWEST_TEMPLATES:
            raise ValueError(f"{label}: a template occurs twice, or there are fewer than {FEWEST_TEMPLATES}")
        names = splits(len(templates), rng)
        queues = [expand(template, slots, rng) for template in templates]
        taken: list[Row] = []
        for turn in range(POOL):  # one of each template in turn, so that none crowds out the others
            for at, queue in enumerate(queues):
                if turn >= len(queue) or len(taken) == PER_INTENT:
                    continue
                text = queue[turn]
                if owner.setdefault(text.casefold(), label) != label:
                    raise ValueError(f"{text!r} belongs to {label} and to {owner[text.casefold()]}")
                row = Row(text, label, f"{label}/{at + 1:02d}", names[at])
                if all(text.casefold() != other.text.casefold() for other in taken):
                    taken.append(row)
        rows += sorted(taken, key=lambda row: row.template)
    return rows


def render(rows: list[Row]) -> bytes:
    """Write the rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([Row._fields, *rows])
    return buffer.getvalue().encode()


def main() -> int:
    parser = argparse.ArgumentParser(description="Expand grammar.toml into intents.csv.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if intents.csv is out of date")
    check: bool = parser.parse_args().check
    table = render(generate())
    if check:
        same = TABLE.is_file() and TABLE.read_bytes() == table
        print("intents.csv is up to date" if same else "intents.csv is out of date: run make_data.py")
        return 0 if same else 1
    aside = TABLE.with_suffix(".csv.part")
    aside.write_bytes(table)
    os.replace(aside, TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
