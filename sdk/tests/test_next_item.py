"""Items: ranked by vectors and counts, without those seen; filtered, added, removed, kept; bad input."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep.errors import FormatError, InputError
from doorstep.recommend.content import PLACES, Content, features_of, fit_content
from doorstep.recommend.items import Blend, Items, write_items
from doorstep.recommend.transitions import MOST, Counting, Transitions, count_transitions
from doorstep.search.vectors import ExactVectors, unit
from doorstep.tasks.next_item import NextItem, NextItemOptions
from doorstep.tensors import TensorSpec

FIELDS = ("name", "shelf")
ROWS: list[dict[str, Any]] = [
    {"id": name, "name": f"{shelf} {name}", "shelf": shelf, "price": float(price)}
    for price, (name, shelf) in enumerate(
        [
            ("beans", "coffee"),
            ("mug", "coffee"),
            ("kettle", "coffee"),
            ("绿茶", "茶"),
            ("茶壶", "茶"),
            ("soil", "garden"),
        ]
    )
]
VECTORS = unit(np.eye(6, 8, dtype=np.float32) + 0.1)
BEANS, MUG, KETTLE, GREEN, POT, SOIL = range(6)
SEQUENCES = [[BEANS, MUG], [BEANS, MUG], [BEANS, KETTLE], [GREEN, POT]]
INPUTS = (
    TensorSpec("vectors", "float32", ("batch", "sequence", 8)),
    TensorSpec("attention_mask", "int64", ("batch", "sequence")),
)
PLAIN, COUNTED = Blend(counted=0.0), Blend(counted=1.0)


def _open(folder: Path) -> Items:
    return Items.open(lambda name: folder / name, [path.name for path in folder.iterdir()], FIELDS)


@pytest.fixture(scope="module")
def projection() -> Any:
    return fit_content(ROWS, FIELDS, VECTORS)


@pytest.fixture(params=["exact", "graph"])
def items(request: pytest.FixtureRequest, projection: Any, tmp_path: Path) -> Items:
    """Return written items, all compared or found in a graph."""
    transitions = count_transitions(SEQUENCES, len(ROWS), Counting(smoothing=0.0))
    write_items(ROWS, VECTORS, transitions, tmp_path, projection, exact=0 if request.param == "graph" else 1000)
    return _open(tmp_path)


@pytest.fixture
def task(items: Items) -> NextItem:
    return NextItem(items, INPUTS, NextItemOptions(max_length=4, content_fields=FIELDS))


def _ids(items: Items, interest: int, seen: list[int], blend: Blend = PLAIN, **filters: Any) -> list[str]:
    return [found.row["id"] for found in items.rank(VECTORS[interest], seen, seen, 10, filters, blend)]


def test_the_nearest_item_is_first_and_those_seen_are_left_out(items: Items) -> None:
    assert _ids(items, MUG, [])[0] == "mug"
    ranked = _ids(items, MUG, [MUG, BEANS])
    assert len(ranked) == 4
    assert not {"mug", "beans"} & set(ranked)


def test_what_followed_more_often_is_ranked_higher(items: Items) -> None:
    ranked = items.rank(VECTORS[SOIL], [BEANS], [BEANS], 3, {}, COUNTED)
    assert [found.row["id"] for found in ranked[:2]] == ["mug", "kettle"]
    cosine = float(VECTORS[SOIL] @ VECTORS[MUG])
    assert ranked[0].score == pytest.approx(cosine + np.log1p(100 * 2 / 3), abs=0.02)


def test_older_items_of_a_history_count_less(items: Items) -> None:
    assert _ids(items, SOIL, [GREEN, BEANS], COUNTED)[0] == "茶壶"
    assert _ids(items, SOIL, [BEANS, GREEN], COUNTED)[0] == "mug"


def test_the_score_of_one_item_is_the_one_it_is_ranked_by(items: Items) -> None:
    items.add_described([{"id": "new", "name": "coffee syrup"}])
    for found in items.rank(VECTORS[SOIL], [BEANS], [BEANS], 10, {}, COUNTED):
        number = items.number_of(found.row["id"])
        assert number is not None
        assert items.score(VECTORS[SOIL], [BEANS], number, COUNTED) == pytest.approx(found.score, abs=1e-5)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({"shelf": "茶"}, {"绿茶", "茶壶"}),
        ({"shelf": ["茶", "garden"], "price": {"min": 4}}, {"茶壶", "soil"}),
        ({"price": {"max": 0.5}}, set()),
        ({"shelf": "none such"}, set()),
    ],
)
def test_filters_keep_what_was_asked_for(items: Items, filters: dict[str, Any], kept: set[str]) -> None:
    assert set(_ids(items, SOIL, [BEANS], COUNTED, **filters)) == kept


def test_items_are_mapped_and_not_read(items: Items) -> None:
    products, transitions = items._products, items._transitions
    assert items.content is not None
    arrays = [items._table, products._starts, products._ids, products._numbers, items.content._projection, *transitions]
    arrays += [column.values for column in products.columns.values()]
    arrays += [items._near.array] if isinstance(items._near, ExactVectors) else []
    assert isinstance(products._rows, mmap.mmap)
    assert all(isinstance(array, np.memmap) for array in arrays)


def test_a_new_item_is_near_to_those_like_it_and_is_read_in_a_history(task: NextItem) -> None:
    task.items.add_described([{"id": "new", "name": "茶 壶 茶", "shelf": "茶", "price": 1.0}])
    ranked = _ids(task.items, POT, [POT])
    assert ranked[0] == "new"
    row = task.prepare([["beans", "new"]])[0]
    assert row.ids == ("new", "beans")
    assert row.vectors[0] @ VECTORS[POT] > 0.5
    assert "new" not in _ids(task.items, POT, list(row.numbers))


def test_a_new_item_without_a_field_is_no_reason_to_refuse_a_filter_by_it(items: Items) -> None:
    items.add_described([{"id": "new", "name": "coffee syrup", "colour": "brown"}])
    assert "new" not in _ids(items, MUG, [], price={"min": 0})
    assert _ids(items, MUG, [], colour="brown") == ["new"]


def test_a_known_item_keeps_what_was_learnt_of_it_when_its_row_is_replaced(items: Items) -> None:
    before = items.rank(VECTORS[MUG], [BEANS], [BEANS], 1, {}, COUNTED)[0]
    items.add_described([{**ROWS[MUG], "price": 99.0}])
    after = items.rank(VECTORS[MUG], [BEANS], [BEANS], 1, {"price": {"min": 50}}, COUNTED)[0]
    assert after.row["price"] == 99.0
    assert after.score == pytest.approx(before.score, abs=1e-5)
    assert _ids(items, MUG, [MUG]).count("mug") == 0
    assert len(items) == len(ROWS)


def test_removed_items_are_not_ranked_but_still_read(task: NextItem) -> None:
    assert task.items.remove(["mug", "nothing"]) == 1
    assert "mug" not in _ids(task.items, MUG, [BEANS], COUNTED)
    assert task.prepare([["mug"]])[0].ids == ("mug",)


def test_changes_are_kept_beside_the_bundle(items: Items, tmp_path: Path) -> None:
    items.add_described([{"id": "new", "name": "coffee syrup", "shelf": "coffee"}])
    items.remove(["soil"])
    items.save(tmp_path / "kept")
    again = _open(tmp_path)
    again.restore(tmp_path / "kept")
    assert _ids(again, MUG, []) == _ids(items, MUG, [])
    (tmp_path / "kept/catalogue.json").write_text('{"added": [], "removed": [77], "products": 6, "vectors": []}')
    with pytest.raises(FormatError, match="another bundle"):
        again.restore(tmp_path / "kept")


@pytest.mark.parametrize("rows", [[{"id": "x"}], [{"id": "x", "colour": "red"}], [{"name": "coffee"}]])
def test_an_item_that_nothing_is_known_of_cannot_be_added(items: Items, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="product"):
        items.add_described(rows)
    assert len(items) == len(ROWS)


def test_a_bundle_that_knows_items_by_ids_alone_says_so(tmp_path: Path) -> None:
    bare = [{"id": row["id"]} for row in ROWS]
    write_items(bare, VECTORS, count_transitions(SEQUENCES, 6, Counting()), tmp_path)
    with pytest.raises(InputError, match="ids alone"):
        _open(tmp_path).add_described([{"id": "new", "name": "coffee"}])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("beans", "a list of item ids"),
        (7, "a list of item ids"),
        (None, "a list of item ids"),
        ({"history": ["beans"]}, "items, filters, top_k"),
        ({"items": "beans"}, "a list of item ids"),
        ({"items": ["beans"], "filter": {}}, "items, filters, top_k"),
        ([], "1 to 10000 items"),
        (["beans"] * 10_001, "1 to 10000 items"),
        ([None], "expected ids"),
        ([""], "expected ids"),
        ([True], "expected ids"),
        ([1.5], "expected ids"),
        ([["beans"]], "expected ids"),
        ([{"name": "coffee"}], "expected ids"),
        (["gone", "lost"], "none of its 2 items"),
        ({"items": ["beans"], "top_k": 0}, "top_k"),
        ({"items": ["beans"], "top_k": 1001}, "top_k"),
        ({"items": ["beans"], "top_k": True}, "top_k"),
        ({"items": ["beans"], "filters": ["x"]}, "filters"),
    ],
)
def test_wrong_items_are_refused_by_their_place(task: NextItem, item: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"item 1: .*{said}"):
        task.prepare([["beans"], item])


def test_unknown_ids_are_skipped_with_a_note(task: NextItem) -> None:
    row = task.prepare([["gone", "beans", {"id": "lost"}, {"id": "seen elsewhere", "name": "coffee mug"}]])[0]
    assert row.ids == ("seen elsewhere", "beans")
    result = task.results({"interests": VECTORS[[MUG]]}, [row])[0]
    assert result.notes == ("in no catalogue, skipped: gone, lost",)
    assert result.to_dict()["notes"] == list(result.notes)


def test_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    rows = [{"id": str(number)} for number in range(6)]
    write_items(rows, VECTORS, count_transitions(SEQUENCES, 6, Counting()), tmp_path)
    assert NextItem(_open(tmp_path), INPUTS, NextItemOptions(4)).prepare([[3, "4"]])[0].ids == ("4", "3")


def test_a_long_history_is_read_from_its_end_and_left_out_whole(task: NextItem) -> None:
    rows = task.prepare([["soil", "beans", "mug", "kettle", "绿茶", "茶壶"], ["mug"]])
    feeds = task.collate(rows)
    assert feeds["vectors"].shape == (2, 4, 8)
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    np.testing.assert_allclose(feeds["vectors"][0, 0], VECTORS[POT], atol=1e-6)
    assert task.results({"interests": VECTORS[[SOIL, SOIL]]}, rows)[0].ids == []


def test_an_unknown_filter_is_named(task: NextItem) -> None:
    with pytest.raises(InputError, match=r"item 1: filters: expected some of name, price, shelf, got 'colour'"):
        task.prepare([["beans"], {"items": ["beans"], "filters": {"colour": "red"}}])


@pytest.mark.parametrize(
    ("starts", "targets"),
    [
        ([0, 1], [0]),
        ([0, 1, 1, 1, 1, 1, 2], [0]),
        ([1] * 7, [0]),
        ([0, 2, 1, 1, 1, 1, 1], [0]),
        ([0, 1, 1, 1, 1, 1, 1], [6]),
    ],
)
def test_broken_tables_of_transitions_are_refused(starts: list[int], targets: list[int]) -> None:
    parts = (np.array(starts), np.array(targets, np.int32), np.ones(len(targets), np.float16))
    with pytest.raises(FormatError, match="transitions"):
        Transitions(*parts).check(6)


def test_an_item_keeps_its_most_frequent_followers() -> None:
    sequences = [[0, other] for other in range(1, MOST + 50)] + [[0, MOST + 49]] * 3
    counted = count_transitions(sequences, MOST + 50, Counting(smoothing=0.0))
    assert int(counted.starts[1]) == MOST
    assert counted.items[0] == MOST + 49
    assert counted.after([0], 0.5).numbers.tolist() == sorted(counted.items[:MOST].tolist())


def test_content_takes_words_values_and_sizes_of_numbers() -> None:
    one, other = ({"name": "green tea 绿茶", "price": 9.9}, {"name": "GREEN tea 绿茶", "price": 10.0})
    fields = ("name", "price")
    assert features_of(one, fields) @ features_of(other, fields) == pytest.approx(1.0, abs=1e-6)
    assert not features_of({"name": " ", "price": None}, fields).any()
    with pytest.raises(FormatError, match="content"):
        Content(np.zeros((PLACES - 1, 8)), fields)
