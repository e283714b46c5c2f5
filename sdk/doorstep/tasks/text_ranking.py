"""text-ranking: a query and texts to the texts in order. A cross-encoder reads each pair of query and text together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError, InputError, UsageError
from doorstep.given import names_of, plain, told
from doorstep.results import Hit, Ranking
from doorstep.tasks.labelling import strict_options
from doorstep.tasks.text import TextEncoder
from doorstep.tensors import Array, Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.texts import TextPieces
    from doorstep.predictor import Predictor

MAX_TEXTS = 100
_READ = 20  # products of a search, where the item does not say
MAX_CHARACTERS = 1_000_000  # of an item: its query and texts together
_KEYS = {"query", "texts", "top_k"}
_ACTIVATIONS = ("sigmoid", "identity")


class RankingOptions(NamedTuple):
    """Options of text-ranking.

    Attributes:
        max_length: tokens kept of a query and a text together, special tokens included; the longer of the two is cut.
        activation: what makes a score of the model's number: `sigmoid` (0 to 1) or `identity`.
        top_k: texts a result lists, where the item says nothing else.
        tokenizer: path of the tokenizer in the bundle.
    """

    max_length: int
    activation: str = "sigmoid"
    top_k: int = MAX_TEXTS
    tokenizer: str = "tokenizer.json"


class Row(NamedTuple):
    """One query with its texts; `encodings` has one entry a text.

    Attributes:
        chosen: id of the text that the only one here is a form of, in an explanation.
    """

    query: str
    texts: tuple[str, ...]
    top_k: int
    encodings: tuple[Encoding, ...] = ()
    chosen: str = ""


class TextRanking:
    """`{"query": …, "texts": […], "top_k": …}` to rankings; the id of a text is its place in the list, from "0" on."""

    most_rows = 1  # in one call of the engine: an item is a batch of its own already

    def __init__(self, encoder: TextEncoder, options: RankingOptions) -> None:
        if options.activation not in _ACTIVATIONS:
            raise FormatError(f"activation: expected {' or '.join(_ACTIVATIONS)}, got {options.activation!r:.60}")
        if not 1 <= options.top_k <= MAX_TEXTS:
            raise FormatError(f"top_k: expected 1 to {MAX_TEXTS}, got {options.top_k}")
        self._encoder = encoder
        self._options = options

    def prepare(self, items: Sequence[Any]) -> Sequence[Row]:
        rows = [self._row(item, place) for place, item in enumerate(items)]
        return [row._replace(encodings=tuple(self._encode(row, place))) for place, row in enumerate(rows)]

    def length(self, row: Row) -> int:
        return sum(map(len, row.encodings))

    def collate(self, rows: Sequence[Row]) -> Feeds:
        """Stack the pairs of all rows: arrays [pairs, sequence]."""
        return self._encoder.collate([encoding for row in rows for encoding in row.encodings])

    def results(self, fetches: Fetches, rows: Sequence[Row] = ()) -> list[Ranking]:
        logits = next(iter(fetches.values())).reshape(-1).astype(np.float32)  # [pairs]
        found, start = [], 0
        for row in rows:
            stop = start + len(row.texts)
            found.append(ranked(row.texts, logits[start:stop], self._options, row.top_k))
            start = stop
        return found

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "TextPieces":
        """Take the ranked text whose id is `label`, or the one ranked first, to its words; the query stays whole.

        Raises:
            InputError: no text has that id.
        """
        from doorstep.pieces.texts import TextPieces

        whole = self.prepare([item])[0]
        ids = [str(place) for place in range(len(whole.texts))]
        if label is None:
            label = self.results(run(self.collate([whole])), [whole])[0].hits[0].id
        if label not in ids:
            raise InputError(f"label: expected the id of a ranked text ({', '.join(ids):.200}), got {label!r:.60}")
        chosen = label

        def row_of(text: str) -> Row:
            pair = whole._replace(texts=(text,), top_k=1, chosen=chosen)
            return pair._replace(encodings=tuple(self._encode(pair, 0)))

        return TextPieces(whole.texts[int(chosen)], max_parts, row_of)

    def best(self, fetches: Fetches, rows: Sequence[Row]) -> str:
        """Return the id of the text that `pieces` chose."""
        return rows[0].chosen

    def scores(self, fetches: Fetches, rows: Sequence[Row], label: str) -> list[float]:
        """Return the score of each row's one text."""
        return [ranking.hits[0].score for ranking in self.results(fetches, rows)]

    def _encode(self, row: Row, place: int) -> list[Encoding]:
        return self._encoder.encode_pairs([(row.query, text) for text in row.texts], place)

    def _row(self, item: Any, place: int) -> Row:
        if not isinstance(item, dict) or not item.keys() <= _KEYS or not {"query", "texts"} <= item.keys():
            got = names_of(item) if isinstance(item, dict) else type(item).__name__
            raise InputError(f"item {place}: expected a dict of query, texts and perhaps top_k, got {got}")
        query, texts, count = item["query"], item["texts"], plain(item.get("top_k", self._options.top_k))
        if not isinstance(query, str) or not query.strip():
            got = "only white space" if isinstance(query, str) else type(query).__name__
            raise InputError(f"item {place}: query: expected a text, got {got}")
        if not isinstance(texts, (list, tuple)):
            raise InputError(f"item {place}: texts: expected a list of texts, got {type(texts).__name__}")
        if not 1 <= len(texts) <= MAX_TEXTS:
            raise InputError(
                f"item {place}: texts: expected 1 to {MAX_TEXTS}, got {len(texts)}; search first, then rank"
            )
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"item {place}: texts[{number}]: expected a text (str), got {type(text).__name__}")
        if type(count) is not int or count < 1:
            raise InputError(f"item {place}: top_k: expected 1 or more, got {told(count)}")
        if (total := len(query) + sum(map(len, texts))) > MAX_CHARACTERS:
            raise InputError(f"item {place}: expected at most {MAX_CHARACTERS} characters, got {total}; cut the texts")
        return Row(query, tuple(texts), count)


def ranked(texts: Sequence[str], logits: Array, options: RankingOptions, count: int = MAX_TEXTS) -> Ranking:
    """Rank texts by their logits [texts] float32: a sigmoid may show two different ones as the same score."""
    scores = _sigmoid(logits) if options.activation == "sigmoid" else logits
    order = np.argsort(-logits, kind="stable")[:count].tolist()  # of equal ones the first stays first
    return Ranking(tuple(Hit(str(place), float(scores[place]), {"text": texts[place]}) for place in order))


def rerank(search: "Predictor", ranking: "Predictor", item: Any) -> Ranking:
    """Search, and let a cross-encoder put what was found in order; the scores are the cross-encoder's.

    Args:
        search: a loaded bundle of search; a product's text for searching is what the cross-encoder reads of it.
        ranking: a loaded bundle of text-ranking.
        item: as for the search. Its `top_k` says how many products are searched, read and ranked: 20 where it names
            none, at most `MAX_TEXTS`.

    Raises:
        InputError: the item is wrong.
        UsageError: a predictor of another task.
    """
    for predictor, task in ((search, "search"), (ranking, "text-ranking")):
        if predictor.manifest.task != task:
            raise UsageError(f"rerank: expected a bundle of {task}, got one of {predictor.manifest.task}")
    asked = {"query": item} if isinstance(item, str) else item
    found = search.predict({"top_k": _READ, **asked} if isinstance(asked, dict) else asked)
    if not isinstance(found, Ranking):
        raise InputError("item: expected a query, got a product")
    if not found.hits:
        return found
    catalogue: Any = search.task
    texts = [catalogue.catalogue.text_of(hit.fields) for hit in found.hits]
    order = ranking.predict({"query": asked["query"], "texts": texts, "top_k": len(texts)}).hits
    return Ranking(tuple(found.hits[int(hit.id)]._replace(score=hit.score) for hit in order))


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> TextRanking:
    """Load the tokenizer from the bundle."""
    options = build(
        strict_options(bundle.manifest.options, overrides, set(RankingOptions._fields)), RankingOptions, "options"
    )
    data = bundle.read(options.tokenizer)
    return TextRanking(TextEncoder.from_bytes(data, options.max_length, inputs, is_pair=True), options)


def _sigmoid(logits: Array) -> Array:
    """Return probabilities; numbers too large for `exp` become 0 or 1 without a warning."""
    scores: Array = np.exp(-np.logaddexp(np.float32(0), -logits))
    return scores
