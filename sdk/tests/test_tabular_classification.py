"""Fields: numbers, categories, what is missing and what was never seen; bad input."""

import math
from typing import Any

import numpy as np
import pytest

from doorstep.errors import FormatError, InputError
from doorstep.tasks.labelling import Labeller, LabellingOptions
from doorstep.tasks.tabular_classification import MISSING, UNSEEN, Field, TabularClassification, TabularEncoder
from doorstep.tensors import TensorSpec
from doorstep.testing import check_task

FIELDS = (
    Field("price", "number", (), (0.0, 10.0, 100.0)),
    Field("month", "category", ("Dec", "May", "五月")),
    Field("pages", "number", (), (1.0, 2.0)),
)
NAN = float("nan")


@pytest.fixture
def encoder() -> TabularEncoder:
    return TabularEncoder(FIELDS)


def test_numbers_are_spread_by_their_quantiles(encoder: TabularEncoder) -> None:
    row = encoder.encode({"price": 10, "month": "May", "pages": 99}, 0)
    assert row["numbers"].tolist() == pytest.approx([0.0, 1.7])
    assert row["features"].tolist() == [10.0, 99.0, 1.0]


@pytest.mark.parametrize("item", [{"month": "Dec"}, {"month": "Dec", "price": None}, {"month": "Dec", "price": NAN}])
def test_absent_none_and_nan_are_the_same_missing(encoder: TabularEncoder, item: dict[str, Any]) -> None:
    row = encoder.encode(item, 0)
    assert row["missing"].tolist() == [1.0, 1.0]
    assert row["numbers"].tolist() == [0.0, 0.0]
    assert np.isnan(row["features"][:2]).all()


@pytest.mark.parametrize(
    ("value", "code", "feature"),
    [("Dec", 2, 0.0), ("五月", 4, 2.0), ("Smarch", UNSEEN, -1.0), (None, MISSING, NAN), ("", MISSING, NAN)],
)
def test_unseen_and_missing_categories_have_codes_of_their_own(
    encoder: TabularEncoder, value: Any, code: int, feature: float
) -> None:
    row = encoder.encode({"price": 1, "month": value}, 0)
    assert row["categories"].tolist() == [code]
    assert np.array_equal(row["features"][2:], [feature], equal_nan=True)


def test_a_category_of_whole_numbers_may_be_given_as_number_or_text() -> None:
    encoder = TabularEncoder([Field("region", "category", ("1", "2"))])
    codes = [encoder.encode({"region": value}, 0)["categories"][0] for value in (2, "2", 2.0)]
    assert codes == [3, 3, 3]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (None, "expected a dict"),
        ([1, 2], "expected a dict"),
        ({}, "an empty one"),
        ({"prize": 1}, "is it 'price'"),
        ({"zzz": 1}, "known: price"),
        ({"price": "12"}, "expected a number, got str"),
        ({"price": math.inf}, "finite"),
        ({"price": 1e300}, "finite"),
        ({"price": 10**400}, "finite"),
        ({"price": [1]}, "expected a number"),
        ({"month": ["Dec"]}, "expected a short text"),
        ({"month": "x" * 10_001}, "expected a short text"),
        ({"month": math.inf}, "expected a finite"),
    ],
)
def test_bad_items_are_refused_by_place_and_field(encoder: TabularEncoder, item: Any, said: str) -> None:
    with pytest.raises(InputError, match="item 3: .*" + said):
        encoder.encode(item, 3)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (Field("a", "date"),),
        (Field("a", "number"),),
        (Field("a", "number", (), (2.0, 1.0)),),
        (Field("a", "category"), Field("a", "category")),
    ],
)
def test_fields_that_fit_nothing_are_refused(fields: tuple[Field, ...]) -> None:
    with pytest.raises(FormatError):
        TabularEncoder(fields)


def test_the_task_keeps_the_contract_and_reads_probabilities(encoder: TabularEncoder) -> None:
    inputs = [TensorSpec("features", "float32", ("batch", 3))]
    task = TabularClassification(encoder, inputs, Labeller(LabellingOptions(("no", "yes"))), True)
    check_task(task, [{"price": 1, "month": "Dec"}, {"pages": 2}])
    (answer,) = task.results({"probabilities": np.array([[0.25, 0.75]], np.float32)})
    assert answer.label == "yes"
    assert answer.score == pytest.approx(0.75)


@pytest.mark.parametrize("field", [FIELDS[0], FIELDS[1]])
def test_a_table_of_one_kind_of_field_has_no_empty_feed(field: Field) -> None:
    row = TabularEncoder([field]).encode({field.name: None}, 0)
    assert all(len(row[name]) == 1 for name in ("numbers", "missing", "categories"))


def test_a_model_of_other_columns_is_refused(encoder: TabularEncoder) -> None:
    inputs = [TensorSpec("features", "float32", ("batch", 5))]
    with pytest.raises(FormatError, match="the model takes features"):
        TabularClassification(encoder, inputs, Labeller(LabellingOptions(("no", "yes"))), True)
