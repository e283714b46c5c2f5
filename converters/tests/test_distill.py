"""The teacher answers once, the student learns from it, and what can go wrong costs nothing that was learnt."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from doorstep.errors import ConversionError, DataError
from doorstep_converters import distill, teach
from doorstep_converters.checkpoint import find_checkpoint
from doorstep_converters.data import load_data
from doorstep_converters.export.classifier import load_model
from doorstep_converters.learner import best_save, newest_save
from doorstep_converters.lessons import Batches, Collator
from doorstep_converters.losses import logit_loss, vector_loss
from doorstep_converters.students.build import build_student
from doorstep_converters.students.relations import LastAttention, relation_loss
from doorstep_converters.students.space import averaged
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.taught import Taught, open_taught, read_corpus, read_index, write_index, write_shard
from doorstep_converters.tokenizer import load_tokenizer
from doorstep_converters.worker import Channel

LABELS = ("buy", "return", "ask", "complain")
QUICK: dict[str, Any] = {"steps": 60, "batch": 16, "saves": 6, "learning_rate": 0.01, "max_length": 32}


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    with open(tmp_path / "messages", "w", encoding="utf-8") as stream:
        yield Channel(stream)


@pytest.fixture(scope="module")
def rows(reviews: Path) -> list[tuple[str, str]]:
    data = load_data(reviews)
    return [(row.text, row.label) for row in (*data.train, *data.dev, *data.test)]


@pytest.fixture(scope="module")
def lesson(
    rows: list[tuple[str, str]], make_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a folder with `student`, `taught` (a teacher that is always right) and `data.json`."""
    folder = tmp_path_factory.mktemp("lesson")
    teacher = find_checkpoint(str(make_checkpoint("bert")))
    texts = [text for text, _ in rows]
    build_student(folder / "student", StudentSpec("cnn", 16, 200, filters=16), teacher, texts, LABELS, 3)
    write_taught(folder / "taught", rows)
    (folder / "data.json").write_text(json.dumps({"dev": rows}), encoding="ascii")
    return folder


def write_taught(folder: Path, rows: list[tuple[str, str]], bad: tuple[int, ...] = ()) -> None:
    folder.mkdir()
    logits = [8.0 * np.eye(len(LABELS), dtype=np.float32)[LABELS.index(label)] for _, label in rows]
    for place in bad:
        logits[place] = np.full(len(LABELS), np.nan, np.float32)
    columns = {"text": [text for text, _ in rows], "label": [-1] * len(rows), "logits": logits}
    write_shard(folder / "00000.arrow", columns, ())
    write_index(folder, Taught(len(rows), LABELS))


def learn(
    out: Path, channel: Channel, lesson: Path, taught: str = "taught", resume: str = "", **more: Any
) -> dict[str, Any]:
    options = {**QUICK, **more}
    paths = [str(lesson / name) for name in ("student", taught, "data.json")]
    return distill.train(out, channel, *paths, options, resume)


def corpus(path: Path, rows: list[tuple[str, str | None]]) -> str:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows), "utf-8")
    return str(path)


def test_the_teachers_answers_are_its_logits_row_by_row(
    rows: list[tuple[str, str]], make_checkpoint: Callable[[str], Path], channel: Channel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(teach, "SHARD", 20)
    checkpoint = make_checkpoint("bert")
    out = tmp_path / "out"
    out.mkdir()
    source = corpus(tmp_path / "corpus.jsonl", [*rows[:50], ("没有标签的句子", None)])
    teach.answer(out, channel, str(checkpoint), source, 32, ("vector", "relations"))
    found = open_taught(out)
    assert found["text"][:] == [*(text for text, _ in rows[:50]), "没有标签的句子"]
    assert [LABELS[label] for label in found["label"][:50]] == [label for _, label in rows[:50]]
    assert found["label"][50] == -1
    assert len(list(out.glob("*.arrow"))) == 3
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    for place in (0, 27, 50):
        encoded = tokenizer(found[place]["text"], return_tensors="pt", truncation=True, max_length=32)
        with torch.no_grad():
            answer = model(
                **{name: encoded[name] for name in ("input_ids", "attention_mask")}, output_hidden_states=True
            )
        np.testing.assert_allclose(found[place]["logits"], answer.logits[0], atol=1e-4)
        np.testing.assert_allclose(found[place]["vector"], answer.hidden_states[-1].mean(dim=1)[0], atol=0.01)
        assert found[place]["tokens"] == encoded["input_ids"][0].tolist()
        assert len(found[place]["relations"]) == len(found[place]["tokens"]) * 3 * model.config.hidden_size


def test_a_teacher_answers_in_bf16_as_in_fp32_but_for_rounding(
    rows: list[tuple[str, str]], make_checkpoint: Callable[[str], Path], channel: Channel, tmp_path: Path
) -> None:
    source, found = corpus(tmp_path / "corpus.jsonl", [*rows[:50]]), {}
    for precision in ("fp32", "bf16"):
        (tmp_path / precision).mkdir()
        extras = ("vector", "relations")
        teach.answer(
            tmp_path / precision, channel, str(make_checkpoint("bert")), source, 32, extras, precision=precision
        )
        found[precision] = np.array(open_taught(tmp_path / precision)["logits"][:])
    difference = np.abs(found["bf16"] - found["fp32"]).max()
    assert 0 < difference < 0.05 * np.abs(found["fp32"]).max()


def test_a_killed_teacher_goes_on_and_trusts_no_damaged_shard(
    rows: list[tuple[str, str]], make_checkpoint: Callable[[str], Path], channel: Channel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(teach, "SHARD", 10)
    source, checkpoint = corpus(tmp_path / "corpus.jsonl", [*rows[:40]]), str(make_checkpoint("bert"))
    whole, again = tmp_path / "whole", tmp_path / "again"
    whole.mkdir()
    again.mkdir()
    teach.answer(whole, channel, checkpoint, source, 32)
    resume = tmp_path / "resume"
    program = (
        "import os, sys; from pathlib import Path; from doorstep_converters import teach, taught\n"
        "from doorstep_converters.worker import Channel\n"
        "teach.SHARD = 10\nwrite = teach.write_shard\n"
        "def kill_in_the_third(path, *rest):\n"
        "    if path.name == '00002.arrow': path.write_bytes(b'half'); os.kill(os.getpid(), 9)\n"
        "    write(path, *rest)\n"
        "teach.write_shard = kill_in_the_third\n"
        "channel = Channel(open(os.devnull, 'w'))\n"
        f"teach.answer(Path({str(tmp_path)!r}), channel, {checkpoint!r}, {source!r}, 32, (), {str(resume)!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    first = next(resume.rglob("00000.arrow"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    result = teach.answer(again, channel, checkpoint, source, 32, (), str(resume))
    assert result["kept_shards"] == 1
    assert open_taught(again)[:] == open_taught(whole)[:]
    assert not list(resume.iterdir())


@pytest.mark.parametrize(
    "line, message",
    [
        ("no json", "corpus.jsonl:1: expected an object with a text"),
        ('{"label": "buy"}', "corpus.jsonl:1"),
        ('{"text": 7}', "expected a text and a label"),
        ('{"text": "a", "label": 3}', "expected a text and a label"),
        ("[" * 100_000, "corpus.jsonl:1"),
        ("", "got none"),
        ('{"text": "a", "label": "steal"}', "lacks 'steal'"),
    ],
)
def test_a_bad_corpus_is_refused(
    line: str, message: str, make_checkpoint: Callable[[str], Path], channel: Channel, tmp_path: Path
) -> None:
    (tmp_path / "corpus.jsonl").write_text(line and line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        teach.answer(tmp_path, channel, str(make_checkpoint("bert")), str(tmp_path / "corpus.jsonl"), 32)


def test_an_unknown_extra_is_refused(make_checkpoint: Callable[[str], Path], channel: Channel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got 'smell'"):
        teach.answer(tmp_path, channel, str(make_checkpoint("bert")), "corpus.jsonl", 32, ("smell",))


@pytest.mark.parametrize("damage", ["missing", "cut", "index"])
def test_a_damaged_taught_corpus_is_refused(damage: str, rows: list[tuple[str, str]], tmp_path: Path) -> None:
    write_taught(tmp_path / "taught", rows)
    path = tmp_path / "taught" / ("taught.json" if damage == "index" else "00000.arrow")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="taught"):
        open_taught(tmp_path / "taught")


def test_a_corpus_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "endless.jsonl"
    os.mkfifo(path)
    writer = subprocess.Popen(["sh", "-c", f'yes \'{{"text": "a"}}\' > {path}'])
    try:
        read = read_corpus(path)
        assert [next(read) for _ in range(3)] == [("a", None)] * 3
        read.close()
    finally:
        writer.kill()
        writer.wait()


def test_a_student_learns_what_the_teacher_says(lesson: Path, channel: Channel, tmp_path: Path) -> None:
    result = learn(tmp_path, channel, lesson)
    assert result["dev_accuracy"] > 0.9
    assert result["steps"] == 60
    assert list((tmp_path / "logs").glob("events.*"))
    assert not (tmp_path / "run").exists()
    student = find_checkpoint(str(tmp_path / "checkpoint"))
    assert (student.model_type, student.labels) == ("doorstep-cnn", LABELS)


def test_fewer_steps_are_taken_where_they_are_bounded(lesson: Path, channel: Channel, tmp_path: Path) -> None:
    assert learn(tmp_path, channel, lesson, max_steps=5)["steps"] == 5


def test_a_student_trained_for_a_grid_loses_nothing_on_it(lesson: Path, channel: Channel, tmp_path: Path) -> None:
    result = learn(tmp_path, channel, lesson, bits={"tables": 4, "dense": 8})
    assert result["dev_accuracy"] > 0.9
    table = load_model(tmp_path / "checkpoint").table.weight.detach().numpy()
    assert max(len(np.unique(row)) for row in table) <= 15


def test_a_student_learns_the_teachers_vectors_and_relations(
    rows: list[tuple[str, str]], make_checkpoint: Callable[[str], Path], channel: Channel, tmp_path: Path
) -> None:
    teacher, taught = make_checkpoint("bert"), tmp_path / "taught"
    taught.mkdir()
    teach.answer(taught, channel, str(teacher), corpus(tmp_path / "c.jsonl", [*rows]), 32, ("vector", "relations"))
    spec = StudentSpec("transformer", 16, 0)
    build_student(tmp_path / "student", spec, find_checkpoint(str(teacher)), [text for text, _ in rows], LABELS, 3)
    (tmp_path / "data.json").write_text(json.dumps({"dev": rows}), encoding="ascii")
    distances = []
    for name, weights in (("without", {}), ("with", {"vector": 1.0, "relations": 1.0})):
        more = {"weights": {"alpha": 1.0, **weights}, "steps": 40, "saves": 1, "dropped": 0.0, "learning_rate": 0.05}
        result = learn(tmp_path / name, channel, tmp_path, **more)
        logged = [json.loads(line) for line in (tmp_path / "messages").read_text(encoding="utf-8").splitlines()]
        assert logged[-1]["progress"] == 1.0
        assert result["steps"] == 40
        assert not hasattr(load_model(tmp_path / name / "checkpoint"), "translation")
        distances.append(_distance_of_relations(taught, tmp_path / name / "checkpoint"))
    assert distances[1] < 0.8 * distances[0]


def _distance_of_relations(taught: Path, student: Path) -> float:
    model, found = load_model(student), open_taught(taught).with_format("numpy")
    heard = LastAttention(model)
    batch = Collator(load_tokenizer(student), 32, 0.0, keeps_places=True)([found[place] for place in range(len(found))])
    with torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    heads = read_index(taught).heads
    return float(relation_loss(batch["teacher_relations"], heard.stacked(), batch["relation_mask"], heads))


def test_a_student_learns_what_only_the_teachers_vectors_say(
    rows: list[tuple[str, str]], lesson: Path, channel: Channel, tmp_path: Path
) -> None:
    """The teacher's logits tell the intent; which thing a text is about stands in its vectors alone."""
    things = ("milk", "shoes", "手机壳", "椅子", "boots", "SKU-77", "苹果", "headphones", "tea", "lamp", "电池")
    vectors = [np.array([thing in text for thing in things], np.float16) for text, _ in rows]
    taught = tmp_path / "taught"
    write_taught(taught, rows)
    columns = {name: open_taught(taught)[name][:] for name in ("text", "label", "logits")}
    write_shard(taught / "00000.arrow", {**columns, "vector": vectors}, ("vector",))
    write_index(taught, Taught(len(rows), LABELS, ("vector",), len(things)))
    shares = []
    for name, weight in (("without", 0.0), ("with", 5.0)):
        paths = [str(path) for path in (lesson / "student", taught, lesson / "data.json")]
        options = {**QUICK, "weights": {"vector": weight}, "steps": 150, "saves": 1, "dropped": 0.0}
        distill.train(tmp_path / name, channel, *paths, options)
        shares.append(_share_of_like_neighbours(tmp_path / name / "checkpoint", rows, torch.tensor(np.array(vectors))))
    assert shares[1] > shares[0] + 0.15


def _share_of_like_neighbours(student: Path, rows: list[tuple[str, str]], expected: torch.Tensor) -> float:
    """Return the share of texts whose nearest one, by cosine of the student's vectors, is so for the teacher too."""
    encoded = load_tokenizer(student)([text for text, _ in rows], padding=True, return_tensors="pt")
    mask = encoded["attention_mask"]
    with torch.no_grad():
        got = load_model(student)(input_ids=encoded["input_ids"], attention_mask=mask, output_hidden_states=True)
    own = averaged(got, mask)  # [texts, width]
    unit = functional.normalize(own - own.mean(dim=0), dim=1)
    nearest = (unit @ unit.T - 2 * torch.eye(len(rows))).argmax(dim=1)
    return float((expected[nearest] * expected).sum(dim=1).gt(0).float().mean())


def test_a_loss_that_is_no_number_keeps_the_last_good_weights(
    rows: list[tuple[str, str]], lesson: Path, channel: Channel, tmp_path: Path
) -> None:
    write_taught(lesson / "late", rows, bad=(len(rows) // 2,))
    result = learn(tmp_path, channel, lesson, "late", batch=2, steps=200, saves=200)
    assert "the loss is no number at step" in result["notes"][-1]
    assert "kept the weights of step" in result["notes"][-1]
    weights = load_model(tmp_path / "checkpoint").state_dict().values()
    assert all(bool(torch.isfinite(weight).all()) for weight in weights)


def test_a_loss_that_never_was_a_number_is_an_error(
    rows: list[tuple[str, str]], lesson: Path, channel: Channel, tmp_path: Path
) -> None:
    write_taught(lesson / "never", rows, bad=tuple(range(len(rows))))
    with pytest.raises(ConversionError, match="no number at step 1, before a first save"):
        learn(tmp_path, channel, lesson, "never")
    assert not (tmp_path / "checkpoint").exists()


def test_a_killed_training_goes_on_from_its_last_save(lesson: Path, channel: Channel, tmp_path: Path) -> None:
    resume, out = tmp_path / "resume", tmp_path / "killed"
    out.mkdir()
    arguments = {
        "student": str(lesson / "student"), "taught": str(lesson / "taught"), "data": str(lesson / "data.json"),
        "options": {**QUICK, "steps": 100_000, "saves": 5000}, "resume": str(resume),
    }  # fmt: skip
    message = json.dumps({"job": "doorstep_converters.distill:train", "out": str(out), "arguments": arguments})
    process = subprocess.Popen([sys.executable, "-m", "doorstep_converters.worker", message], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while len(list(resume.glob("checkpoint-*/whole.json"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    save = newest_save(resume)
    assert save is not None
    step = int(save.name.rpartition("-")[2])
    result = learn(tmp_path, channel, lesson, resume=str(resume), steps=step + 10, saves=2)
    assert result["notes"] == [f"went on from step {step}"]
    assert result["steps"] == step + 10
    assert not resume.exists()


def test_a_damaged_save_is_never_trusted(tmp_path: Path) -> None:
    for step in (20, 100):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}", encoding="ascii")
        digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        (folder / "whole.json").write_text(json.dumps({"trainer_state.json": digest}), encoding="ascii")
    assert newest_save(tmp_path) == tmp_path / "checkpoint-100"
    (tmp_path / "checkpoint-100/trainer_state.json").write_text("[]", encoding="ascii")
    assert best_save(tmp_path) == tmp_path / "checkpoint-20"
    assert not (tmp_path / "checkpoint-100").exists()


def test_a_batch_too_large_for_memory_is_halved(rows: list[tuple[str, str]], lesson: Path, tmp_path: Path) -> None:
    program = (
        "import json, os, resource; from pathlib import Path\n"
        "from doorstep_converters import distill; from doorstep_converters.worker import Channel\n"
        "load = distill._Lessons.load\n"
        "def bounded(*all):\n"
        "    lessons = load(*all)\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * os.sysconf('SC_PAGE_SIZE')\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (900 << 20), -1))\n"
        "    return lessons\n"
        "distill._Lessons.load = bounded\n"
        f"lesson, out = Path({str(lesson)!r}), Path({str(tmp_path)!r})\n"
        "options = {'steps': 2, 'saves': 1, 'batch': 16384, 'max_length': 512}\n"
        "paths = [str(lesson / name) for name in ('student', 'many', 'data.json')]\n"
        "print(json.dumps(distill.train(out, Channel(open(os.devnull, 'w')), *paths, options)))\n"
    )
    many = [(" ".join([text] * 60), label) for text, label in rows] * 40
    write_taught(lesson / "many", many)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["batch"] < 16384
    assert result["notes"][0] == "out of memory: went on in batches of 8192"
    assert result["steps"] == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": 3, "colour": 1}, "colour"),
        ({"bits": {"sound": 3}}, "sound"),
    ],
)
def test_an_unknown_option_is_refused(
    change: dict[str, Any], message: str, lesson: Path, channel: Channel, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        learn(tmp_path, channel, lesson, **change)


@pytest.mark.parametrize("dev, message", [([], "expected a dev split"), ([["a", "steal"]], "has a label 'steal'")])
def test_a_bad_dev_split_is_refused(
    dev: list[list[str]], message: str, lesson: Path, channel: Channel, tmp_path: Path
) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"dev": dev}), encoding="ascii")
    with pytest.raises(DataError, match=message):
        distill.train(tmp_path, channel, str(lesson / "student"), str(lesson / "taught"), str(data), QUICK)


def test_a_student_with_other_labels_is_refused(
    lesson: Path, rows: list[tuple[str, str]], channel: Channel, tmp_path: Path
) -> None:
    write_taught(tmp_path / "taught", rows)
    write_index(tmp_path / "taught", Taught(len(rows), LABELS[::-1]))
    data = str(lesson / "data.json")
    with pytest.raises(DataError, match="expected a head with the teacher's labels"):
        distill.train(tmp_path, channel, str(lesson / "student"), str(tmp_path / "taught"), data, QUICK)


def test_batches_hold_every_row_once_and_texts_of_like_length() -> None:
    lengths = np.random.default_rng(1).integers(1, 200, 1000).astype(np.float64)
    batches = Batches(lengths, 16, 7)
    first, again = list(batches), list(batches)
    assert first == again
    batches.set_epoch(1)
    other = list(batches)
    assert first != other
    for order in (first, other):
        assert sorted(row for batch in order for row in batch) == list(range(1000))
        assert len(order) == len(batches)
    spread = np.mean([np.ptp(lengths[batch]) for batch in first])
    assert spread < 50


def test_tokens_are_left_out_of_training_texts_only(lesson: Path) -> None:
    tokenizer = load_tokenizer(lesson / "student")
    collator = Collator(tokenizer, 32, dropped=0.5)
    taught = {"text": "add a lamp to my basket", "label": -1, "logits": np.zeros(4, np.float32)}
    dev = {"text": taught["text"], "label": 1}
    whole = len(tokenizer(taught["text"])["input_ids"])
    lengths = {int(collator([taught])["attention_mask"].sum()) for _ in range(50)}
    assert len(lengths) > 2
    assert int(collator([dev])["attention_mask"].sum()) == whole


def test_the_loss_is_that_of_hinton() -> None:
    torch.manual_seed(1)
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    assert float(logit_loss(teacher, teacher, 3.0).abs().max()) < 1e-5
    shares = functional.softmax(teacher, dim=-1)
    by_hand = (shares * (shares.log() - functional.log_softmax(student, dim=-1))).sum(dim=-1)
    torch.testing.assert_close(logit_loss(student, teacher, 1.0), by_hand)
    assert float(vector_loss(teacher, 3 * teacher)) == pytest.approx(0.0, abs=1e-5)
