"""A second teacher of word counts: what it has not seen, how much it counts, and what of the corpus stays."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep.errors import DataError
from doorstep.tensors import Array
from doorstep_converters import ensemble, teach
from doorstep_converters.ensemble import SHARES, Counts, both, join
from doorstep_converters.export.classifier import load_model
from doorstep_converters.taught import open_taught, read_index
from doorstep_converters.worker import Channel

LABELS = ("buy", "return", "ask", "complain")
WORDS = {"buy": "order oats", "return": "send it back", "ask": "which aisle please", "complain": "broken and late"}
PLACES = {label: place for place, label in enumerate(LABELS)}


def _rows(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Return texts that their words give away."""
    labels = [LABELS[number % len(LABELS)] for number in range(start, start + count)]
    return [(f"{WORDS[label]} number {number}", label) for number, label in enumerate(labels, start)]


def _right(answers: Array, truth: list[int]) -> float:
    return float((answers.argmax(axis=1) == np.asarray(truth)).mean())


def test_a_text_is_answered_by_what_has_not_seen_its_label() -> None:
    generator = np.random.default_rng(1)
    texts = [f"word{number} other{number}" for number in range(200)]  # nothing can be learnt from one for another
    truth = generator.integers(0, 4, len(texts)).tolist()
    counts = Counts.fit(texts, truth, 4, seed=1)
    assert _right(counts.answer(texts), truth) < 0.45
    near = [f"{text} " for text in texts]  # not the same text, so all folds answer
    assert _right(counts.answer(near), truth) > 0.9


def test_a_text_twice_is_in_one_fold() -> None:
    generator = np.random.default_rng(1)
    texts = [f"word{number} other{number}" for number in range(101)] * 2
    truth = generator.integers(0, 4, 101).tolist() * 2
    assert _right(Counts.fit(texts, truth, 4, seed=1).answer(texts), truth) < 0.45


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_rare_class_stays_right_where_the_first_teacher_is(count: int) -> None:
    kinds = 30
    texts = [f"kind{number} of thing{number}" for number in range(kinds) for _ in range(count)]
    texts = [f"{text} again{place % count}" for place, text in enumerate(texts)]
    truth = [number for number in range(kinds) for _ in range(count)]
    first = np.full((len(texts), kinds), 0.05 / (kinds - 1))
    first[np.arange(len(texts)), truth] = 0.95
    counts = Counts.fit(texts, truth, kinds, seed=1)
    for share in SHARES:
        assert _right(both(np.log(first), counts.answer(texts), share), truth) == 1.0, share


def test_a_class_without_texts_is_the_first_teachers_alone() -> None:
    texts, truth = zip(*((text, PLACES[label]) for text, label in _rows(40)), strict=True)
    answers = Counts.fit(texts, truth, 5, seed=1).answer(["order oats", ""])
    assert np.isnan(answers[:, 4]).all() and np.isfinite(answers[:, :4]).all()
    first = np.log(np.array([[0.1, 0.1, 0.1, 0.1, 0.6]] * 2))
    together = np.exp(both(first, answers, 0.5))
    np.testing.assert_allclose(together.sum(axis=1), 1.0)
    assert together[1].argmax() == 4


def test_what_was_made_of_a_text_is_answered_by_what_has_not_seen_it() -> None:
    generator = np.random.default_rng(1)
    texts = [f"word{number} other{number}" for number in range(200)]
    truth = generator.integers(0, 4, len(texts)).tolist()
    counts = Counts.fit(texts, truth, 4, seed=1)
    copies = {f"{text}s": text for text in texts}
    assert _right(counts.answer(list(copies)), truth) > 0.9, "all fits together know them"
    counts.follow({**copies, "of nothing": "a text that is not there"})
    assert _right(counts.answer(list(copies)), truth) < 0.45


def test_chinese_is_counted_by_characters() -> None:
    words = ("什么时候发货", "我要退货退款", "质量很差很失望")
    texts = [f"{words[number % 3]}{'啊呢吧吗哦'[number % 5] * (number % 4)}第{number}次" for number in range(60)]
    counts = Counts.fit(texts, [number % 3 for number in range(60)], 3, seed=1)
    assert counts.answer(["请问发货了没", "可以退款吗", "太失望了"]).argmax(axis=1).tolist() == [0, 1, 2]


FEW = [("a word", "buy")] * 30 + [(f"word {number}", "ask") for number in range(8)]
LONE = [*_rows(40)[::4], ("it is broken", "complain")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (FEW, "expected 10 different labelled texts or more, got 9"),
        (LONE, "expected two classes with two texts or more"),
        ([(". ! " * (number + 1), LABELS[number % 2]) for number in range(20)], "expected texts with words in them"),
    ],
    ids=["few", "one class", "no words"],
)
def test_where_none_can_be_fitted_the_first_teacher_says_everything(
    answered: Callable[[], dict[str, Any]], tmp_path: Path, rows: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Counts.fit([text for text, _ in rows], [PLACES[label] for _, label in rows], 4, seed=1)
    (tmp_path / "data.json").write_text(json.dumps({"train": rows, "dev": _rows(8)}))
    assert answered()["share"] == 0.0
    before, after = (np.array(open_taught(tmp_path / name)["logits"][:]) for name in ("taught", "joined"))
    np.testing.assert_allclose(after, before - np.log(np.exp(before).sum(axis=1, keepdims=True)), atol=1e-5)


def test_the_more_classes_the_fewer_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "_MOST_NUMBERS", 400)
    texts, truth = zip(*((text, PLACES[label]) for text, label in _rows(40)), strict=True)
    assert len(Counts.fit(texts, truth, 4, seed=1)._features.get_feature_names_out()) == 100


def test_texts_beyond_the_most_that_are_fitted_are_answered_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "_MOST_TEXTS", 20)
    texts, truth = zip(*((text, PLACES[label]) for text, label in _rows(60)), strict=True)
    counts = Counts.fit(texts, truth, 4, seed=1)
    assert len(counts._folds) == 20
    assert _right(counts.answer(texts), list(truth)) == 1.0


@pytest.fixture
def answered(tmp_path: Path, make_checkpoint: Callable[[str], Path]) -> Callable[[], dict[str, Any]]:
    """Return a function that joins both teachers on a corpus of labelled and unlabelled texts."""
    checkpoint = make_checkpoint("bert")
    corpus, made = tmp_path / "corpus.jsonl", [*_rows(40), ("order oats", None), ("send them back", None)]
    corpus.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in made))
    (tmp_path / "data.json").write_text(json.dumps({"train": _rows(40), "dev": _rows(40, 40)}))
    (tmp_path / "taught").mkdir()
    channel = Channel(io.StringIO())
    teach.answer(tmp_path / "taught", channel, str(checkpoint), str(corpus), 64, ("vector", "relations"))
    (tmp_path / "joined").mkdir()
    return lambda: join(
        tmp_path / "joined", channel, str(checkpoint), str(tmp_path / "taught"), str(tmp_path / "data.json"), 64, 1
    )


def test_a_teacher_that_knows_nothing_is_joined_and_the_rest_of_the_corpus_stays(
    answered: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    result = answered()
    assert result["second"] == 1.0 > result["first"]
    assert result["share"] == max(SHARES)
    before, after = open_taught(tmp_path / "taught"), open_taught(tmp_path / "joined")
    assert read_index(tmp_path / "joined") == read_index(tmp_path / "taught")
    for column in ("text", "label", "vector", "relations", "tokens"):
        assert after[column][:] == before[column][:], column
    own, together = np.array(before["logits"][:]), np.array(after["logits"][:])
    own -= np.log(np.exp(own).sum(axis=1, keepdims=True))
    counts = Counts.fit(*zip(*((text, PLACES[label]) for text, label in _rows(40)), strict=True), 4, 1)
    np.testing.assert_allclose(together, both(own, counts.answer(before["text"][:]), 0.5), atol=1e-4)
    assert together[-2:].argmax(axis=1).tolist() == [PLACES["buy"], PLACES["return"]]
    assert after.features == before.features


def test_a_second_teacher_that_is_worse_says_nothing(
    answered: Callable[[], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [label for _, label in _rows(40)]
    shuffled = np.random.default_rng(1).permutation(labels).tolist()
    content = {"train": [(text, label) for (text, _), label in zip(_rows(40), shuffled, strict=True)], "dev": _rows(40)}
    (tmp_path / "data.json").write_text(json.dumps(content))
    sure = np.full((40, 4), 0.01, np.float32)
    sure[np.arange(40), [PLACES[label] for label in labels]] = 0.97
    monkeypatch.setattr(ensemble, "ask", lambda *unused, **more: sure)
    result = answered()
    assert (result["share"], result["first"], result["both"]) == (0.0, 1.0, 1.0)
    before, after = (np.array(open_taught(tmp_path / name)["logits"][:]) for name in ("taught", "joined"))
    np.testing.assert_allclose(after, before - np.log(np.exp(before).sum(axis=1, keepdims=True)), atol=1e-5)


def test_a_label_the_first_teacher_lacks_is_an_error(answered: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps({"train": [*_rows(40), ("hm", "shrug")], "dev": _rows(8)}))
    with pytest.raises(DataError, match="the first one lacks the label 'shrug'"):
        answered()


def test_a_student_learns_what_both_say(
    answered: Callable[[], dict[str, Any]], tmp_path: Path, make_checkpoint: Callable[[str], Path]
) -> None:
    from doorstep_converters import distill
    from doorstep_converters.checkpoint import find_checkpoint
    from doorstep_converters.students.build import build_student
    from doorstep_converters.students.spec import StudentSpec

    answered()
    teacher = find_checkpoint(str(make_checkpoint("bert")))
    names = load_model(teacher.folder).config.id2label
    labels = [str(names[place]) for place in sorted(names)]
    build_student(
        tmp_path / "student",
        StudentSpec("cnn", 16, 200, filters=16),
        teacher,
        [text for text, _ in _rows(40)],
        labels,
        3,
    )
    options = {"steps": 80, "batch": 16, "saves": 4, "learning_rate": 0.01, "weights": {"alpha": 1.0}}
    found = []
    for place in ("taught", "joined"):
        (tmp_path / f"of-{place}").mkdir()
        result = distill.train(
            tmp_path / f"of-{place}", Channel(io.StringIO()), str(tmp_path / "student"), str(tmp_path / place),
            str(tmp_path / "data.json"), options,
        )  # fmt: skip
        found.append(result["dev_accuracy"])
    assert found[1] == 1.0 > found[0]
