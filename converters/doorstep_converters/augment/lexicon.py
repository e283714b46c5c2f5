"""Lexicon files: WordNet's own, 同义词词林 (Cilin), or plain lines of words that mean the same.

WordNet: a folder with `index.noun`, `data.noun` and so on (man page wndb(5WN)); of each word the first sense alone,
which is the most frequent one. Cilin: lines as `Aa01A02= 人类 生人 全人类`; those marked `#` (related) or `@` (alone)
are passed over. Plain: a line a meaning, words parted by tabs or commas, else by spaces.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from doorstep.errors import DataError, UsageError

_KINDS = ("noun", "verb", "adj", "adv")
_CILIN = re.compile(r"[A-Z][a-z]\d{2}[A-Z]\d{2}([=#@])\s")
_PARTS = re.compile(r"\s*[\t,，、;；]\s*")
_MOST_BYTES, _LONGEST_WORD, _MOST_OTHERS = 256 << 20, 40, 12


def load_lexicon(path: Path) -> dict[str, tuple[str, ...]]:
    """Return word in lower case to words that may stand in its place.

    Raises:
        UsageError: nothing is there; DataError: it is no lexicon, or too large.
    """
    if path.is_dir():
        groups = _wordnet(path)
    elif path.is_file():
        groups = _lines(path)
    else:
        raise UsageError(
            f"{path}: no lexicon there; give --lexicon a WordNet folder (Debian: apt-get install wordnet-base, then "
            "/usr/share/wordnet), or a file with a line of synonyms for each meaning"
        )
    lexicon = _index(groups)
    if not lexicon:
        raise DataError(f"{path}: expected lines of two or more words that mean the same, got none")
    return lexicon


def _index(groups: Iterable[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Turn groups of synonyms into a look-up; a group (word, others…) that starts with a known word adds to it."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for group in groups:
        words = [word for word in group if 0 < len(word) <= _LONGEST_WORD]
        for word in words:
            found[word.lower()].update(dict.fromkeys(other for other in words if other.lower() != word.lower()))
    return {word: tuple(others)[:_MOST_OTHERS] for word, others in found.items() if others}


def _lines(path: Path) -> Iterator[tuple[str, ...]]:
    for line in _read(path).splitlines():
        marked = _CILIN.match(line)
        if not line.strip() or line.startswith("#") or (marked and marked[1] != "="):
            continue
        if marked:
            yield tuple(line.split()[1:])
            continue
        parts = _PARTS.split(line.strip())
        yield tuple(parts if len(parts) > 1 else line.split())


def _wordnet(folder: Path) -> Iterator[tuple[str, ...]]:
    present = [kind for kind in _KINDS if (folder / f"data.{kind}").is_file() and (folder / f"index.{kind}").is_file()]
    if not present:
        raise DataError(f"{folder}: expected WordNet's index.noun and data.noun in it")
    for kind in present:
        synsets = dict(_synsets(folder / f"data.{kind}"))
        for line in _read(folder / f"index.{kind}").splitlines():
            if line.startswith(" "):
                continue  # the licence
            fields = line.split()
            # lemma pos synset_cnt p_cnt [ptr_symbol…] sense_cnt tagsense_cnt synset_offset…
            try:
                first = fields[4 + int(fields[3]) + 2]
            except (IndexError, ValueError) as error:
                raise DataError(f"{folder}/index.{kind}: expected WordNet's index format, got {line!r:.60}") from error
            lemma = fields[0].replace("_", " ")
            if lemma in synsets.get(first, ()) and len(synsets[first]) > 1:
                yield synsets[first]


def _synsets(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield offset and words: `synset_offset lex_filenum ss_type w_cnt word lex_id [word lex_id…] …`, w_cnt in hex."""
    for line in _read(path).splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        try:
            count = int(fields[3], 16)
        except (IndexError, ValueError) as error:
            raise DataError(f"{path}: expected WordNet's data format, got {line!r:.60}") from error
        words = (word.partition("(")[0].replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
        yield fields[0], tuple(words)


def _read(path: Path) -> str:
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path}: expected at most {_MOST_BYTES >> 20} MiB, got {path.stat().st_size >> 20} MiB")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, byte {error.start} is none; convert it: iconv -t utf-8") from error
