"""What holds for every task: a hostile item costs its own answer alone, and an item is answered in a batch as alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from doorstep.errors import InputError
from doorstep.golden import flatten
from doorstep.manifest import Variant
from doorstep.predictor import Predictor
from doorstep.recommend.content import fit_content
from doorstep.recommend.items import write_items
from doorstep.recommend.transitions import Counting, count_transitions
from doorstep.search.catalogue import write_catalogue
from doorstep.search.vectors import unit
from doorstep.tasks.search import add_products
from doorstep.tensors import TensorSpec

NAN, HUGE = float("nan"), 10**5000
CYCLE: list[Any] = ["beans"]
CYCLE.append(CYCLE)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]

WIDTH = 8
TEXT = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
VECTORS = (TensorSpec("vectors", "float32", ("batch", WIDTH)),)
SPANS = ("O", "B-thing", "I-thing")
ROWS = [
    {"id": "beans", "name": "coffee beans", "shelf": "coffee", "price": 9.5},
    {"id": "mug", "name": "coffee mug", "shelf": "coffee", "price": 4.0},
    {"id": "tea", "name": "绿茶", "shelf": "茶", "price": 7.25},
    {"id": "7", "name": "garden soil", "shelf": "garden", "price": None},
]
NAMES = [str(row["name"]) for row in ROWS]
FIELDS = [
    {"name": "price", "kind": "number", "quantiles": [0.0, 10.0, 100.0]},
    {"name": "pages", "kind": "number", "quantiles": [1.0, 2.0]},
    {"name": "month", "kind": "category", "categories": ["Dec", "May", "7"]},
]
TABLE = (
    TensorSpec("numbers", "float32", ("batch", 2)),
    TensorSpec("missing", "float32", ("batch", 2)),
    TensorSpec("categories", "int64", ("batch", 1)),
)
HISTORY = (
    TensorSpec("vectors", "float32", ("batch", "sequence", WIDTH)),
    TensorSpec("attention_mask", "int64", ("batch", "sequence")),
)
LOW, HIGH = (
    (np.sin(np.arange(size) * 2 * np.pi * hertz / 8000) * 0.5).astype(np.float32)
    for size, hertz in ((1600, 400), (2400, 1600))
)
RED = np.full((8, 6, 3), (200, 10, 20), np.uint8)
BLUE = np.full((6, 9, 3), (20, 10, 200), np.uint8)


class Case(NamedTuple):
    """A task's two good items, and what is hostile to it beside what is hostile to all."""

    good: tuple[Any, Any]
    hostile: dict[str, Any]


ANYWHERE: dict[str, Any] = {
    "None": None, "NaN": NAN, "a number": 1.5, "a truth": True, "a huge number": HUGE, "a NumPy number": np.float32(1),
    "a NumPy NaN": np.float64("nan"), "a NumPy whole number": np.int64(3), "a time": np.datetime64("NaT"),
    "no bytes": b"", "bytes": b"\xff\xfe\x00", "an object": object(), "a class": dict, "an empty list": [],
    "an empty dict": {}, "an empty tuple": (), "a set": {1}, "lists in lists": [[1], [2, [3]]],
    "a list in itself": CYCLE, "a deep list": DEEP, "a list of a huge number": [HUGE], "a dict of nonsense": {"x": 1},
    "a huge name": {HUGE: 1}, "a name of a tuple": {("text", HUGE): None}, "a deep value": {"x": DEEP},
    "half a surrogate pair": "\ud800", "a huge text": "x" * 200_001, "an array of no axis": np.array(3),
    "an array of objects": np.array([None, "x"], object), "an array of NaN": np.full((2, 2), np.nan),
    "an array of nothing": np.zeros((0, 3), np.uint8),
}  # fmt: skip
FILTERS: dict[str, Any] = {
    "a field nobody has": {"colour": "red"}, "a huge name": {HUGE: 1}, "a text for a number": {"price": "cheap"},
    "bytes for a text": {"shelf": b"coffee"}, "a number for a text": {"shelf": 3}, "NaN": {"price": NAN},
    "a NumPy NaN": {"price": np.float32("nan")}, "a huge number": {"price": HUGE},
    "a huge bound": {"price": {"max": HUGE}},
    "a bound of a text": {"shelf": {"min": 1}}, "a bound by another name": {"price": {"low": 1}},
    "an array": {"price": np.array([1, 2])}, "lists in lists": {"price": [[1]]}, "a list in itself": {"shelf": CYCLE},
    "a deep list": {"price": DEEP}, "no dict": [("price", 1)], "a text": "price",
}  # fmt: skip
COUNTS: dict[str, Any] = {
    "none": 0, "below none": -1, "huge": HUGE, "a fraction": 1.5, "a text": "3", "a truth": True, "NaN": NAN,
    "a list": [1], "a list in itself": CYCLE,
}  # fmt: skip


def _beside(item: dict[str, Any], field: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{field}: {name}": {**item, field: value} for name, value in values.items()}


TEXTS = ("love it, arrived in two days", "the parcel never came")
WRONG_TEXTS: dict[str, Any] = {
    "None": None, "bytes": b"beans", "a number": 3, "huge": HUGE, "NaN": NAN, "a list": ["beans"], "a dict": {"a": 1},
    "a list in itself": CYCLE, "too long": "x" * 1_000_001, "half a surrogate pair": "oat \udfff",
    "an array": np.array(["beans"]),
}  # fmt: skip
NO_TEXT = {"a dict of a text": {"text": "love it"}, "a list of texts": ["love it"]}
WRONG_VALUES: dict[str, Any] = {
    "bytes": b"x", "an array": np.array([1, 2]), "a list": [1], "a list in itself": CYCLE, "deep": DEEP, "huge": HUGE,
    "a dict": {"a": 1}, "infinite": float("inf"), "a NumPy infinity": np.float32("inf"), "an object": object(),
    "a time": np.datetime64("2024-01-01"), "a complex number": 1j, "a set": {1},
}  # fmt: skip
PICTURES = {
    "a list of pixels": RED.tolist(), "pixels of floats": RED / 255, "one channel": RED[..., 0],
    "no width": RED[:, :0], "a PNG's head": b"\x89PNG\r\n\x1a\n", "a zero in a path": "a\0b", "a folder": Path("/"),
    "a path of half a pair": Path("\ud800"), "a missing file": "/nowhere/红.png",
}  # fmt: skip
SOUNDS = {
    "a list of samples": LOW.tolist(), "NaN among samples": np.where(LOW[7] == LOW, np.nan, LOW),
    "samples too loud": LOW * 1e30, "too many channels": np.zeros((40, 50), np.float32), "a zero in a path": "a\0b",
    "a folder": Path("/"), "complex samples": LOW.astype(np.complex64), "a WAV's head": b"RIFF\x00\x00\x00\x00WAVE",
    "huge samples": LOW.astype(np.float64) * 1e300, "too long": np.zeros(8000 * 61, np.float32),
    "no rate": {"array": LOW}, **_beside({"array": LOW}, "sampling_rate", {**COUNTS, "None": None}),
    **_beside({"sampling_rate": 8000}, "array", {"None": None, "a list": LOW.tolist(), "a list in itself": CYCLE}),
}  # fmt: skip

CASES = {
    "text-classification": Case(TEXTS, NO_TEXT),
    "multi-label": Case(TEXTS, NO_TEXT),
    "token-classification": Case(TEXTS, NO_TEXT),
    "sentence-similarity": Case(
        (TEXTS[0], {"text": TEXTS[1], "prompt": "query"}),
        {
            **_beside({}, "text", WRONG_TEXTS),
            **_beside({"text": "a"}, "prompt", {"other": "x", "list": [1], "self": CYCLE, "huge": HUGE, "bytes": b"q"}),
            **_beside({"text": "a"}, "x", {"unknown": 1}),
            "no text": {"prompt": "query"},
        },
    ),
    "search": Case(
        ("oat milk", {"query": "coffee", "filters": {"price": {"max": 20}}, "top_k": 2}),
        {
            **_beside({}, "query", {**WRONG_TEXTS, "empty": "", "white": " \n"}),
            **_beside({"query": "tea"}, "filters", FILTERS),
            **_beside({"query": "tea"}, "top_k", COUNTS),
            **_beside({}, "product", {"None": None, "a list": [1], "empty": {}, "no text": {"price": 3}}),
            **{f"name: {name}": {"product": {"name": value}} for name, value in WRONG_VALUES.items() if name in (
                "bytes", "an array", "a list in itself", "deep", "huge", "an object", "a time", "a complex number",
            )},
            "a product of a huge name": {"product": {"name": "x", HUGE: 1}},
        },
    ),
    "text-ranking": Case(
        ({"query": "oat milk", "texts": ["is the oat milk back", "love it"]}, {"query": "love", "texts": ["love it"]}),
        {
            **_beside({"texts": ["a"]}, "query", {**WRONG_TEXTS, "empty": "", "white": " "}),
            **_beside({"query": "a"}, "texts", {
                "None": None, "none": [], "a text": "abc", "bytes": b"abc", "too many": ["a"] * 101, "a dict": {"a": 1},
                "a list in itself": CYCLE, "deep": DEEP, "an array": np.array(["a"]),
            }),
            **{f"a text: {name}": {"query": "a", "texts": ["b", value]} for name, value in WRONG_TEXTS.items()},
            **_beside({"query": "a", "texts": ["b"]}, "top_k", {k: v for k, v in COUNTS.items() if k != "huge"}),
            "no texts": {"query": "a"},
        },
    ),
    "image-classification": Case((RED, BLUE), PICTURES),
    "image-feature-extraction": Case((RED, BLUE), PICTURES),
    "audio-classification": Case((LOW, HIGH), SOUNDS),
    "automatic-speech-recognition": Case((LOW, HIGH), SOUNDS),
    "tabular-classification": Case(
        ({"price": 12.5, "month": "May"}, {"pages": 2}),
        {
            **_beside({}, "price", {**WRONG_VALUES, "a text": "12", "too large": 1e300}),
            **_beside({}, "month", {**WRONG_VALUES, "too long": "x" * 10_001}),
            **_beside({"price": 1}, "prize", {"unknown": 1}),
            "a long name": {"x" * 1_000_000: 1},
        },
    ),
    "next-item": Case(
        (["beans", "mug"], {"items": ["tea"], "filters": {"shelf": "coffee"}, "top_k": 2}),
        {
            **_beside({}, "items", {"None": None, "a text": "beans", "bytes": b"beans", "a dict": {"id": "beans"}}),
            **{f"an id: {name}": ["beans", value] for name, value in {
                "None": None, "empty": "", "a truth": True, "a fraction": 1.5, "NaN": NAN, "huge": HUGE,
                "bytes": b"mug",
                "a list": ["mug"], "a list in itself": CYCLE, "deep": DEEP, "a NumPy fraction": np.float32(7),
            }.items()},
            **{f"an id in a dict: {name}": [{"id": value, "name": "mug"}] for name, value in {
                "None": None, "huge": HUGE, "bytes": b"x", "a list": [1], "a list in itself": CYCLE,
            }.items()},
            **{f"a field: {name}": ["beans", {"id": "new", "name": value}] for name, value in {
                **WRONG_VALUES, "NaN": NAN, "a NumPy NaN": np.float32("nan"), "None": None, "empty": "",
            }.items()},
            "a field of a huge name": ["beans", {"id": "new", "name": "mug", HUGE: 1}],
            **_beside({"items": ["beans"]}, "filters", FILTERS),
            **_beside({"items": ["beans"]}, "top_k", COUNTS),
        },
    ),
}  # fmt: skip

TOLERANCE = 1e-5  # of scores and numbers of vectors: an engine may sum in another order in another batch


def assert_same(answer: Any, alone: Any) -> None:
    assert flatten(answer) == pytest.approx(flatten(alone), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task, case in CASES.items() for name in {**ANYWHERE, **case.hostile}]
)
def test_a_hostile_item_comes_back_as_its_error_and_the_others_as_if_alone(
    load: Callable[[str], Predictor], task: str, name: str
) -> None:
    (one, other), predictor = CASES[task].good, load(task)
    item = {**ANYWHERE, **CASES[task].hostile}[name]
    first, wrong, last = predictor.predict_many([one, item, other], on_error="return")
    assert isinstance(wrong, InputError)
    assert str(wrong).startswith("item 1: ")
    assert len(str(wrong)) < 600
    assert [first, last] == predictor.predict_many([one, other])
    for answer, good in ((first, one), (last, other)):
        assert_same(answer, predictor.predict(good))


MANY: dict[str, list[Any]] = {
    "text-classification": [*TEXTS, "质量太差了", ""],
    "multi-label": [*TEXTS, "质量太差了", ""],
    "token-classification": [*TEXTS, "质量太差了，要求退款 " * 12, "", "love it " * 40],
    "sentence-similarity": [*TEXTS, "配送很快，包装也很好", "", {"text": "oat milk", "prompt": "query"}],
    "search": [*CASES["search"].good, "绿茶 tea", {"query": "mug", "filters": {"shelf": ["coffee", "garden"]}}],
    "text-ranking": [*CASES["text-ranking"].good, {"query": "milk", "texts": list(TEXTS) * 3, "top_k": 2}],
    "image-classification": [RED, BLUE, np.concatenate([RED, RED // 2])],
    "image-feature-extraction": [RED, BLUE, np.concatenate([RED, RED // 2])],
    "audio-classification": [LOW, HIGH, LOW[:480]],
    "automatic-speech-recognition": [LOW, HIGH, LOW[:480]],
    "tabular-classification": [*CASES["tabular-classification"].good, {"month": "Smarch", "price": None}],
    "next-item": [*CASES["next-item"].good, [7, "tea", "mug", "beans", {"id": "new", "name": "coffee mug"}]],
}


@pytest.mark.parametrize("task", MANY)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_an_item_is_answered_in_a_batch_as_alone(load: Callable[[str], Predictor], task: str, batch_size: int) -> None:
    predictor, items = load(task), MANY[task]
    for item, together in zip(items, predictor.predict_many(items, batch_size=batch_size), strict=True):
        assert_same(together, predictor.predict(item))


@pytest.mark.parametrize(
    ("task", "item", "same"),
    [
        ("text-classification", np.str_("love it"), "love it"),
        (
            "sentence-similarity",
            {"text": np.str_("love it"), "prompt": np.str_("query")},
            {"text": "love it", "prompt": "query"},
        ),
        ("token-classification", np.str_("love it"), "love it"),
        (
            "search",
            {"query": np.str_("tea"), "filters": {"price": {"max": np.float32(8)}}, "top_k": np.int64(2)},
            {"query": "tea", "filters": {"price": {"max": 8}}, "top_k": 2},
        ),
        (
            "search",
            {"query": "tea", "filters": {"price": [np.float64(9.5), np.int8(4)], "shelf": np.str_("coffee")}},
            {"query": "tea", "filters": {"price": [9.5, 4], "shelf": "coffee"}},
        ),
        (
            "search",
            {"product": {"name": np.str_("tea"), "price": np.float32(2)}},
            {"product": {"name": "tea", "price": 2}},
        ),
        (
            "tabular-classification",
            {"price": np.float32(12.5), "pages": np.int64(2), "month": np.str_("May")},
            {"price": 12.5, "pages": 2, "month": "May"},
        ),
        (
            "tabular-classification",
            {"price": np.float32("nan"), "pages": np.bool_(True), "month": np.uint8(7)},
            {"pages": True, "month": "7"},
        ),
        (
            "tabular-classification",
            {"price": np.float16(1.5), "pages": np.longdouble(2), "month": np.float32("nan")},
            {"price": 1.5, "pages": 2},
        ),
        ("next-item", [np.int64(7), np.str_("mug")], ["7", "mug"]),
        (
            "next-item",
            ["mug", {"id": "new", "name": "tea", "price": np.float32(9)}],
            ["mug", {"id": "new", "name": "tea", "price": 9.0}],
        ),
        ("next-item", {"items": ["mug"], "top_k": np.int32(1)}, {"items": ["mug"], "top_k": 1}),
        (
            "text-ranking",
            {"query": np.str_("milk"), "texts": [np.str_("oat milk")], "top_k": np.int64(1)},
            {"query": "milk", "texts": ["oat milk"], "top_k": 1},
        ),
    ],
)
def test_a_scalar_of_numpy_means_what_pythons_means(
    load: Callable[[str], Predictor], task: str, item: Any, same: Any
) -> None:
    predictor = load(task)
    assert predictor.predict(item) == predictor.predict(same)
    assert predictor.predict_many([same, item]) == predictor.predict_many([same, same])


@pytest.mark.parametrize("task", ["search", "next-item"])
@pytest.mark.parametrize("filters", [{"colour": "red"}, {"price": "cheap"}, {"shelf": {"min": 1}}], ids=str)
def test_a_wrong_filter_costs_its_own_answer_alone_and_is_named(
    load: Callable[[str], Predictor], task: str, filters: dict[str, Any]
) -> None:
    predictor = load(task)
    asked = {"query": "tea"} if task == "search" else {"items": ["tea"]}
    good, bad = {**asked, "filters": {"price": {"min": 1}}}, {**asked, "filters": filters}
    with pytest.raises(InputError, match=f"item 1: filters: .*{next(iter(filters))}"):
        predictor.predict_many([good, bad, good])
    first, wrong, last = predictor.predict_many([good, bad, good], on_error="return")
    assert first == last == predictor.predict(good)
    assert isinstance(wrong, InputError)
    assert str(wrong).startswith("item 1: filters: ")


@pytest.mark.parametrize("rows", [
    [5], 5, "text", None, [None], {"id": "new", "name": "x"}, [{"id": "new", "name": b"x"}], [{"id": 5, "name": "x"}],
    [{"id": "new", "name": "x", "tags": CYCLE}], [{"id": "new", "name": "x", "tags": DEEP}],
    [{"id": HUGE, "name": "x"}],
    [{"id": "new", "name": "x", "price": HUGE}], [{"id": "new", "name": "x", HUGE: 1}], [{"id": "new", "name": HUGE}],
    [{"id": "new", "name": "x", "photo": np.zeros(3)}], [{"id": "new", "name": "x", "seen": {1}}],
], ids=range(16))  # fmt: skip
@pytest.mark.parametrize("task", ["search", "next-item"])
def test_products_that_are_none_are_refused_and_change_nothing(
    load: Callable[[str], Predictor], task: str, rows: Any
) -> None:
    side: Any = load(task).task
    growing = side.catalogue if task == "search" else side.items
    add = (lambda: add_products(load(task), rows)) if task == "search" else (lambda: growing.add_described(rows))
    for change in (add, lambda: growing.add(rows, np.ones((1, WIDTH), np.float32))):
        with pytest.raises(InputError, match=r"^product"):
            change()
    assert len(growing) == len(ROWS)


def test_the_second_of_two_added_items_is_named_by_its_place(load: Callable[[str], Predictor]) -> None:
    items: Any = load("next-item").task
    with pytest.raises(InputError, match="product 1: expected a text or a finite number in one of the fields name"):
        items.items.add_described([{"id": "new", "name": "tea"}, {"id": "newer", "name": NAN}])


def test_added_products_of_numpy_are_kept_as_pythons(load_anew: Callable[[str], Predictor], tmp_path: Path) -> None:
    predictor = load_anew("search")
    row = {
        "id": np.str_("new"),
        "name": "umbrella",
        "price": np.float32(0.1),
        "tags": [np.int64(3)],
        "size": np.int8(2),
    }
    add_products(predictor, [row])
    catalogue: Any = predictor.task
    catalogue.catalogue.save(tmp_path)
    again: Any = load_anew("search").task
    again.catalogue.restore(tmp_path)
    wanted = {"id": "new", "name": "umbrella", "price": 0.1, "tags": [3], "size": 2}
    assert predictor.predict("umbrella").hits[0].fields == wanted
    assert (
        again.catalogue.search("umbrella", np.zeros(WIDTH, np.float32), 1, {}, again._options.weights)[0].row == wanted
    )


# --- bundles, one a task ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bundles(
    make_bundle: Callable[..., Path],
    make_variant: Callable[..., Variant],
    tokenizer: Tokenizer,
    ranking_bundle: Path,
    picture_bundle: Path,
    sound_bundle: Path,
    speech_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Return a small bundle of every task."""
    words = tokenizer.get_vocab_size()
    made = {
        "text-ranking": ranking_bundle,
        "image-classification": picture_bundle,
        "audio-classification": sound_bundle,
        "automatic-speech-recognition": speech_bundle,
    }

    def make(
        name: str, model: bytes, inputs: Any, outputs: Any, files: dict[str, bytes] | None = None, **options: Any
    ) -> None:
        made[name] = make_bundle(
            tmp_path_factory.mktemp(name),
            files={"variants/onnx-fp32/model.onnx": model, **(files or {})},
            task="text-classification" if name == "multi-label" else name,
            options=options,
            variants=(make_variant("onnx-fp32", inputs=inputs, outputs=outputs),),
        )

    labels = ["bad", "good", "late"]
    scores = (TensorSpec("logits", "float32", ("batch", 3)),)
    for name, is_multi in (("text-classification", False), ("multi-label", True)):
        model = _summing(words, scores)
        make(name, model, TEXT, scores, labels=labels, max_length=32, is_multi_label=is_multi)
    spans = (TensorSpec("logits", "float32", ("batch", "sequence", 3)),)
    make("token-classification", _tagging(words, spans), TEXT, spans, labels=SPANS, max_length=16)
    prompts = {"query": "is the "}
    make("sentence-similarity", _summing(words, VECTORS), TEXT, VECTORS, max_length=32, prompts=prompts)
    catalogue = _written(
        tmp_path_factory.mktemp("files"),
        lambda folder: write_catalogue(ROWS, NAMES, unit(np.eye(4, WIDTH) + 0.1), folder),
    )
    make(
        "search", _summing(words, VECTORS), TEXT, VECTORS,
        {f"catalogue/{path}": data for path, data in catalogue.items()},
        max_length=32, text_fields=["name"],
    )  # fmt: skip
    vectors = unit(np.eye(4, WIDTH, dtype=np.float32) + 0.1)
    fields = ("name", "shelf")
    items = _written(
        tmp_path_factory.mktemp("files"),
        lambda folder: write_items(
            ROWS,
            vectors,
            count_transitions([[0, 1], [0, 2]], 4, Counting()),
            folder,
            fit_content(ROWS, fields, vectors),
        ),
    )
    make(
        "next-item", _averaging(), HISTORY, (TensorSpec("interests", "float32", ("batch", WIDTH)),),
        {f"items/{path}": data for path, data in items.items()},
        max_length=4, content_fields=fields,
    )  # fmt: skip
    two = (TensorSpec("logits", "float32", ("batch", 2)),)
    make("tabular-classification", _weighing(two), TABLE, two, fields=FIELDS, labels=["no", "yes"])
    pixels = (TensorSpec("pixels", "float32", ("batch", 4, 4, 3)),)
    mean = [helper.make_node("ReduceMean", ["pixels"], ["logits"], axes=[1, 2], keepdims=0)]
    make("image-feature-extraction", _model(mean, {}, pixels, scores), pixels, scores, width=4, height=4)
    return made


@pytest.fixture(scope="module")
def load(bundles: dict[str, Path]) -> Iterator[Callable[[str], Predictor]]:
    """Return a function that gives a task's predictor, the same one every time."""
    opened: dict[str, Predictor] = {}

    def get(task: str) -> Predictor:
        if task not in opened:
            opened[task] = Predictor.load(bundles[task], threads=1)
        return opened[task]

    yield get
    for predictor in opened.values():
        predictor.close()


@pytest.fixture
def load_anew(bundles: dict[str, Path]) -> Callable[[str], Predictor]:
    return lambda task: Predictor.load(bundles[task], threads=1)


def _written(folder: Path, write: Callable[[Path], None]) -> dict[str, bytes]:
    write(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _summing(words: int, outputs: tuple[TensorSpec, ...]) -> bytes:
    """Return a model that adds up a row of numbers a token."""
    table = np.random.default_rng(5).normal(size=(words, outputs[0].shape[1])).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], [outputs[0].name], keepdims=0),
    ]
    return _model(nodes, {"table": table, "last": np.array([-1]), "axis": np.array([1])}, TEXT, outputs)


def _tagging(words: int, outputs: tuple[TensorSpec, ...]) -> bytes:
    """Return a model that gives every token the logits of its own."""
    table = np.random.default_rng(6).normal(size=(words, len(SPANS))).astype(np.float32)
    return _model([helper.make_node("Gather", ["table", "input_ids"], ["logits"])], {"table": table}, TEXT, outputs)


def _averaging() -> bytes:
    """Return a model that adds up a history's vectors."""
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["vectors", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis"], ["interests"], keepdims=0),
    ]
    outputs = (TensorSpec("interests", "float32", ("batch", WIDTH)),)
    return _model(nodes, {"last": np.array([-1]), "axis": np.array([1])}, HISTORY, outputs)


def _weighing(outputs: tuple[TensorSpec, ...]) -> bytes:
    """Return a model that weighs numbers, what is missing, and categories."""
    generator = np.random.default_rng(7)
    constants = {
        name: generator.normal(size=(size, 2)).astype(np.float32)
        for name, size in (("of_numbers", 2), ("of_missing", 2), ("of_categories", 5))
    }
    nodes = [
        helper.make_node("MatMul", ["numbers", "of_numbers"], ["a"]),
        helper.make_node("MatMul", ["missing", "of_missing"], ["b"]),
        helper.make_node("Gather", ["of_categories", "categories"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["c"], keepdims=0),
        helper.make_node("Sum", ["a", "b", "c"], ["logits"]),
    ]
    return _model(nodes, {**constants, "axis": np.array([1])}, TABLE, outputs)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, Any], inputs: Any, outputs: Any) -> bytes:
    places = [
        [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
            )
            for spec in specs
        ]
        for specs in (inputs, outputs)
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", *places, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
