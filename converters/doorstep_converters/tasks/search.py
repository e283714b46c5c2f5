"""search: a sentence encoder and a catalogue; a variant must find the products that the checkpoint finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import DataError, InputError
from doorstep.search.catalogue import Catalogue, Weights, write_catalogue
from doorstep.search.products import table
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.data import find_file, records_of
from doorstep_converters.evaluation import Evaluation, items_digest, thin
from doorstep_converters.tasks.craft import Craft, Timed
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.rankings import RankedCraft
from doorstep_converters.tasks.sentence_similarity import SentenceCraft
from doorstep_converters.tasks.sentence_similarity_students import Texts

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench

_TOP, _CALIBRATION, _PROBES = 10, 100, 12
_TEXT_FIELDS = ("name", "title", "brand", "category", "description")
CORPUS = ("corpus", "products", "catalogue")
_QUERIES = {split: (f"queries_{split}", f"queries.{split}") for split in ("train", "dev", "test")}


@dataclass(frozen=True, slots=True)
class CatalogueData:
    """Products, and queries `{"query", "relevant": [id]}` in three splits that may be empty."""

    name: str
    source: Path
    products: tuple[dict[str, Any], ...]
    train: tuple[dict[str, Any], ...]
    dev: tuple[dict[str, Any], ...]
    test: tuple[dict[str, Any], ...]
    digest: str

    @property
    def text_fields(self) -> list[str]:
        """The fields a product is found by."""
        return [name for name in _TEXT_FIELDS if any(isinstance(row.get(name), str) for row in self.products)]


def read_catalogue(source: Path) -> CatalogueData:
    """Read a file of products, or a folder with `corpus.jsonl` and perhaps `queries_dev.jsonl`, `queries_test.jsonl`.

    Raises:
        DataError: no products, products without id or text, or queries that name unknown products.
    """
    path = find_file(source, CORPUS) if source.is_dir() else source
    if path is None or not path.exists():
        raise DataError(f"{source}: expected products in it, as corpus.jsonl, products.csv or catalogue.jsonl.gz")
    products = tuple(records_of(path))
    try:
        table(products)
    except InputError as error:
        raise DataError(f"{path}: {error}") from error
    ids = {row["id"] for row in products}
    queries = {split: tuple(_queries(source, stems, ids)) for split, stems in _QUERIES.items()}
    digest = items_digest([products, queries])
    data = CatalogueData(source.name.split(".")[0], source, products, **queries, digest=digest)
    if not products or not data.text_fields:
        raise DataError(f"{path}: expected products with an id and one of {', '.join(_TEXT_FIELDS)}")
    return data


def _queries(source: Path, stems: Sequence[str], ids: set[str]) -> list[dict[str, Any]]:
    path = find_file(source, stems) if source.is_dir() else None
    found = []
    for number, row in enumerate(records_of(path) if path else (), 1):
        query, relevant = row.get("query"), row.get("relevant")
        if not isinstance(query, str) or not query.strip() or not isinstance(relevant, list) or not relevant:
            raise DataError(f"{path}: row {number}: expected a query and a list of relevant ids, got {row!s:.80}")
        if unknown := set(relevant) - ids:
            raise DataError(f"{path}: row {number}: no product has the id {min(unknown)!r}")
        found.append({"query": query, "relevant": relevant})
    return found


class SearchCraft(RankedCraft, SentenceCraft):
    """Answers are product ids and fused scores."""

    task = "search"
    is_scored = False
    reads_default_prompt = False

    def read(self, job: "Job") -> Any:
        if job.data is None:
            raise DataError("search: no catalogue; give one with --data: products.jsonl, or a folder with corpus.jsonl")
        return read_catalogue(job.data)

    def lessons(self, data: Any) -> Texts:
        products = [product_text(row, data.text_fields) for row in data.products]
        queries = {split: [row["query"] for row in getattr(data, split)] for split in ("train", "dev", "test")}
        return Texts.of(data.source, [*products, *queries["train"]], queries["dev"], queries["test"])

    def plan(self, job: "Job", data: Any, checkpoint: Checkpoint) -> Evaluation:
        texts = [product_text(row, data.text_fields) for row in thin(data.products, _CALIBRATION)]
        items: list[Any] = texts[:_PROBES] if data.dev or data.test else texts
        probes, final, truth = len(items), 0, []
        for rows in (thin(data.dev, job.eval_limit), thin(data.test, job.eval_limit)):
            final = len(items) if rows else final
            items += [row["query"] for row in rows]
            truth += [row["relevant"] for row in rows]
        calibration = (*(row["query"] for row in thin(data.train, _CALIBRATION)), *texts)  # a device reads both
        digest = items_digest([items, calibration, data.products])
        return Evaluation(tuple(items), tuple(truth), final, calibration, (), digest, probes, data.products)

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        return {
            **super().options(job, checkpoint),
            "text_fields": self.read(job).text_fields,
            "weights": Weights()._asdict(),
        }

    def answer_texts(
        self, folder: Path, tokenizer: Any, items: Sequence[Any], plan: dict[str, Any]
    ) -> list[dict[str, float]]:
        products, fields = plan["corpus"], plan["options"]["text_fields"]
        kept = {**plan, "max_length": plan["options"]["max_length"]}  # what a device reads of a product added to it
        target = plan["shared"] / "catalogue"
        target.mkdir()
        texts = [product_text(row, fields) for row in products]
        write_catalogue(products, texts, self.encode(folder, tokenizer, texts, kept), target)
        names = [path.name for path in target.iterdir()]
        catalogue = Catalogue.open(lambda name: target / name, names, fields)
        vectors = self.encode(folder, tokenizer, items, kept)
        weights = Weights(**plan["options"]["weights"])
        found = [catalogue.search(query, v, _TOP, {}, weights) for query, v in zip(items, vectors, strict=True)]
        return [{hit.row["id"]: hit.score for hit in hits} or {"nothing": 1.0} for hits in found]

    def text_read(self, item: Any, options: dict[str, Any]) -> str:
        return str(item)

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "words", "the product found first")

    def timed(self, evaluation: Evaluation, options: dict[str, Any]) -> Timed:
        return Craft.timed(self, evaluation, options)


def product_text(row: Mapping[str, Any], fields: Sequence[str]) -> str:
    return " ".join(str(row[field]) for field in fields if row.get(field) not in (None, ""))


CRAFT = SearchCraft()
