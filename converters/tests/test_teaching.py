"""What the students of a search learn from: texts with and without labels, and the lessons of an order."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from doorstep.errors import DataError, UsageError
from doorstep_converters.budget import parse_budget
from doorstep_converters.data import load_data
from doorstep_converters.job import Job
from doorstep_converters.progress import Lines
from doorstep_converters.search.order import Order, check_order
from doorstep_converters.search.plan import describe
from doorstep_converters.search.run import search
from doorstep_converters.search.teaching import Teaching
from doorstep_converters.taught import open_taught
from doorstep_converters.unlabelled import read_texts, without_leaks

Make = Callable[[str], Path]
_STUDENT = "static-16w-200v"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chats.txt", "late again\n\n  还没到货 \n"),
        ("chats.csv", "text,shop\nlate again,1\n还没到货,2\n"),
        ("chats.jsonl", '{"text": "late again"}\n{"text": " "}\n{"text": "还没到货"}\n'),
    ],
)
def test_texts_are_read_from_lines_tables_and_json(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert list(read_texts(tmp_path / name)) == ["late again", "还没到货"]
    with gzip.open(tmp_path / "again.csv.gz", "wt", encoding="utf-8") as file:
        file.write("words\nlate again\n")
    assert list(read_texts(tmp_path / "again.csv.gz", "words")) == ["late again"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("chats.pdf", b"%PDF", "expected one of"),
        ("chats.txt", "caf\xe9".encode("latin-1"), "expected UTF-8"),
        ("chats.txt", b"x" * (1 << 20), "a line of more than 1 MiB"),
        ("chats.csv", b"shop\n1\n", "expected a column 'text'"),
        ("chats.jsonl", b'{"text": 5}\n', "row 1: expected a text, got 5"),
    ],
)
def test_texts_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_texts(tmp_path / name))


def test_a_file_of_texts_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"chats\.txt: no such file"):
        list(read_texts(tmp_path / "chats.txt"))


def _plenty(reviews: Path, folder: Path) -> Path:
    """Write the reviews three times over, worded differently, so that dev has enough of them."""
    head, *lines = reviews.read_text(encoding="utf-8").splitlines()
    more = [line.replace('",', f'{ending}",') for ending in ("", " now", " 谢谢") for line in lines]
    (folder / "plenty.csv").write_text("\n".join([head, *more]) + "\n", encoding="utf-8")
    return folder / "plenty.csv"


def test_a_search_names_a_file_of_texts_that_is_missing_before_any_work(
    make_checkpoint: Make, reviews: Path, tmp_path: Path
) -> None:
    job = Job(
        str(make_checkpoint("bert")), "x86-64", tmp_path / "out", data=_plenty(reviews, tmp_path),
        cache=tmp_path / "cache", unlabelled=tmp_path / "chats.txt",
    )  # fmt: skip
    with pytest.raises(DataError, match=r"chats\.txt: no such file"):
        search(Order(job, parse_budget("drop<=100"), students=(_STUDENT,)), Lines())
    assert not list((tmp_path / "cache").glob("stages/*"))


def test_held_out_texts_are_not_taught() -> None:
    held_out = ["where is my parcel, it is late"]
    texts = ["Where is my parcel, it is  LATE", "where is my parcel, it is late!", "the mug came in pieces"]
    assert list(without_leaks(texts, held_out)) == ["the mug came in pieces"]


@pytest.mark.parametrize(
    ("teaching", "message"),
    [
        (Teaching(alpha=1.5), "alpha from 0 to 1"),
        (Teaching(temperature=0.0), "temperature above 0"),
        (Teaching(tables=3), "tables to be 4 or 8 bits"),
        (Teaching(dropped=1.0), "dropped from 0 to 0.9"),
        (Teaching(vector=float("nan")), "vector from 0"),
    ],
)
def test_lessons_out_of_range_are_named(tmp_path: Path, teaching: Teaching, message: str) -> None:
    order = Order(Job("bert", "arm64", tmp_path), parse_budget("drop<=1"), teaching=teaching)
    with pytest.raises(UsageError, match=message):
        check_order(order)


def test_relations_are_asked_for_where_a_student_has_attention() -> None:
    teaching = Teaching(relations=0.5)
    assert teaching.extras(has_attention=True) == ["vector", "relations"]
    assert teaching.extras(has_attention=False) == ["vector"]
    assert teaching.options(has_attention=True)["bits"] == {}
    assert teaching.options(has_attention=False)["weights"]["relations"] == 0.0


@pytest.fixture(scope="module")
def taught(make_checkpoint: Make, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache of a search with texts that nobody labelled, one of them held out, and with made ones."""
    folder = tmp_path_factory.mktemp("taught")
    data = _plenty(reviews, folder)
    held_out = load_data(data).dev[0].text
    (folder / "chats.txt").write_text(
        f"a text that nobody labelled\n没有人标注的一句话\n{held_out}\n", encoding="utf-8"
    )
    job = Job(
        str(make_checkpoint("bert")), "x86-64", folder / "out", data=data, cache=folder / "cache", max_length=32,
        name="kiosk", unlabelled=folder / "chats.txt",
    )  # fmt: skip
    order = Order(
        job, parse_budget("drop<=100"), students=(_STUDENT,), augmented=(True,), rungs=(4,), trials=1,
        variants=("numpy-int4-tables",),
    )  # fmt: skip
    assert search(order, Lines()).chosen is not None
    return folder / "cache"


def test_a_search_teaches_texts_that_nobody_labelled(taught: Path) -> None:
    (corpus,) = taught.glob("stages/teach-*")
    rows = open_taught(corpus)
    unlabelled = [row["text"] for row in rows if row["label"] == -1]
    assert sorted(unlabelled) == ["a text that nobody labelled", "没有人标注的一句话"]  # the third one is held out
    assert len(rows[0]["vector"]) > 0


def test_the_students_of_a_search_learn_what_two_teachers_say(taught: Path) -> None:
    (alone,), (joined,) = (list(taught.glob(f"stages/{name}-*")) for name in ("teach", "counts"))
    share = json.loads((joined / "stage.json").read_text(encoding="utf-8"))["result"]["share"]
    assert 0 < share <= 0.5, "the first one has learnt nothing"
    one, both = open_taught(alone), open_taught(joined)
    assert one["text"][:] == both["text"][:]
    assert one["logits"][:] != both["logits"][:]


def test_the_lessons_name_the_second_teacher(reviews: Path, tmp_path: Path) -> None:
    order = Order(Job("bert", "arm64", tmp_path, data=reviews), parse_budget("drop<=1"))
    assert "a second teacher, which counts words" in describe(order)
    assert "counts words" not in describe(replace(order, teaching=Teaching(counts=False)))


def test_a_searched_students_table_lies_on_the_grid_it_was_trained_for(taught: Path) -> None:
    (trained,) = taught.glob("stages/train-*")
    weights = load_file(trained / "checkpoint/model.safetensors")
    (table,) = [weight for name, weight in weights.items() if "table" in name]
    steps = table / (table.abs().amax(dim=1, keepdim=True) / 7)
    assert torch.allclose(steps, steps.round(), atol=1e-3)


def test_a_search_changes_texts_that_nobody_labelled_as_well(taught: Path) -> None:
    (made,) = taught.glob("stages/augment-*")
    sources = [json.loads(line)["source"] for line in (made / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert "a text that nobody labelled" in sources
