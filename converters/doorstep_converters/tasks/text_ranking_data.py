"""Queries, the texts to be ranked for each, and which of them are right: lists, pairs, or a catalogue with queries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from doorstep.errors import DataError
from doorstep.search.postings import build_postings
from doorstep.search.vectors import top
from doorstep.tasks.text_ranking import MAX_TEXTS
from doorstep_converters.data import Records, find_file, read_records
from doorstep_converters.tasks.search import CORPUS, product_text, read_catalogue

READ, LEARNT = 20, 16  # products found by their letters for a query: to be ranked, and to be learnt from
_RIGHT = ("1", "1.0", "true", "yes")
_WRONG = ("0", "0.0", "false", "no")


def read_ranking(source: Path) -> Records:
    """Read rows `{"query", "texts", "relevant", "missing"}`: `relevant` are places in `texts`, `missing` a number.

    Args:
        source: rows of query, texts and relevant, or of query, text and label (0 or 1); or a folder as search takes it,
            whose products are found for each query by their letters.

    Raises:
        DataError: unreadable, or a row is neither.
    """
    if source.is_dir() and find_file(source, CORPUS):
        return _from_catalogue(source)
    data = read_records(source, together="query")
    train, dev, test = (
        tuple(_lists(rows, f"{source}: {name}"))
        for name, rows in (("train", data.train), ("dev", data.dev), ("test", data.test))
    )
    return replace(data, train=train, dev=dev, test=test)


def pairs_of(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a query beside each of its texts."""
    return [(row["query"], text) for text in row["texts"]]


def truth_of(row: Mapping[str, Any]) -> list[str]:
    """Return the ids of what is right; what is not among the texts counts as never found."""
    return [*map(str, row["relevant"]), *(f"missing {number}" for number in range(row["missing"]))]


def _from_catalogue(source: Path) -> Records:
    catalogue = read_catalogue(source)
    texts = [product_text(row, catalogue.text_fields) for row in catalogue.products]
    places = {row["id"]: place for place, row in enumerate(catalogue.products)}
    postings = build_postings("tfidf", "pieces", texts)

    def found(row: dict[str, Any], is_learnt: bool) -> dict[str, Any]:
        right = [places[id_] for id_ in dict.fromkeys(row["relevant"])]
        near = top(postings.scores(row["query"]), LEARNT if is_learnt else READ).tolist()
        listed = list(dict.fromkeys([*right, *near] if is_learnt else near))
        relevant = [number for number, place in enumerate(listed) if place in right]
        return {
            "query": row["query"],
            "texts": [texts[place] for place in listed],
            "relevant": relevant,
            "missing": len(right) - len(relevant),
        }

    train, dev, test = (
        tuple(found(row, rows is catalogue.train) for row in rows)
        for rows in (catalogue.train, catalogue.dev, catalogue.test)
    )
    return Records(catalogue.name, source, train, dev, test, catalogue.digest)


def _lists(rows: Sequence[dict[str, Any]], place: str) -> Iterator[dict[str, Any]]:
    """Check lists, and gather pairs of the same query into one."""
    gathered: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, 1):
        query = row.get("query")
        if not isinstance(query, str) or not query.strip():
            raise DataError(f"{place}: row {number}: expected a query, got {query!r:.80}")
        if "texts" in row:
            yield _list(row, query, f"{place}: row {number}")
            continue
        text, label = row.get("text"), str(row.get("label")).strip().lower()
        if not isinstance(text, str) or label not in (*_RIGHT, *_WRONG):
            raise DataError(
                f"{place}: row {number}: expected query, text and a label of 0 or 1, or query, texts and relevant, "
                f"got {row!s:.120}"
            )
        found = gathered.setdefault(query, {"query": query, "texts": [], "relevant": [], "missing": 0})
        if label in _RIGHT:
            found["relevant"].append(len(found["texts"]))
        found["texts"].append(text)
    for found in gathered.values():
        yield _list(found, found["query"], f"{place}: query {found['query']!r:.60}")


def _list(row: dict[str, Any], query: str, place: str) -> dict[str, Any]:
    texts, relevant = row["texts"], row.get("relevant")
    if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_TEXTS or not all(isinstance(t, str) for t in texts):
        got = f"{len(texts)} values" if isinstance(texts, list) else type(texts).__name__
        raise DataError(f"{place}: expected texts, 1 to {MAX_TEXTS} of them, got {got}")
    places = range(len(texts))
    if not isinstance(relevant, list) or not all(type(right) is int and right in places for right in relevant):
        raise DataError(f"{place}: expected relevant, a list of places in texts from 0 on, got {relevant!r:.60}")
    return {"query": query, "texts": texts, "relevant": relevant, "missing": 0}
