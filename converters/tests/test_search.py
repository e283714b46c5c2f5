"""Search: order, front, halving, the journal, and the whole way on a small checkpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from doorstep import Predictor
from doorstep.bundle import Bundle
from doorstep.cli.main import main
from doorstep.device import Device
from doorstep.errors import BudgetError, ConversionError, DataError, UsageError
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.budget import parse_budget
from doorstep_converters.job import Cost, Job, Training
from doorstep_converters.pipeline import workbench
from doorstep_converters.progress import Lines
from doorstep_converters.recipe_file import read_recipe
from doorstep_converters.search.front import Judged, Point, Tried, choose, nearest, pareto, within
from doorstep_converters.search.latency import factor, is_measured_here
from doorstep_converters.search.order import Order, check_order
from doorstep_converters.search.report import best_by_latency, summary, to_plain, write_search_report
from doorstep_converters.search.run import Found, require_found, search
from doorstep_converters.search.space import Choice, PruneSpec, default_students
from doorstep_converters.search.steps import Steps
from doorstep_converters.search.study import Study
from doorstep_converters.search.teaching import Teaching
from doorstep_converters.stages import Output, recall
from doorstep_converters.targets import TARGETS

LABELS = ("buy", "ask", "return")
JOB = Job("x", "x86-64", Path())
Make = Callable[[str], Path]


def _point(name: str, drop: float, p95: float, size: float) -> Point:
    return Point(
        name, "onnx-int8", {"drop": drop, "p50": p95, "p95": p95, "size": size, "accuracy": 0.9 - drop / 100}, ""
    )


TINY, SMALL, LARGE, POOR = (
    _point("tiny", 2.0, 0.1, 5e5), _point("small", 0.4, 0.5, 2e6), _point("large", 0.0, 5.0, 2e7),
    _point("poor", 3.0, 0.6, 3e6),
)  # fmt: skip
ALL = (TINY, SMALL, LARGE, POOR)


def test_the_front_leaves_out_what_another_beats_in_everything() -> None:
    assert pareto(ALL) == [LARGE, SMALL, TINY]


@pytest.mark.parametrize(
    ("budget", "prefer", "chosen"),
    [
        ("drop<=0.5", "", SMALL),  # nothing bounds time or size: the fastest that is right
        ("drop<=2", "", TINY),
        ("size<=3MB", "", SMALL),  # nothing bounds accuracy: the most accurate
        ("size<=3MB, p95<=1ms, drop<=2", "", SMALL),
        ("size<=3MB, p95<=1ms, drop<=2", "size", TINY),
        ("size<=3MB, p95<=1ms, drop<=2", "speed", TINY),
        ("size<=30MB, drop<=5", "accuracy", LARGE),
        ("p95<=0.01ms", "", None),
    ],
)
def test_what_the_budget_leaves_open_decides(budget: str, prefer: str, chosen: Point | None) -> None:
    assert choose(ALL, parse_budget(budget), prefer) == chosen


def test_the_nearest_are_those_that_miss_least() -> None:
    budget = parse_budget("p95<=0.4ms, drop<=0.5")
    assert within(ALL, budget) == []
    assert nearest(ALL, budget, 2) == [SMALL, TINY]


@pytest.mark.parametrize("name", ["pruned", "pruned-3l", "pruned-2l-50h-25w-8192v"])
def test_names_of_pruned_teachers_decode(name: str) -> None:
    assert PruneSpec.from_name(name).name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"students": ("pruned-3x",)}, "pruned-3l-50h-50w, got 'pruned-3x'"),
        ({"students": ("pruned-0h",)}, "1 to 100 percent"),
        ({"students": ("gru-64w",)}, "got 'gru'"),
        ({"rungs": (500, 100)}, "rising numbers"),
        ({"rungs": (0, 100)}, "0 at the end"),
        ({"rungs": ()}, "rising numbers"),
        ({"prefer": "beauty"}, "accuracy, speed, size, got 'beauty'"),
        ({"trials": 0}, "one trial or more"),
        ({"minutes": 0.0}, "minutes above 0"),
        ({"measure_on": "clerk@board", "workers": 2}, "one candidate at a time.*leave --workers or --measure-on out"),
        ({"job": replace(JOB, task="sentence-similarity")}, "makes text classifiers; leave --task or --budget out"),
        ({"job": replace(JOB, is_pickle_allowed=True)}, "--allow-pickle.*as safetensors first"),
    ],
)
def test_a_wrong_order_is_named(change: dict[str, object], message: str) -> None:
    order = Order(JOB, parse_budget("drop<=1"))
    with pytest.raises(UsageError, match=message):
        check_order(replace(order, **change))


def test_every_default_student_has_a_name_that_decodes() -> None:
    check_order(Order(Job("x", "arm64", Path()), parse_budget("drop<=1"), students=default_students()))


def test_other_machines_are_modelled_and_slower_boards_come_out_slower() -> None:
    here = Device("x86_64", "", frozenset(), 1, None, {})
    assert is_measured_here("x86-64", here)
    assert not is_measured_here("x86-64-vnni", here)
    assert is_measured_here("x86-64-vnni", here._replace(features=frozenset({"avx512_vnni"})))
    assert not is_measured_here("arm64", here)
    rates = {target: factor(target, "onnx-int8", here=40.0) for target in TARGETS}
    assert rates["armv7"] > rates["arm64"] > rates["arm64-dotprod"]


RECIPE = """
checkpoint = "bert"
data = "reviews.csv"
target = "x86-64"
budget = "size<=2MB, drop<=0.5"
[search]
students = ["pruned-1l"]
augmented = [false]
rungs = [2, 0]
trials = 3
price_per_hour = 1.5
"""


def test_another_precision_is_another_search(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    order = read_recipe(tmp_path / "recipe.toml", tmp_path)
    assert isinstance(order, Order)
    values = []
    for precision in ("auto", "fp32"):
        job = replace(order.job, training=replace(order.job.training, precision=precision))
        steps = SimpleNamespace(order=replace(order, job=job), exams={})
        values.append(Steps.judged_by(cast(Steps, steps)))
    assert values[0] != values[1]


def test_a_recipe_file_says_everything(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    order = read_recipe(tmp_path / "recipe.toml", tmp_path)
    assert isinstance(order, Order)
    assert order.job.data == tmp_path / "reviews.csv"
    assert order.choices() == [Choice("pruned-1l")]
    assert (order.rungs, order.trials, order.price_per_hour) == ((2, 0), 3, 1.5)
    assert str(order.budget) == "size<=2MB, drop<=0.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoint = ", "expected TOML"),
        ('target = "arm64"', "expected checkpoint in it"),
        (RECIPE.replace("checkpoint", "chekpoint"), "unknown entry 'chekpoint'; did you mean 'checkpoint'"),
        (RECIPE.replace("trials = 3", 'trials = "3"'), "expected trials to be of type int"),
        (RECIPE.replace("trials = 3", "trials = true"), "expected trials to be of type int"),
        (RECIPE + '\n[training]\nprecision = "fp8"\n', "expected precision to be one of auto, bf16, fp32, got 'fp8'"),
        (RECIPE.replace("[2, 0]", '["2"]'), "expected rungs to be a list of int"),
        (RECIPE.replace("trials", "trails"), "did you mean 'trials'"),
        (RECIPE.replace('budget = "size<=2MB, drop<=0.5"', ""), "needs a budget"),
        ("drop = 5.0\n" + RECIPE, "drop: the budget holds the bounds of a search; write drop into it"),
        (RECIPE + "\n[augment]\ncopies = 3.0\n", "no texts are made; name transforms in it"),
        (RECIPE + '\n[augment]\ntransforms = ["tpyo"]\n', "got 'tpyo'"),
        (RECIPE + "\n[distillation]\nvectors = 1.0\n", "did you mean 'vector'"),
        (RECIPE + "\n[distillation]\ncounts = 0.5\n", "counts"),
        (RECIPE + '\n[display_names]\nzh = "names.json"\n', "names.json: expected a JSON object of label to name"),
    ],
)
def test_a_wrong_recipe_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises((UsageError, DataError), match=message):
        read_recipe(tmp_path / "recipe.toml", tmp_path)


def test_a_recipe_file_says_what_is_augmented_taught_and_shown(tmp_path: Path) -> None:
    (tmp_path / "labels.zh.json").write_text('{"late": "晚到"}', encoding="utf-8")
    (tmp_path / "mt-there").mkdir()
    tables = """
        [augment]
        transforms = ["translate", "neighbours+typo"]
        copies = 2
        there = "mt-there"
        back = "hub/back"
        [distillation]
        relations = 0.5
        tables = 8
        counts = false
        [training]
        method = "lora"
        mixup = 0.2
        [display_names]
        zh = "labels.zh.json"
        zh-TW = "labels.zh.json"
    """
    texts = 'task = "text-classification"\nunlabelled = "chats.txt"\n'
    (tmp_path / "recipe.toml").write_text(texts + RECIPE + tables)
    order = read_recipe(tmp_path / "recipe.toml", tmp_path)
    assert isinstance(order, Order)
    job = order.job
    assert (job.task, job.unlabelled) == ("text-classification", tmp_path / "chats.txt")
    assert job.augment is not None
    assert job.augment.transforms == ("translate", "neighbours+typo")
    assert (job.augment.there, job.augment.back) == (str(tmp_path / "mt-there"), "hub/back")
    assert (job.training.method, job.training.mixup) == ("lora", 0.2)
    assert job.display_names == {"zh": {"late": "晚到"}, "zh-TW": {"late": "晚到"}}
    assert order.teaching == Teaching(relations=0.5, tables=8, counts=False)


def test_a_dry_run_without_a_budget_names_the_variants(
    make_checkpoint: Make, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--data", str(reviews), "--out", str(tmp_path / "o"), "--cache", str(tmp_path / "cache")]
    assert main(["convert", str(make_checkpoint("bert")), "--target", "arm64", *paths, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "onnx-int8-static" in out
    assert "not openvino-int8-static: OpenVINO on ARM computes" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/model"], "/nowhere/model: no such folder"),
        (["package:no_such_package"], "package:no_such_package is not installed"),
        (["new:trees", "--task", "tabular-classification", "--finetune", "lora"], "--finetune lora: tabular"),
        (["/nowhere/model", "--budget", "drop<=1"], "/nowhere/model: no such folder"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", *arguments, "--target", "arm64", "--dry-run"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("checkpoint", "name"), [("{}", "bert"), ("some/where", "where")])
def test_a_dry_run_names_the_bundle_as_the_run_would(
    checkpoint: str, name: str, make_checkpoint: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", checkpoint.format(make_checkpoint("bert")), "--target", "arm64", "--dry-run"]) == 0
    assert f"bundle      dist/{name}.bundle" in capsys.readouterr().out


def test_a_dry_run_prints_the_plan_and_does_nothing(
    make_checkpoint: Make, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--data", str(reviews), "--out", str(tmp_path / "o"), "--cache", str(tmp_path / "cache")]
    wanted = ["--budget", "p95<=2ms, drop<=0.5", "--students", "pruned-1l", "--dry-run"]
    arguments = ["convert", str(make_checkpoint("bert")), "--target", "arm64", *paths, *wanted]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "modelled as Cortex-A53" in out
    assert "1. pruned-1l" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--budget", "siez<=2MB"], "did you mean 'size'"),
        (["--unlabelled", "more.txt"], "--unlabelled: a search alone reads it; add --budget, or leave it out"),
        (["--measure-on", "clerk@board"], "--measure-on: a search alone reads it"),
        (["--students", "pruned-1l"], "--students: a search alone reads it"),
        (["--prefer", "size", "--dry-run"], "--prefer: a search alone reads it"),
        (["--workers", "2"], "--workers: a search alone reads it"),
        (["--copies", "3"], "--copies: --augment alone reads it; add --augment NAMES, or leave it out"),
        (["--budget", "size<=2MB", "--lexicon", "words.txt"], "--lexicon: --augment alone reads it"),
        (["--budget", "size<=2MB", "--drop", "1"], "--drop: the budget holds the bounds of a search; write drop into"),
        (["--budget", "size<=2MB", "--agreement", "0.9"], "write agreement into --budget"),
    ],
)
def test_the_command_line_names_what_is_wrong(
    reviews: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert main(["convert", "x", "--target", "arm64", "--data", str(reviews), *extra]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "extra",
    [
        ["--target", "arm64"], ["--budget", "drop<=1"], ["--data", "x.csv"], ["--unlabelled", "more.txt"],
        ["--measure-on", "clerk@board"], ["--augment", "typo"], ["--teacher", "x"], ["--retrain"], ["--out", "x"],
        ["--display-names", "labels.zh.json"],
    ],
)  # fmt: skip
def test_a_recipe_file_is_not_told_otherwise_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    assert main(["convert", str(tmp_path / "recipe.toml"), *extra, "--json", "--dry-run"]) == 1
    assert f"recipe.toml: it says everything itself; write {extra[0]} into it" in capsys.readouterr().err


@pytest.fixture(scope="module")
def plenty(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the reviews three times over, worded differently, so that dev has enough of them."""
    head, *lines = reviews.read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("plenty") / "plenty.csv"
    more = [line.replace('",', f'{ending}",') for ending in ("", " now", " 谢谢") for line in lines]
    path.write_text("\n".join([head, *more]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def order(make_checkpoint: Make, plenty: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Order:
    out = tmp_path_factory.mktemp("searched")
    job = Job(str(make_checkpoint("bert")), "x86-64", out, data=plenty, cache=cache, max_length=32, name="kiosk")
    return Order(
        job, parse_budget("drop<=100, size<=1MB"), students=("static-16w-200v", "pruned-1l"), augmented=(False,),
        rungs=(4, 8), trials=2, variants=("onnx-int8",), price_per_hour=2.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(order: Order) -> Found:
    return search(order, Lines())


@pytest.mark.slow
def test_a_search_packs_a_student_within_the_budget(found: Found) -> None:
    assert found.chosen is not None
    assert found.report is not None and found.report.bundle is not None
    size = found.chosen.figures["size"]
    assert size is not None and size <= 1e6
    with Predictor.load(found.report.bundle) as predictor:
        assert predictor.predict("我想买手机壳").scores


@pytest.mark.slow
def test_the_bundle_carries_temperature_and_gates(found: Found) -> None:
    assert found.report is not None and found.report.bundle is not None
    bundle = Bundle.open(found.report.bundle)
    (gates,) = found.gates.values()
    assert bundle.manifest.options.get("temperature", 1.0) == gates.temperature
    card = (found.report.bundle / "README.md").read_text(encoding="utf-8")
    assert "## Gates" in card
    assert "typo" in card


@pytest.mark.slow
def test_the_report_ranks_and_gives_a_reason_for_every_candidate(found: Found, order: Order) -> None:
    page = write_search_report(found, order.job.out).read_text(encoding="utf-8")
    assert "<svg" in page
    assert all(tried.choice in page for tried in found.tried)
    plain = json.loads((order.job.out / "kiosk.search.json").read_text(encoding="utf-8"))
    assert plain["chosen"]["choice"] == found.chosen.choice if found.chosen else False
    assert all(cost["money"] is not None for cost in plain["costs"])
    assert "chosen" in summary(found)


@pytest.mark.slow
def test_a_second_search_computes_nothing_again(found: Found, order: Order) -> None:
    again = search(order, Lines())
    assert [tried.choice for tried in again.tried] == [tried.choice for tried in found.tried]
    assert all(cost.is_kept for cost in again.costs)


def _by_name(found: Found) -> dict[str, Point]:
    return {point.name: point for point in found.points}


def _packed(found: Found) -> dict[str, str]:
    assert found.report is not None and found.report.bundle is not None
    files = Bundle.open(found.report.bundle).manifest.files
    return {entry.path: entry.sha256 for entry in files if entry.path.startswith("variants/")}


@pytest.mark.slow
def test_students_damaged_after_a_search_are_made_again_and_not_packed(
    found: Found, order: Order, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = replace(order, job=replace(order.job, name="mended"), refined=("onnx-int8-static-entropy",))
    before = search(wanted, Lines())
    packed = _packed(before)
    assert {point.variant for point in before.points} == {"onnx-int8", "onnx-int8-static-entropy"}
    folders = {Path(point.checkpoint) for point in before.points}
    for folder in folders:
        damaged = bytearray((folder / "model.safetensors").read_bytes())
        damaged[-1] ^= 0x40  # the exponent of a weight
        (folder / "model.safetensors").write_bytes(damaged)
    capfd.readouterr()
    after = search(wanted, Lines())
    assert _packed(after) == packed
    assert _by_name(after) == _by_name(before)
    made = sorted(cost.stage for cost in after.costs if not cost.is_kept)
    assert made == sorted(folder.parent.name.rpartition("-")[0] for folder in folders)
    assert "its weights are not those that were measured" in capfd.readouterr().err
    assert all(cost.is_kept for cost in search(wanted, Lines()).costs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]],
        lambda lines: [*lines[:3], b"\x00" * len(lines[3]) + b"\n", *lines[4:]],
        lambda lines: [*lines, b"[1]\n"],
        lambda lines: [line.replace(b'"variant":', b'"varjant":') for line in lines],
    ],
    ids=["cut", "zeros", "list", "renamed"],
)
def test_a_journal_that_cannot_be_read_is_set_aside_and_kept_stages_rebuild_the_search(
    found: Found, order: Order, tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Callable[..., list[bytes]]
) -> None:
    shutil.copytree(order.job.cache, tmp_path / "cache", ignore=shutil.ignore_patterns("*.journal*"))
    own = replace(order, job=replace(order.job, cache=tmp_path / "cache", out=tmp_path / "out"))
    before = search(own, Lines())
    packed = _packed(before)
    (journal,) = (tmp_path / "cache/search").glob("*.journal")
    damaged = b"".join(damage(journal.read_bytes().splitlines(keepends=True)))
    journal.write_bytes(damaged)
    capfd.readouterr()
    again = search(own, Lines())
    aside = journal.with_name(f"{journal.name}.damaged-1")
    assert "search: its journal cannot be read" in (told := capfd.readouterr().err)
    assert str(aside) in told
    assert aside.read_bytes().startswith(damaged)  # Optuna may have put a record behind it before it saw
    assert _by_name(again) == _by_name(before)
    assert _packed(again) == packed
    assert all(cost.is_kept for cost in again.costs)
    assert search(own, Lines()).chosen == before.chosen
    assert "journal" not in capfd.readouterr().err


def _split(path: Path, changed: str = "") -> Path:
    """Write a hundred rows in splits that no hash decides; `changed` is a dev text whose label is another one."""
    rows = []
    for number in range(100):
        text, label = f"{('buy', 'how much is', 'send back')[number % 3]} {number}", LABELS[number % 3]
        label = LABELS[(number + 1) % 3] if text == changed else label
        rows.append(f"{text},{label},{'dev' if number % 4 == 0 else 'train'}")
    path.write_text("\n".join(["text,label,split", *rows]) + "\n")
    return path


@contextmanager
def _steps(order: Order, out: Path, **changes: object) -> Iterator[Steps]:
    job = replace(order.job, out=out, **changes)
    with workbench(job, "steps", Lines()) as bench:
        yield Steps.prepare(replace(order, job=job), bench, Lines(), Device.detect())


@pytest.mark.slow
def test_a_changed_dev_row_trains_again_and_builds_and_teaches_nothing_again(order: Order, tmp_path: Path) -> None:
    made = []
    for data in (_split(tmp_path / "one.csv"), _split(tmp_path / "two.csv", changed="buy 0")):
        with _steps(order, tmp_path, data=data) as steps:
            choice = order.choices()[0]
            steps.train(choice, steps.build(choice), 4)
            made.append({cost.stage for cost in steps.costs if not cost.is_kept})
    assert f"train-{choice.name}-4" in made[0] & made[1]
    assert {f"student-{choice.name}", "teach"} <= made[0] - made[1]


@pytest.mark.slow
def test_a_search_is_another_one_where_other_texts_or_brands_teach_or_judge(order: Order, tmp_path: Path) -> None:
    plan = AugmentPlan(("brand",), brands=str(tmp_path / "brands.txt"))
    journals = []
    for brands, limit in (("Acme", 1000), ("Acme", 1000), ("Umbrella", 1000), ("Acme", 10)):
        (tmp_path / "brands.txt").write_text(f"{brands}\nGlobex\n")
        with _steps(replace(order, augmented=(True,)), tmp_path, augment=plan, eval_limit=limit) as steps:
            journals.append(Study(steps.order, steps).journal.name)
    assert journals[0] == journals[1]
    assert len(set(journals)) == 3


@pytest.fixture(scope="module")
def tuned(encoder_only: Path, order: Order, tmp_path_factory: pytest.TempPathFactory) -> Order:
    """Return an order whose teacher has no head yet."""
    out, training = tmp_path_factory.mktemp("tuned"), Training(epochs=1)
    job = replace(order.job, checkpoint=str(encoder_only), out=out, training=training)
    return replace(order, job=job, students=("static-8w-150v",), rungs=(4,), trials=1)


@pytest.fixture(scope="module")
def tuned_found(tuned: Order) -> Found:
    return search(tuned, Lines())


@pytest.mark.slow
def test_curves_of_teacher_and_students_lie_in_the_logs_of_a_search_and_of_a_later_one(
    tuned_found: Found, tuned: Order, tmp_path: Path
) -> None:
    search(replace(tuned, job=replace(tuned.job, out=tmp_path)), Lines())
    for out in (tuned.job.out, tmp_path):
        events = {path.parent.name for path in (out / "kiosk.search.logs").rglob("events.out.tfevents.*")}
        assert events == {"finetune", "train-static-8w-150v-4"}


@pytest.mark.slow
def test_the_costs_of_a_search_name_every_stage_with_its_memory(tuned_found: Found, tuned: Order) -> None:
    write_search_report(tuned_found, tuned.job.out)
    costs = json.loads((tuned.job.out / "kiosk.search.json").read_text(encoding="utf-8"))["costs"]
    made = {cost["stage"] for cost in costs}
    assert {"finetune", "train-static-8w-150v-4", "static-8w-150v: quantize-onnx-int8", "pack: export-onnx"} <= made
    assert all(cost["peak_rss_mib"] > 0 and cost["seconds"] > 0 for cost in costs)
    assert "peak_gpu_mib" in costs[0]


@pytest.mark.slow
def test_a_teacher_of_mostly_zeros_is_as_large_and_a_smaller_download(order: Order) -> None:
    names = ("pruned-1l", "pruned-1l-95s")
    job = replace(order.job, name="sparse")
    found = search(replace(order, job=job, students=names, rungs=(8,), trials=2), Lines())
    figures = {point["choice"]: point["figures"] for one in to_plain(found)["tried"] for point in one["points"]}
    whole, sparse = (figures[name] for name in names)
    assert sparse["size"] == pytest.approx(whole["size"], rel=0.15)
    assert sparse["download"] < 0.7 * whole["download"]


@pytest.mark.slow
def test_a_budget_that_cannot_be_met_names_the_nearest_and_their_cost(found: Found, order: Order) -> None:
    strict = replace(order, budget=parse_budget("p95<=0.001ms, drop<=100"), job=replace(order.job, name="strict"))
    failed = search(strict, Lines())
    assert failed.chosen is None
    with pytest.raises(BudgetError, match=r"the nearest: .* as onnx-int8 misses p95 .* ms, bound 0\.001 ms"):
        require_found(failed)
    assert not (order.job.out / "strict.bundle").exists()
    assert "nearest" in summary(failed)


@pytest.mark.slow
def test_a_student_too_large_for_the_budget_is_refused_before_it_learns(order: Order) -> None:
    small = replace(order, budget=parse_budget("size<=2kB"), job=replace(order.job, name="small"), trials=1)
    (tried,) = search(small, Lines()).tried
    assert tried.state == "refused"
    assert "more than the budget's size" in tried.reason
    assert tried.rungs == {}


def test_data_too_small_to_compare_on_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    rows = [f"buy {n},buy,train\nhow much is {n},ask,train\n" for n in range(30)] + ["a b,buy,dev\n", "c d,ask,test\n"]
    (tmp_path / "few.csv").write_text("text,label,split\n" + "".join(rows))
    job = Job(str(make_checkpoint("bert")), "x86-64", tmp_path, data=tmp_path / "few.csv", cache=tmp_path / "cache")
    with pytest.raises(DataError, match="dev split has 1 texts"):
        search(Order(job, parse_budget("drop<=1")), Lines())


def test_rows_that_name_several_labels_are_refused_before_any_work(make_checkpoint: Make, tmp_path: Path) -> None:
    rows = "".join(f"text {n},{'late|broken' if n % 2 else 'late'},{'dev' if n % 3 else 'train'}\n" for n in range(60))
    (tmp_path / "sets.csv").write_text("text,label,split\n" + rows)
    job = Job(str(make_checkpoint("bert")), "x86-64", tmp_path, data=tmp_path / "sets.csv", cache=tmp_path / "cache")
    with pytest.raises(DataError, match="one label a text"):
        search(Order(job, parse_budget("drop<=1")), Lines())


def test_a_search_without_data_asks_for_it(make_checkpoint: Make, tmp_path: Path) -> None:
    job = Job(str(make_checkpoint("bert")), "x86-64", tmp_path, cache=tmp_path / "cache")
    with pytest.raises(DataError, match="give them with --data"):
        search(Order(job, parse_budget("drop<=1")), Lines())


class _OneMeasure:
    """Steps whose student is measured as `onnx-int8` and as nothing else."""

    teacher = data = Output(Path(), {}, "", is_cached=False)

    def __init__(self, student: Output) -> None:
        self._student = student

    def judged_by(self) -> list[object]:
        return []

    def build(self, choice: Choice) -> Output:
        return self._student

    def measure(self, choice: str, student: Output, variants: tuple[str, ...]) -> Judged:
        if variants != ("onnx-int8",):
            raise ConversionError("the disk is full")
        checkpoint = str(student.folder / "checkpoint")
        return Judged((replace(SMALL, choice=choice, checkpoint=checkpoint, digest=student.digest),))


def test_a_student_that_cannot_be_refined_keeps_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student/stage.json").write_text('{"result": {}, "files": {}}')
    student = recall(tmp_path / "student")
    assert student is not None
    job = Job("x", "x86-64", tmp_path, cache=tmp_path)
    wanted = {"variants": ("onnx-int8",), "refined": ("onnx-fp16",)}
    order = Order(job, parse_budget("drop<=1"), students=("pruned",), augmented=(False,), trials=1, **wanted)
    study = Study(order, cast(Steps, _OneMeasure(student)))
    study.enqueue()
    study.work()
    study.refine()
    (tried,) = study.tried()
    assert [point.variant for point in tried.points] == ["onnx-int8"]
    assert tried.lost == {"onnx-fp16": "the disk is full"}


@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_as_if_nothing_had_happened(
    found: Found, order: Order, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(
        f'checkpoint = "{order.job.checkpoint}"\ndata = "{order.job.data}"\ntarget = "x86-64"\nname = "kiosk"\n'
        'max_length = 32\nvariants = ["onnx-int8"]\nbudget = "drop<=100, size<=1MB"\n'
        '[search]\nstudents = ["static-16w-200v", "pruned-1l"]\naugmented = [false]\nrungs = [4, 8]\ntrials = 2\n'
    )
    command = [sys.executable, "-m", "doorstep.cli.main", "convert", str(tmp_path / "recipe.toml"),
               "--cache", str(tmp_path / "cache"), "--json"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    journal = _wait_for_journal(tmp_path / "cache")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert journal.is_file()
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    plain = json.loads(done.stdout)
    assert {tried["choice"] for tried in plain["tried"]} == {tried.choice for tried in found.tried}
    assert any(cost["is_kept"] for cost in plain["costs"])


def _wait_for_journal(cache: Path) -> Path:
    for _ in range(3000):
        for journal in (cache / "search").glob("*.journal"):
            if "student" in journal.read_text(encoding="utf-8", errors="replace"):
                return journal
        time.sleep(0.1)
    raise AssertionError("no search began")


def test_the_line_of_the_picture_climbs_from_the_quickest_to_the_most_accurate() -> None:
    points = [*ALL, _point("slower", 0.4, 0.7, 1e5)]
    assert best_by_latency(points) == [
        (p.figures["p95"], p.figures["accuracy"]) for p in (TINY, SMALL, LARGE)
    ]  # fmt: skip


def test_the_page_numbers_the_candidates_and_lists_a_kept_stage_once(tmp_path: Path) -> None:
    tried = tuple(Tried(point.choice, "measured", points=(point,)) for point in ALL)
    made, kept = Cost("teach", 3.0, 90.0, is_kept=False), Cost("teach", 3.0, 90.0, is_kept=True)
    reference = {"bytes": 9e7, "p50_ms": 20.0, "accuracy": 0.9}
    found = Found(
        "kiosk", "x86-64", parse_budget("p95<=1ms"), SMALL, tried, tuple(pareto(ALL)), {}, None, reference,
        (made, kept, made, kept), 0.5,
    )  # fmt: skip
    page = write_search_report(found, tmp_path).read_text(encoding="utf-8")
    names = [f"<td>{number}<td>{one.choice}<" for number, one in enumerate((SMALL, TINY, POOR, LARGE), 1)]
    places = [page.index(name) for name in names]
    assert places == sorted(places)
    assert page.count("<td>teach<td>") == 2
    assert "<td>from before" not in page
