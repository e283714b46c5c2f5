"""next-item the whole way on a small shop: sequences in, readers learn, every engine ranks alike."""

import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from doorstep import InputError, Predictor
from doorstep.errors import CheckpointError, DataError
from doorstep.golden import compare, load_golden
from doorstep.recommend.items import Blend
from doorstep.recommend.transitions import Counting, Followers, count_transitions
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.tasks import find_craft, guess_task
from doorstep_converters.tasks.next_item_data import read_sequences
from doorstep_converters.tasks.next_item_judging import best_blend, cases_of, figures, followers_of
from doorstep_converters.tasks.next_item_learning import Lessons, learn
from doorstep_converters.tasks.next_item_model import SHAPES, NextItemConfig, NextItemModel
from doorstep_converters.tasks.next_item_spectral import spectral_vectors
from doorstep_converters.worker import Channel

VARIANTS = ("onnx-fp32", "onnx-int8", "openvino-fp16", "tflite-fp16", "numpy-fp16")
SHELVES = 4
LONG = 9  # things on a shelf


@pytest.fixture(scope="session")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return made-up visits: along one shelf from left to right, some things left out; items have fields."""
    folder, draw = tmp_path_factory.mktemp("visits"), random.Random(7)
    items = [
        {"id": f"{shelf}-{place}", "name": f"架子 {shelf} thing", "shelf": f"s{shelf}", "price": float(place)}
        for shelf in range(SHELVES)
        for place in range(LONG)
    ]
    items.append({"id": "cold", "name": "架子 2 thing", "shelf": "s2", "price": 3.0})
    rows = []
    for visitor in range(240):
        shelf = draw.randrange(SHELVES)
        taken = [f"{shelf}-{place}" for place in range(LONG) if draw.random() < 0.75]
        rows.append({"user": visitor, "items": taken if len(taken) > 2 else [f"{shelf}-{n}" for n in range(4)]})
    _write(folder / "items.jsonl", items)
    _write(folder / "train.jsonl.gz", [{"user": row["user"], "items": row["items"][:-2]} for row in rows])
    for split, back in (("dev", 2), ("test", 1)):
        _write(folder / f"{split}.jsonl.gz", [{"user": row["user"], "target": row["items"][-back]} for row in rows])
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def _convert(kind: str, visits: Path, out: Path, cache: Path, **changes: Any) -> Report:
    training = Training(epochs=4, seed=7, teacher=changes.pop("teacher", None))
    job = Job(
        f"new:{kind}", "x86-64-vnni", out, data=visits, task="next-item", cache=cache, max_length=16, eval_limit=100,
        variants=changes.pop("variants", VARIANTS), training=training, **changes,
    )  # fmt: skip
    return convert(job, Lines())


@pytest.fixture(scope="session")
def attention(visits: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return _convert("attention", visits, tmp_path_factory.mktemp("attention"), cache)


@pytest.fixture
def predictor(attention: Report) -> Any:
    assert attention.bundle is not None
    with Predictor.load(attention.bundle, variant="onnx-fp32", strict=True) as loaded:
        yield loaded


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_reader_of_histories_ranks_alike_in_every_engine(attention: Report, variant: str) -> None:
    candidate = next(c for c in attention.candidates if c.plan.name == variant)
    assert candidate.failure == ""
    assert candidate.parity is not None
    assert candidate.parity.agreement >= 0.95  # overlap of the ten best
    assert (candidate.parity.accuracy or 0) > 0.4  # nDCG@10; a random order of a shelf gives less
    with Predictor.load(attention.bundle or "", variant=variant, strict=True) as loaded:
        golden = load_golden(loaded.bundle)
        assert len(golden.examples) > 5
        assert compare(loaded, golden) == []


@pytest.mark.slow
def test_what_comes_next_on_the_shelf_is_first_and_nothing_seen_comes_again(predictor: Predictor) -> None:
    ranked = predictor.predict(["1-0", "1-1", "1-2", "1-3"])
    assert ranked.ids[0] in ("1-4", "1-5")
    assert not {"1-0", "1-1", "1-2", "1-3"} & set(ranked.ids)
    cheap = predictor.predict({"items": ["1-0"], "filters": {"price": {"max": 2}, "shelf": ["s1", "s2"]}, "top_k": 9})
    assert set(cheap.ids) == {"1-1", "1-2", "2-0", "2-1", "2-2"}


@pytest.mark.slow
def test_an_item_nobody_took_stands_near_its_shelf(predictor: Predictor) -> None:
    asked = {"items": ["2-0", "2-1", "2-2"], "top_k": 12}
    assert "cold" in predictor.predict(asked).ids
    assert predictor.predict(["cold"]).hits[0].fields["shelf"] == "s2"


@pytest.mark.slow
def test_wrong_items_leave_the_others_answered(predictor: Predictor) -> None:
    asked: list[Any] = [["1-0"], ["nowhere"], "1-0", ["1-0", "nowhere"]]
    good, unknown, wrong, noted = predictor.predict_many(asked, on_error="return")
    assert isinstance(unknown, InputError) and "item 1: none of its 1 items" in str(unknown)
    assert isinstance(wrong, InputError) and "item 2" in str(wrong)
    assert noted.ids == good.ids
    assert "nowhere" in noted.notes[0]


@pytest.mark.slow
def test_an_explanation_says_what_the_score_loses_without_each_item(predictor: Predictor) -> None:
    history = ["3-1", "1-0", "1-1", "1-2"]
    told = predictor.explain(history)
    assert [step.id for step in told.steps] == history
    assert [step.place for step in told.steps] == [0, 1, 2, 3]
    assert max(told.steps, key=lambda step: step.weight).id != "3-1"
    for step in told.steps:
        left = [id_ for id_ in history if id_ != step.id]
        other = {hit.id: hit.score for hit in predictor.predict({"items": left, "top_k": 36}).hits}
        assert step.weight == pytest.approx(told.score - other[told.label], abs=1e-4)
    assert predictor.explain(history, label="1-3").label == "1-3"
    with pytest.raises(InputError, match="id of an item"):
        predictor.explain(history, label="nowhere")


@pytest.mark.slow
def test_the_model_card_says_that_explanations_are_true(attention: Report) -> None:
    assert attention.bundle is not None
    card = (attention.bundle / "README.md").read_text(encoding="utf-8")
    found = re.search(r"best item's score (\d\.\d+) on average, in random order (\d\.\d+)", card)
    assert found is not None
    ranked, shuffled = map(float, found.groups())
    assert ranked > shuffled


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small", "static"])
def test_a_student_learns_from_its_teacher(
    kind: str, attention: Report, visits: Path, cache: Path, tmp_path: Path
) -> None:
    variants = ("onnx-fp32", "onnx-int8", "tflite-int8", "numpy-fp16")
    report = _convert(kind, visits, tmp_path, cache, teacher="new:attention", variants=variants)
    assert {c.plan.name: c.failure for c in report.candidates} == dict.fromkeys(variants, "")
    assert report.stages["train"][1] is False
    teacher = attention.candidates[0].parity
    for candidate in report.candidates:
        assert candidate.parity is not None and teacher is not None
        assert (candidate.parity.accuracy or 0) > (teacher.accuracy or 1) - 0.05


@pytest.mark.parametrize("kind", SHAPES)
def test_an_answer_depends_on_no_padding_and_on_no_newer_item(kind: str) -> None:
    torch.manual_seed(7)
    model = NextItemModel(NextItemConfig(kind=kind, items=30, max_length=12, **SHAPES[kind])).eval()
    vectors = torch.randn(1, 6, SHAPES[kind]["dimensions"])
    mask = torch.ones(1, 6, dtype=torch.long)
    with torch.no_grad():
        whole = model.encode(vectors, mask)
        padded = model(torch.cat([vectors, torch.randn(1, 4, vectors.shape[2])], 1), torch.tensor([[1] * 6 + [0] * 4]))
        newer = model.encode(
            torch.cat([torch.randn_like(vectors[:, :1]), vectors], 1), torch.ones(1, 7, dtype=torch.long)
        )
    torch.testing.assert_close(padded, whole[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(newer[:, 1:], whole, atol=1e-5, rtol=1e-5)


def test_what_is_taken_together_starts_together() -> None:
    sequences = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [5, 6, 7, 8], [8, 6, 5, 7]]
    vectors = spectral_vectors(sequences, 10, 4, seed=7)
    assert vectors[0] @ vectors[3] > 0.9
    assert abs(vectors[0] @ vectors[7]) < 0.1
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_judge_counts_places_as_sorting_does() -> None:
    generator = np.random.default_rng(7)
    table = generator.standard_normal((40, 4)).astype(np.float32)
    held_out = [([int(n) for n in generator.choice(40, 4, replace=False)], 0) for _ in range(30)]
    held_out = [(history, next(n for n in range(40) if n not in history)) for history, _ in held_out]
    interests = generator.standard_normal((30, 4)).astype(np.float32)
    counted = count_transitions([list(map(int, generator.integers(0, 40, 12))) for _ in range(50)], 40, Counting())
    cases, blend = cases_of(interests, table, held_out), Blend(0.8, 50.0, 0.5)
    followers = followers_of(cases, counted, blend.decay, 10)
    hits, gains = [], []
    for (history, target), interest, after in zip(held_out, interests, followers, strict=True):
        scores = table @ interest
        scores[after.numbers] += blend.counted * np.log1p(blend.sharpness * after.shares)
        scores[history] = -np.inf
        place = int(np.flatnonzero(np.argsort(-scores) == target)[0])
        hits.append(place < 10)
        gains.append(1 / np.log2(place + 2) if place < 10 else 0.0)
    found = figures(cases, followers, blend)
    assert found.hr == pytest.approx(np.mean(hits))
    assert found.ndcg == pytest.approx(np.mean(gains))


def test_the_blend_leaves_useless_counts_out_and_takes_good_ones() -> None:
    table = np.eye(20, dtype=np.float32)
    held_out = [([n], n + 1) for n in range(18)]
    knows, guesses = (table[[target for _, target in held_out]], table[[n for (n,), _ in held_out]])
    right = count_transitions([[n, n + 1] for n in range(19)], 20, Counting())
    wrong = count_transitions([[n, (n + 7) % 20] for n in range(20)], 20, Counting())
    assert best_blend(cases_of(knows, table, held_out), wrong, 10).counted < 0.3
    assert best_blend(cases_of(guesses, table, held_out), right, 10).counted > 0


def test_a_model_that_says_nothing_has_no_place_by_chance() -> None:
    table, nothing = np.eye(40, dtype=np.float32), np.zeros((1, 40), np.float32)
    case = cases_of(nothing, table, [([3], 7)])
    assert figures(case, [Followers(np.zeros(0, np.int64), np.zeros(0, np.float32))], Blend()).hr == 0


def test_single_events_are_put_in_order_and_left_one_out(tmp_path: Path) -> None:
    events = [("a", 3, "z"), ("a", 1, "x"), ("b", 1, "x"), ("a", 2, "y"), ("b", 2, "y"), ("c", 5, "q"), ("a", 4, "w")]
    lines = ["user,time,item", *(f"{user},{time},{item}" for user, time, item in events)]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = read_sequences(tmp_path / "log.csv")
    assert data.train == (["x", "y"], ["x", "y"], ["q"])
    assert data.dev == ((["x", "y"], "z"),)
    assert data.test == ((["x", "y", "z"], "w"),)
    assert {row["id"] for row in data.items} == {"x", "y", "z", "w", "q"}


def test_a_test_history_knows_the_dev_target(visits: Path) -> None:
    data = read_sequences(visits)
    (before, target), (after, _) = data.dev[0], data.test[0]
    assert after == [*before, target]
    assert data.fields == ("name", "shelf", "price")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "expected sequences"),
        ({"train.jsonl": [{"items": []}]}, "two items and more"),
        ({"train.jsonl": [{"items": ["a"]}]}, "two items and more"),
        ({"train.jsonl": [{"items": ["a", None]}]}, "expected ids"),
        ({"train.jsonl": [{"items": ["a", True]}]}, "expected ids"),
        ({"train.jsonl": [{"text": "a"}]}, "a list items, or user and item"),
        ({"train.jsonl": [{"user": 1, "items": ["a", "b"]}, {"user": 1, "items": ["b"]}]}, "stands twice"),
        ({"train.jsonl": [{"user": 1, "item": "a", "time": [1]}]}, "ISO 8601"),
        ({"train.jsonl": [{"user": 1, "items": ["a", "b"]}], "test.jsonl": [{"user": 2, "target": "c"}]}, "visitor"),
        ({"train.jsonl": [{"user": 1, "items": ["a", "b"]}], "test.jsonl": [{"user": 1}]}, "target"),
        ({"train.jsonl": [{"items": ["a", "b"]}], "items.jsonl": [{"id": ""}]}, "an id"),
    ],
)
def test_sequences_that_are_none_are_refused(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    for name, rows in files.items():
        _write(tmp_path / name, rows)
    with pytest.raises(DataError, match=said):
        read_sequences(tmp_path)


def test_only_known_kinds_are_trained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="new:attention"):
        find_craft("next-item").find(Job("new:gru", "x86-64", tmp_path))


@pytest.mark.slow
def test_a_trained_checkpoint_is_one_that_transformers_loads_and_names_its_task(attention: Report, cache: Path) -> None:
    from transformers import AutoModel

    from doorstep_converters.architectures import register_architectures

    register_architectures()
    folders = [path for path in cache.glob("stages/train-*/checkpoint") if (path / "counted.safetensors").is_file()]
    assert folders
    assert guess_task(str(folders[0])) == "next-item"
    model = AutoModel.from_pretrained(folders[0])
    assert isinstance(model, NextItemModel)
    assert model.config.blend["decay"] > 0


def test_spliced_histories_are_learnt_beside_those_there_are(tmp_path: Path) -> None:
    options = {"kind": "static", "seed": 1, "epochs": 1.0, "learning_rate": None, "max_length": 8}
    train = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 3, 1]]
    lessons = Lessons(train, [([0, 1], 2)], [*train, [0, 1, 2]], 8)
    channel = Channel(open(tmp_path / "log", "w", encoding="utf-8"))  # noqa: SIM115 -- as long as the test
    plain = learn(lessons, options, None, channel)
    more = learn(lessons, {**options, "spliced": 4.0}, None, channel)
    again = learn(lessons, {**options, "spliced": 4.0}, None, channel)
    assert not torch.equal(plain.model.items.weight, more.model.items.weight)
    assert torch.equal(again.model.items.weight, more.model.items.weight)
    assert np.array_equal(plain.transitions.weights, more.transitions.weights)
