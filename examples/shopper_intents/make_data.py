"""Expand grammar.toml into intents.csv, split by template.

    python make_data.py            # write intents.csv
    python make_data.py --check    # exit 1 if intents.csv is not what would be written

In a template, `{slot}` takes a value of the slot, `{a:slot}` puts a or an before it, `{many:slot}` makes it
plural, and `[one|two]` takes one of the wordings. A slot named twice gets two different values.
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
        return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    return noun


def parse(template: str, slots: Slots) -> list[Part]:
    """Cut a template into its parts."""
    parts, end = [], 0
    for match in _PART.finditer(template):
        form, slot, wordings = match.groups()
        parts.append(Part([template[end : match.start()]]))
        parts.append(Part(slots[slot], slot, form or "") if slot else Part(wordings.split("|")))
        end = match.end()
    parts.append(Part([template[end:]]))
    if re.search(r"[{}\[\]]", "".join(value for part in parts if not part.slot for value in part.values)):
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
            chosen += [part.values[at]] if part.slot else []
        if len(set(chosen)) == len(chosen):
            texts.append(text)
    return texts


def read_slots(lists: Slots, patterns: Slots, rng: random.Random) -> Slots:
    """Resolve `@slot` entries, and fill each `?` of a pattern with a digit."""
    slots = {}
    for name, items in lists.items():
        slots[name] = [value for item in items for value in (lists[item[1:]] if item[0] == "@" else [item])]
    for name, shapes in patterns.items():
        slots[name] = [re.sub(r"\?", lambda _: str(rng.randint(1, 9)), shape) for shape in shapes * 12]
    return slots


def fill(label: str, templates: list[str], slots: Slots, rng: random.Random) -> list[Row]:
    """Build the rows of an intent, one of each template in turn, so that none crowds out the others."""
    if len({template.casefold() for template in templates}) < max(len(templates), FEWEST_TEMPLATES):
        raise ValueError(f"{label}: a template occurs twice, or there are fewer than {FEWEST_TEMPLATES}")
    dev, test = round(len(templates) * DEV_SHARE), round(len(templates) * TEST_SHARE)
    splits = ["dev"] * dev + ["test"] * test + ["train"] * (len(templates) - dev - test)
    rng.shuffle(splits)
    queues = [expand(template, slots, rng) for template in templates]
    rows: dict[str, Row] = {}
    for turn in range(POOL):
        for at, queue in enumerate(queues):
            if turn < len(queue) and len(rows) < PER_INTENT:
                row = Row(queue[turn], label, f"{label}/{at + 1:02d}", splits[at])
                rows.setdefault(row.text.casefold(), row)
    return sorted(rows.values(), key=lambda row: row.template)


def generate() -> bytes:
    """Build the table as CSV; a text occurs once, whatever its case."""
    grammar = tomllib.loads((HERE / "grammar.toml").read_text(encoding="utf-8"))
    intents: Slots = grammar["intents"]
    if set(json.loads((HERE / "labels.zh.json").read_text(encoding="utf-8"))) != set(intents):
        raise ValueError("labels.zh.json and grammar.toml name different intents")
    rng = random.Random(SEED)
    slots = read_slots(grammar["slots"], grammar["patterns"], rng)
    rows = [row for label, templates in intents.items() for row in fill(label, templates, slots, rng)]
    if len({row.text.casefold() for row in rows}) != len(rows):
        raise ValueError("two intents share a text")
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([Row._fields, *rows])
    return buffer.getvalue().encode()


def main() -> int:
    parser = argparse.ArgumentParser(description="Expand grammar.toml into intents.csv.")
    parser.add_argument("--check", action="store_true", help="exit 1 if intents.csv is out of date")
    table = generate()
    if parser.parse_args().check:
        same = TABLE.is_file() and TABLE.read_bytes() == table
        print("intents.csv is up to date" if same else "intents.csv is out of date: run make_data.py")
        return 0 if same else 1
    aside = TABLE.with_suffix(".csv.part")
    aside.write_bytes(table)
    os.replace(aside, TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
