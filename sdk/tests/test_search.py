"""Products: found by words, pieces of words and vectors; filtered, added, removed, kept; bad input."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from doorstep.errors import FormatError, InputError
from doorstep.search.catalogue import Catalogue, Weights, write_catalogue
from doorstep.search.postings import PARTS, build_postings
from doorstep.search.terms import pieces, words
from doorstep.search.vectors import EXACT, ExactVectors, GraphVectors, build_graph, top, unit

ROWS = [
    {"id": "a", "name": "sony wh-1000xm4 wireless headphones", "brand": "Sony", "price": 299.0},
    {"id": "b", "name": "sony alpha camera", "brand": "Sony", "price": 999.0},
    {"id": "c", "name": "lg washing machine", "brand": "LG", "price": 499.0},
    {"id": "d", "name": "红色 手机壳 iphone 15", "brand": "小米", "price": None},
    {"id": "e", "name": "oat milk 1 l", "brand": None, "price": 2.5},
]
NAMES = [str(row["name"]) for row in ROWS]
VECTORS = np.eye(5, 8, dtype=np.float32)
LEXICAL = Weights(words=1.0, pieces=1.0, vectors=0.0)
NOWHERE = np.zeros(8, np.float32)


def _open(folder: Path) -> Catalogue:
    return Catalogue.open(lambda name: folder / name, [path.name for path in folder.iterdir()], ["name"])


@pytest.fixture(params=["exact", "graph"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a written catalogue, with its vectors as they are or in a graph."""
    write_catalogue(ROWS, NAMES, VECTORS, tmp_path, exact=20_000 if request.param == "exact" else 0)
    return tmp_path


@pytest.fixture
def catalogue(folder: Path) -> Catalogue:
    return _open(folder)


def _ids(
    catalogue: Catalogue, text: str, vector: Any = NOWHERE, weights: Weights = LEXICAL, **filters: Any
) -> list[str]:
    return [found.row["id"] for found in catalogue.search(text, vector, 10, filters, weights) if found.score > 0.01]


@pytest.mark.parametrize(
    ("query", "first"), [("wh1000xm4", "a"), ("手机壳", "d"), ("OAT Milk", "e"), ("washng machin", "c"), ("alpha", "b")]
)
def test_a_product_is_found_by_its_words_or_pieces_of_them(catalogue: Catalogue, query: str, first: str) -> None:
    assert _ids(catalogue, query)[0] == first


def test_letters_in_common_do_not_outweigh_the_meaning(catalogue: Catalogue) -> None:
    drink = unit(0.35 * VECTORS[4] + 0.05 * VECTORS[2] + np.eye(8, dtype=np.float32)[7])
    assert _ids(catalogue, "something to drink", drink, Weights())[0] == "e"  # not the washing machine


def test_a_share_is_what_a_product_holds_of_a_query() -> None:
    index = build_postings("tfidf", "pieces", ["oat milk", "milk", "tea"])
    shares = index.look_up("oat milk").shares()
    assert shares[0] == pytest.approx(1.0)
    assert 0 < shares[1] < 1
    assert shares[2] == 0
    assert index.look_up("xyzzy").shares().tolist() == [0, 0, 0]
    assert index.look_up("milk xyzzy").shares()[1] < 0.6


def test_a_product_is_found_by_its_vector(catalogue: Catalogue) -> None:
    assert _ids(catalogue, "zzz", VECTORS[2], Weights(0, 0, 1))[0] == "c"


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"brand": "Sony"}, {"a", "b"}),
        ({"brand": ["LG", "小米"]}, {"c", "d"}),
        ({"price": {"max": 300}}, {"a", "e"}),
        ({"price": {"min": 300, "max": 600}}, {"c"}),
        ({"brand": "Sony", "price": {"min": 500}}, {"b"}),
        ({"brand": "none such"}, set()),
    ],
)
def test_filters_keep_what_was_asked_for(catalogue: Catalogue, filters: dict[str, Any], kept: set[str]) -> None:
    found = catalogue.search("sony lg 手机壳 milk", unit(np.ones(8, np.float32)), 10, filters, Weights())
    assert {hit.row["id"] for hit in found} == kept


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, GraphVectors]:
    """Return more vectors than are compared one by one, and their graph."""
    path = tmp_path_factory.mktemp("many") / "vectors.usearch"
    array = unit(np.random.default_rng(3).standard_normal((EXACT + 4000, 8)).astype(np.float32))
    build_graph(array, path)
    return array, GraphVectors.open(path)


@pytest.mark.parametrize("hidden", ["every tenth", "the nearest 3000"])
def test_a_filter_that_leaves_more_than_are_compared_finds_the_nearest_of_them(
    many: tuple[np.ndarray, GraphVectors], hidden: str
) -> None:
    array, graph = many
    query = array[5]
    mask = np.ones(len(array), bool)
    mask[top(array @ query, 3000) if hidden == "the nearest 3000" else slice(5, None, 10)] = False
    assert np.count_nonzero(mask) > EXACT
    near, exact = graph.nearest(query, 200, mask), ExactVectors(array).nearest(query, 200, mask)
    assert len(near.numbers) == 200
    assert mask[near.numbers].all()
    assert len(set(near.numbers.tolist()) & set(exact.numbers.tolist())) >= 150
    np.testing.assert_allclose(near.scores, (array @ query)[near.numbers], atol=0.02)
    assert (np.diff(near.scores) <= 0).all()


def test_a_catalogue_is_mapped_and_not_read(folder: Path) -> None:
    catalogue = _open(folder)
    (segment,) = catalogue._view.segments
    products = segment.products
    arrays = [products._starts, products._ids, products._numbers]
    arrays += [column.values for column in products.columns.values()]
    arrays += [getattr(index, part) for index in segment.indexes for part in PARTS]
    arrays += [segment.vectors.array] if isinstance(segment.vectors, ExactVectors) else []
    assert isinstance(products._rows, mmap.mmap)
    assert len(arrays) > 10
    assert all(isinstance(array, np.memmap) for array in arrays)


@pytest.mark.parametrize(
    "filters",
    [{"colour": "red"}, {"brand": 3}, {"price": "cheap"}, {"price": {"low": 1}}, {"price": {}}, {"price": True}],
)
def test_filters_that_fit_nothing_are_refused(catalogue: Catalogue, filters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="filters"):
        catalogue.search("sony", NOWHERE, 5, filters, Weights())


def test_what_is_added_is_found_and_what_is_removed_is_not(catalogue: Catalogue) -> None:
    catalogue.add(
        [{"id": "f", "name": "sony playstation", "brand": "Sony", "price": 500.0}], np.ones((1, 8), np.float32)
    )
    assert _ids(catalogue, "playstation")[0] == "f"
    assert set(_ids(catalogue, "sony", brand="Sony")) == {"a", "b", "f"}
    assert catalogue.remove(["f", "a", "none such"]) == 2
    assert _ids(catalogue, "sony") == ["b"]
    assert len(catalogue) == 4


def test_adding_a_known_id_replaces_the_product(catalogue: Catalogue) -> None:
    catalogue.add([{"id": "e", "name": "almond drink"}], np.ones((1, 8), np.float32))
    assert _ids(catalogue, "oat milk") == []
    assert _ids(catalogue, "almond drink")[0] == "e"
    assert len(catalogue) == 5


def test_changes_outlive_the_process(catalogue: Catalogue, folder: Path, tmp_path: Path) -> None:
    catalogue.add([{"id": "f", "name": "playstation"}], np.ones((1, 8), np.float32))
    catalogue.remove(["b"])
    catalogue.save(tmp_path / "kept")
    again = _open(folder)
    again.restore(tmp_path / "kept")
    assert _ids(again, "playstation") == ["f"]
    assert _ids(again, "alpha camera") == []


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"added": [], "removed": [99], "vectors": [], "products": 5}', b"\xff\xfe"]
)
def test_damaged_changes_are_refused(catalogue: Catalogue, tmp_path: Path, damage: bytes) -> None:
    place = tmp_path / "kept"
    catalogue.save(place)
    (place / "catalogue.json").write_bytes(damage)
    with pytest.raises(FormatError, match="remove it"):
        catalogue.restore(place)


@pytest.mark.parametrize(
    ("rows", "vectors"),
    [
        ([{"name": "no id"}], np.ones((1, 8))),
        ([{"id": 5}], np.ones((1, 8))),
        ([{"id": "x"}, {"id": "x"}], np.ones((2, 8))),
        ([{"id": "x"}], np.full((1, 8), np.nan)),
        ([{"id": "x"}], np.ones((2, 8))),
    ],
)
def test_products_that_cannot_be_added_change_nothing(catalogue: Catalogue, rows: Any, vectors: Any) -> None:
    with pytest.raises(InputError):
        catalogue.add(rows, vectors)
    assert len(catalogue) == 5


@pytest.mark.parametrize("name", ["starts.npy", "ids.npy", "words-docs.npy", "field-0.npy"])
def test_a_damaged_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(FormatError, match=name):
        _open(folder)


def test_pieces_are_scored_as_scikit_learn_does() -> None:
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, lowercase=True)
    table = vectorizer.fit_transform(NAMES)
    expected = (vectorizer.transform(["sony headphone"]) @ table.T).toarray()[0]
    got = build_postings("tfidf", "pieces", NAMES).scores("sony headphone")
    assert np.argsort(-got)[:2].tolist() == np.argsort(-expected)[:2].tolist()
    assert np.corrcoef(got, expected)[0, 1] > 0.999


def test_the_commonest_terms_are_left_out_beyond_the_budget() -> None:
    texts = ["common rare" if place == 7 else "common" for place in range(500)]
    scores = build_postings("bm25", "words", texts).scores("common rare", budget=10)
    assert int(scores.argmax()) == 7
    assert np.count_nonzero(scores) == 1


def test_terms_of_several_scripts() -> None:
    assert len(words("")) == len(pieces("")) == 0
    assert words("手机壳") & words("手机")
    assert words("WH-1000XM4") & words("wh1000xm4")
    assert words("\ud800 half")


def test_the_best_places_come_in_order() -> None:
    assert top(np.array([1.0, 3.0, 2.0, 3.0]), 3).tolist() == [1, 3, 2]
    assert top(np.zeros(0), 3).tolist() == []
