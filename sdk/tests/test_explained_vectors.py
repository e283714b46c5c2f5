"""Explanations of vectors and of what is found by them: texts, pictures, products; and how often an engine is asked."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep.bundle import Bundle
from doorstep.errors import InputError, UsageError
from doorstep.predictor import LoadOptions, Predictor
from doorstep.results import Vector
from doorstep.search.catalogue import write_catalogue
from doorstep.tasks.search import add_products
from doorstep.tensors import TensorSpec

VECTORS = (TensorSpec("vectors", "float32", ("batch", 3), source="logits"),)
PRODUCTS = ("oat milk", "love parcel", "the parcel in stock", "two days stock", "配送包装")
QUERY = "is the oat milk back"


@pytest.fixture(scope="module")
def sentences(
    average: Any, make_bundle: Callable[..., Path], make_variant: Callable[..., Any], tmp_path_factory: Any
) -> Path:
    """A bundle of sentence vectors: a linear layer over averages of token vectors."""
    return make_bundle(
        tmp_path_factory.mktemp("sentences"), task="sentence-similarity",
        options={"max_length": 16, "prompts": {"query": "love "}},
        files={"variants/onnx-fp32/model.onnx": (average.folder / "variants/onnx-fp32/model.onnx").read_bytes()},
        variants=(make_variant("onnx-fp32", outputs=VECTORS),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def bag(
    make_average: Callable[..., bytes], make_bundle: Callable[..., Path], make_variant: Any, tmp_path_factory: Any
) -> Path:
    """A bundle of sentence vectors in which every token has a number of its own, some larger than others."""
    sizes = np.exp(np.random.default_rng(5).normal(size=300)).astype(np.float32)
    model = make_average(np.diag(sizes), np.eye(300, dtype=np.float32), np.zeros(300, np.float32))
    return make_bundle(
        tmp_path_factory.mktemp("bag"), task="sentence-similarity", options={"max_length": 32},
        files={"variants/onnx-fp32/model.onnx": model},
        variants=(make_variant("onnx-fp32", outputs=(replace(VECTORS[0], shape=("batch", 300)),)),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def shop(
    sentences: Path, make_bundle: Callable[..., Path], make_variant: Callable[..., Any], tmp_path_factory: Any
) -> Path:
    """A bundle of search over a few products."""
    catalogue = tmp_path_factory.mktemp("catalogue")
    with Predictor.load(sentences) as predictor:
        vectors = np.array([vector.values for vector in predictor.predict_many(PRODUCTS)], np.float32)
    rows = [{"id": f"p{number}", "name": name, "price": number} for number, name in enumerate(PRODUCTS)]
    write_catalogue(rows, PRODUCTS, vectors, catalogue)
    files = {f"catalogue/{path.name}": path.read_bytes() for path in catalogue.iterdir()}
    files["variants/onnx-fp32/model.onnx"] = (sentences / "variants/onnx-fp32/model.onnx").read_bytes()
    return make_bundle(
        tmp_path_factory.mktemp("shop"), task="search", options={"max_length": 16, "text_fields": ["name"]},
        files=files, variants=(make_variant("onnx-fp32", outputs=VECTORS),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def looks(picture_bundle: Path, make_bundle: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """A bundle of picture vectors: the means of red, green and blue."""
    source = Bundle.open(picture_bundle).manifest
    options = {name: source.options[name] for name in ("width", "height", "scale")}
    return make_bundle(
        tmp_path_factory.mktemp("looks"), task="image-feature-extraction", options=options,
        files={"variants/onnx-fp32/model.onnx": (picture_bundle / source.variants[0].entry).read_bytes()},
        variants=(replace(source.variants[0], outputs=VECTORS),),
    )  # fmt: skip


def _cosine(one: Any, other: Any) -> float:
    one, other = np.array(one.values), np.array(other.values)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def _without(text: str, word: str) -> str:
    return text.replace(word, "", 1)


@pytest.mark.parametrize("options", [{}, {"is_normalized": False}, {"dimensions": 2}])
def test_a_sentence_is_explained_by_what_its_vector_loses_of_itself(sentences: Path, options: dict[str, Any]) -> None:
    with Predictor.load(sentences, options=LoadOptions(task_options=options)) as predictor:
        told = predictor.explain(QUERY)
        whole = predictor.predict(QUERY)
        assert (told.label, told.score) == ("itself", pytest.approx(1, abs=1e-6))
        for part in told.parts:
            left = _cosine(predictor.predict(_without(QUERY, part.text)), whole)
            assert part.weight == pytest.approx(1 - left, abs=1e-5), part.text


def test_a_reference_is_an_item_or_its_vector(sentences: Path) -> None:
    with Predictor.load(sentences) as predictor:
        vector = predictor.predict("oat milk")
        by_item, by_vector = (predictor.explain(QUERY, reference=one) for one in ("oat milk", vector))
        assert by_item.label == "reference"
        assert by_item.score == pytest.approx(_cosine(predictor.predict(QUERY), vector), abs=1e-6)
        assert [p.weight for p in by_item.parts] == pytest.approx([p.weight for p in by_vector.parts], abs=1e-6)
        small = Vector(tuple(round(v * 100) for v in vector.values), "int8", 0.01)
        assert predictor.explain(QUERY, reference=small).score == pytest.approx(by_item.score, abs=0.02)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (Vector((1.0, 2.0)), "expected 3 numbers, got 2"),
        (Vector((1,), "binary"), "one of bits"),
        (5, "expected a text"),
    ],
)
def test_a_reference_that_cannot_be_compared_is_refused(sentences: Path, reference: Any, said: str) -> None:
    with Predictor.load(sentences) as predictor, pytest.raises(InputError, match=said):
        predictor.explain(QUERY, reference=reference)


def test_vectors_have_no_label_and_labels_no_reference(sentences: Path, template: Path) -> None:
    with Predictor.load(sentences) as predictor, pytest.raises(InputError, match="a vector has none"):
        predictor.explain(QUERY, label="positive")
    with Predictor.load(template) as predictor, pytest.raises(UsageError, match="makes no vectors"):
        predictor.explain(QUERY, reference="love it")


def test_a_prompt_stays_while_words_go(sentences: Path) -> None:
    with Predictor.load(sentences) as predictor:
        item = {"text": "oat milk", "prompt": "query"}
        told = predictor.explain(item)
        left = _cosine(predictor.predict({"text": " milk", "prompt": "query"}), predictor.predict(item))
    assert [part.text for part in told.parts] == ["oat", "milk"]
    assert told.parts[0].weight == pytest.approx(1 - left, abs=1e-5)


def test_a_pictures_vector_is_explained_by_the_region_that_makes_it_alike(looks: Path) -> None:
    pixels, red = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[:, :2], pixels[0, 0] = (0, 0, 90), (255, 0, 0)
    red[:] = (255, 0, 0)
    with Predictor.load(looks) as predictor:
        told = predictor.explain(pixels, reference=red)
        assert told.score == pytest.approx(_cosine(predictor.predict(pixels), predictor.predict(red)), abs=1e-6)
        assert predictor.explain(pixels).label == "itself"
    best = max(told.regions, key=lambda region: region.weight)
    assert (best.left, best.top, told.label) == (0, 0, "reference")


@pytest.mark.parametrize("label", [None, "p2"])
def test_a_hit_is_explained_by_the_words_of_the_query_that_find_it(shop: Path, label: str | None) -> None:
    with Predictor.load(shop) as predictor:
        hits = {hit.id: hit.score for hit in predictor.predict(QUERY).hits}
        told = predictor.explain(QUERY, label=label)
        assert told.label == (label or next(iter(hits)))
        assert told.score == pytest.approx(hits[told.label], abs=1e-5)
        for part in told.parts:
            left = {hit.id: hit.score for hit in predictor.predict(_without(QUERY, part.text)).hits}
            assert part.weight == pytest.approx(told.score - left[told.label], abs=1e-4), part.text
    if label is None:
        assert {part.text for part in sorted(told.parts, key=lambda part: -part.weight)[:2]} == {"oat", "milk"}


def test_a_product_that_was_added_or_is_not_among_the_first_is_explained_too(shop: Path) -> None:
    with Predictor.load(shop) as predictor:
        add_products(predictor, [{"id": "new", "name": "oat parcel"}])
        item = {"query": QUERY, "top_k": 1}
        told = predictor.explain(item, label="new")
        scores = {hit.id: hit.score for hit in predictor.predict(QUERY).hits}
        assert told.score == pytest.approx(scores["new"], abs=1e-5)
        assert max(told.parts, key=lambda part: part.weight).text == "oat"
        assert predictor.explain(item, label="p4").score == pytest.approx(scores["p4"], abs=1e-5)
        predictor.task.catalogue.remove(["p4"])
        with pytest.raises(InputError, match="the id of a product of the catalogue, got 'p4'"):
            predictor.explain(item, label="p4")


def test_a_search_that_finds_nothing_and_a_product_are_not_explained(shop: Path) -> None:
    with Predictor.load(shop) as predictor:
        with pytest.raises(InputError, match="nothing is found"):
            predictor.explain({"query": QUERY, "filters": {"price": {"min": 99}}})
        with pytest.raises(InputError, match="expected a query to explain"):
            predictor.explain({"product": {"name": "oat"}})


@pytest.mark.parametrize("name", ["shop", "bag"])
def test_deleting_the_words_that_matter_costs_more_than_deleting_any(request: pytest.FixtureRequest, name: str) -> None:
    weights = {"weights": {"vectors": 0.0}} if name == "shop" else {}  # the shop's vectors mean nothing
    options = LoadOptions(task_options=weights)
    with Predictor.load(request.getfixturevalue(name), options=options) as predictor:
        found = predictor.faithfulness([QUERY, "is the love parcel never in two stock", "love it, arrived in days"])
    assert found.ranked > found.shuffled


class _Counting:
    """A session that counts its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.rows: list[int] = []

    def run(self, feeds: Any) -> Any:
        self.rows.append(max(len(array) for array in feeds.values()))
        return self._session.run(feeds)

    def close(self) -> None:
        self._session.close()


@pytest.fixture
def counting(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """Return a function that loads the bundle of a fixture and counts what its engine is asked."""
    opened = []

    def load(name: str) -> Any:
        found = request.getfixturevalue(name)
        predictor = Predictor.load(getattr(found, "folder", found), variant="onnx-fp32")
        opened.append(predictor)
        predictor._session = _Counting(predictor._session)  # type: ignore[assignment]
        return predictor

    yield load
    for predictor in opened:
        predictor.close()


TEXT = "the parcel never came and nobody answered, love it"
RANKED = {"query": "oat milk", "texts": ["the oat milk is in stock", "love it"]}
SOUND = np.random.default_rng(3).normal(size=12_000).astype(np.float32) / 9
PIXELS = np.random.default_rng(3).integers(0, 255, (4, 4, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "item", "label", "runs"),
    [
        ("template", TEXT, None, 1),
        ("template", TEXT, "positive", 1),
        ("average", TEXT, None, 1),
        ("picture_bundle", PIXELS, None, 1),
        ("sound_bundle", SOUND, None, 1),
        ("shop", QUERY, None, 1),
        ("ranking_bundle", RANKED, "0", 1),
        ("ranking_bundle", RANKED, None, 2),  # which text is the best is an answer, and so are the following
        ("speech_bundle", SOUND, None, 2),
        ("sentences", QUERY, None, 2),
        ("looks", PIXELS, None, 2),
    ],
)
def test_an_explanation_of_ordinary_length_asks_the_engine_once_for_all_parts(
    counting: Callable[[str], Any], name: str, item: Any, label: str | None, runs: int
) -> None:
    predictor = counting(name)
    told = predictor.explain(item, label=label)
    parts = len(told.parts or told.regions or told.segments)
    assert parts > 1
    assert len(predictor._session.rows) == runs
    assert predictor._session.rows[-1] > parts or told.is_exact


def test_a_long_explanation_asks_for_a_bounded_number_of_rows(counting: Callable[[str], Any]) -> None:
    predictor = counting("template")
    assert len(predictor.explain("love " * 300, max_parts=300).parts) == 300
    assert predictor._session.rows == [128, 128, 45]
