"""search: a query to products. A sentence encoder and a catalogue in one bundle; words, pieces and vectors fused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Encoding

from doorstep.bundle import Bundle
from doorstep.decoding import build
from doorstep.errors import FormatError, InputError
from doorstep.given import names_of, plain, plain_row, plain_rows, told
from doorstep.results import Hit, Ranking, Vector
from doorstep.search.catalogue import Catalogue, Weights
from doorstep.tasks.labelling import strict_options
from doorstep.tasks.sentence_similarity import SentenceOptions, SentenceSimilarity
from doorstep.tasks.text import MAX_CHARACTERS, TextEncoder
from doorstep.tensors import Feeds, Fetches, TensorSpec

if TYPE_CHECKING:
    from doorstep.explain import Run
    from doorstep.pieces.texts import TextPieces

FOLDER = "catalogue/"
MAX_COUNT = 1000
_KEYS = {"query", "filters", "top_k"}


class SearchOptions(NamedTuple):
    """Options of search, beside those of sentence-similarity.

    Attributes:
        text_fields: fields of a product that it is found by.
        weights: what each score counts in the sum.
        top_k: products a result lists, where the item says nothing else.
        query_prompt, product_prompt: names of the prompts put before queries and products; "" for none.
    """

    text_fields: tuple[str, ...]
    weights: Weights = Weights()
    top_k: int = 10
    query_prompt: str = ""
    product_prompt: str = ""


class Row(NamedTuple):
    """One query, or a product that only wants its vector."""

    encoding: Encoding
    text: str
    filters: Mapping[str, Any]
    top_k: int

    @property
    def ids(self) -> list[int]:
        """Token ids of the text."""
        ids: list[int] = self.encoding.ids
        return ids


class Search:
    """Queries, or `{"query": …, "filters": …, "top_k": …}`, to rankings; `{"product": …}` to the product's vector."""

    def __init__(
        self,
        encoder: TextEncoder,
        sentences: SentenceSimilarity,
        catalogue: Catalogue,
        options: SearchOptions,
        prompts: Mapping[str, str],
    ) -> None:
        self.catalogue = catalogue
        self._encoder = encoder
        self._sentences = sentences
        self._options = options
        for name in (options.query_prompt, options.product_prompt):
            if name and name not in prompts:
                raise FormatError(f"options: no prompt named {name!r}")
        self._before_query = prompts.get(options.query_prompt, "")
        self._before_product = prompts.get(options.product_prompt, "")

    def prepare(self, items: Sequence[Any]) -> Sequence[Row]:
        rows = [self._row(item, place) for place, item in enumerate(items)]
        encodings = self._encoder.encode([row.text and self._prompted(row) for row in rows])
        return [row._replace(encoding=encoding) for row, encoding in zip(rows, encodings, strict=True)]

    def length(self, row: Row) -> int:
        return len(row.encoding)

    def collate(self, rows: Sequence[Row]) -> Feeds:
        return self._encoder.collate([row.encoding for row in rows])

    def results(self, fetches: Fetches, rows: Sequence[Row] = ()) -> list[Ranking | Vector]:
        return [self._result(row, vector) for row, vector in zip(rows, self._sentences.vectors(fetches), strict=True)]

    def pieces(self, item: Any, label: str | None, max_parts: int, run: "Run") -> "TextPieces":
        """Take a query to its words, for `explain`; a label is the id of a product.

        Raises:
            InputError: the item is no query.
        """
        from doorstep.pieces.texts import TextPieces

        whole = self._row(item, 0)
        if whole.top_k == 0:
            raise InputError("item: expected a query to explain, got a product")

        def row_of(text: str) -> Row:
            row = whole._replace(text=text)
            return row._replace(encoding=self._encoder.encode([text and self._prompted(row)])[0])

        return TextPieces(whole.text, max_parts, row_of)

    def best(self, fetches: Fetches, rows: Sequence[Row]) -> str:
        """Return the id of the product that is found first for the first row.

        Raises:
            InputError: nothing is found.
        """
        found = self._result(rows[0], self._sentences.vectors(fetches)[0])
        if not isinstance(found, Ranking) or not found.hits:
            raise InputError("item: nothing is found; drop a filter, or name a label")
        return found.hits[0].id

    def scores(self, fetches: Fetches, rows: Sequence[Row], label: str) -> list[float]:
        """Return the score that the product with the id `label` has for each row.

        Raises:
            InputError: the catalogue has no such product.
        """
        weights, found = self._options.weights, []
        for row, vector in zip(rows, self._sentences.vectors(fetches), strict=True):
            score = self.catalogue.score(label, row.text, vector, row.filters, weights)
            if score is None:
                raise InputError(f"label: expected the id of a product of the catalogue, got {label!r:.60}")
            found.append(score)
        return found

    def _result(self, row: Row, vector: Any) -> Ranking | Vector:
        if row.top_k == 0:
            return Vector(tuple(vector.tolist()))
        found = self.catalogue.search(row.text, vector, row.top_k, row.filters, self._options.weights)
        return Ranking(tuple(Hit(hit.row["id"], hit.score, hit.row) for hit in found))

    def _prompted(self, row: Row) -> str:
        return (self._before_query if row.top_k else self._before_product) + row.text

    def _row(self, item: Any, place: int) -> Row:
        if isinstance(item, str):
            item = {"query": item}
        if isinstance(item, dict) and item.keys() == {"product"}:
            product = plain_row(item["product"], f"item {place}: product")
            return Row(_NOTHING, _checked(self.catalogue.text_of(product), place), {}, 0)
        if not isinstance(item, dict) or not item.keys() <= _KEYS or "query" not in item:
            got = names_of(item) if isinstance(item, dict) else type(item).__name__
            raise InputError(f"item {place}: expected a query (str), or a dict of query, filters, top_k, got {got}")
        count, filters = plain(item.get("top_k", self._options.top_k)), item.get("filters")
        if type(count) is not int or not 1 <= count <= MAX_COUNT:
            raise InputError(f"item {place}: top_k: expected 1 to {MAX_COUNT}, got {told(count)}")
        filters = {} if isinstance(filters, (list, type(None))) and not filters else filters
        if not isinstance(filters, dict):
            raise InputError(f"item {place}: filters: expected a dict of field to value, got {type(filters).__name__}")
        try:
            self.catalogue.check(filters)
        except InputError as error:
            raise InputError(f"item {place}: {error}") from error
        return Row(_NOTHING, _checked(item["query"], place), filters, count)


def add_products(predictor: Any, products: Sequence[Mapping[str, Any]]) -> None:
    """Add products to a loaded search, or replace those with the same ids; the bundle itself stays as it is.

    `predictor.task.catalogue.save(folder)` keeps them, `restore(folder)` brings them back.

    Raises:
        InputError: a product has no id, no text to be found by, or a field that JSON does not hold.
    """
    import numpy as np

    rows = plain_rows(products)
    vectors = predictor.predict_many([{"product": row} for row in rows])
    predictor.task.catalogue.add(rows, np.array([vector.values for vector in vectors], np.float32))


def load(bundle: Bundle, inputs: Sequence[TensorSpec], overrides: dict[str, Any]) -> Search:
    """Load the tokenizer and map the catalogue."""
    known = {*SentenceOptions._fields, *SearchOptions._fields}
    plain = strict_options(bundle.manifest.options, overrides, known)
    sentence, options = build(plain, SentenceOptions, "options"), build(plain, SearchOptions, "options")
    encoder = TextEncoder.from_bytes(bundle.read(sentence.tokenizer), sentence.max_length, inputs)
    names = [entry.path.removeprefix(FOLDER) for entry in bundle.manifest.files if entry.path.startswith(FOLDER)]
    catalogue = Catalogue.open(lambda name: _file(bundle, name), names, options.text_fields)
    return Search(
        encoder,
        SentenceSimilarity(encoder, sentence._replace(precision="float32")),
        catalogue,
        options,
        sentence.prompts,
    )


def _file(bundle: Bundle, name: str) -> Path:
    return Path(bundle.file(FOLDER + name))


def _checked(text: Any, place: int) -> str:
    if not isinstance(text, str) or not text.strip():
        got = "only white space" if isinstance(text, str) else type(text).__name__
        raise InputError(f"item {place}: expected a text to search for, got {got}")
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"item {place}: expected at most {MAX_CHARACTERS} characters, got {len(text)}; cut it")
    return text


_NOTHING: Any = None  # filled in by `prepare`, which encodes all texts at once
