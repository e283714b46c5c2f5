"""A search whose choices are tried by processes of a Ray cluster that begins on this machine."""

import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from doorstep.errors import ConversionError, MissingExtraError
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.budget import parse_budget
from doorstep_converters.job import Job, Training
from doorstep_converters.progress import Lines
from doorstep_converters.search.executor import absolute, work_elsewhere
from doorstep_converters.search.front import Point
from doorstep_converters.search.order import Order
from doorstep_converters.search.run import search, work

Make = Callable[[str], Path]


@pytest.fixture
def order(make_checkpoint: Make, reviews: Path, tmp_path: Path) -> Order:
    rows = [
        f'{line.rpartition(",")[0][:-1]}{ending}",{line.rpartition(",")[2]}'
        for line in reviews.read_text(encoding="utf-8").splitlines()[1:]
        for ending in ("", " now", " 谢谢")
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    job = Job(
        str(make_checkpoint("bert")), "x86-64", tmp_path / "out", data=tmp_path / "rows.csv", cache=tmp_path / "cache",
        max_length=32, name="kiosk",
    )  # fmt: skip
    return Order(
        job, parse_budget("drop<=100"), students=("static-16w-200v", "static-8w-150v"), augmented=(False,), rungs=(6,),
        trials=2, variants=("onnx-int8",),
    )  # fmt: skip


@pytest.mark.slow
def test_workers_find_the_front_that_a_search_on_one_machine_finds(
    order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)  # a cache that is named from here is one that workers find as well
    order = replace(order, job=replace(order.job, cache=Path("shared"), out=Path("together")))
    together = search(replace(order, workers=2), Lines())
    assert {tried.choice for tried in together.tried} == {choice.name for choice in order.choices()}
    assert together.front
    hosts = [path for path in Path("together").iterdir() if path.name.startswith(f"kiosk.{socket.gethostname()}-")]
    assert len(hosts) == 2  # a folder of logs each
    made = [cost.stage for cost in together.costs if cost.stage.startswith("train-") and not cost.is_kept]
    assert sorted(made) == [f"train-{choice.name}-6" for choice in sorted(order.choices(), key=lambda c: c.name)]
    for journal in Path("shared/search").glob("*.journal"):
        journal.unlink()  # so that it is searched anew, from the stages that the workers made
    alone = search(order, Lines())
    assert all(cost.is_kept for cost in alone.costs)
    assert _by_name(alone.front) == _by_name(together.front)
    assert _by_name(alone.points) == _by_name(together.points)


def _by_name(points: Sequence[Point]) -> dict[str, Point]:
    return {point.name: point for point in points}


def test_a_worker_that_does_not_share_the_cache_says_so(order: Order, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"none; workers need --cache on a file system that all machines have"):
        work(order, Lines(), tmp_path / "elsewhere" / "x.journal", 0)
    assert not (tmp_path / "cache").exists()


def test_a_worker_that_would_keep_another_journal_says_so(order: Order, tmp_path: Path) -> None:
    journal = tmp_path / "cache/search/of-other-versions.journal"
    journal.parent.mkdir(parents=True)
    journal.touch()
    with pytest.raises(ConversionError, match=r"of-other-versions.journal, got .* need the same doorstep"):
        work(order, Lines(), journal, 0)
    assert list(journal.parent.glob("*.journal")) == [journal]


def test_a_worker_is_told_every_path_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bert", "teacher", "generator", "there"):
        Path(name).mkdir()
    for name in ("rows.csv", "more.txt", "brands.txt", "synonyms.txt"):
        Path(name).touch()
    augment = AugmentPlan(
        ("brand",), lexicon="synonyms.txt", brands="brands.txt", generator="generator", there="there", back="hub/back",
        teacher="teacher",
    )  # fmt: skip
    job = Job(
        "bert", "x86-64", Path("out"), data=Path("rows.csv"), cache=Path("cache"), unlabelled=Path("more.txt"),
        training=Training(teacher="teacher"), augment=augment,
    )  # fmt: skip
    told = absolute(Order(job, parse_budget("drop<=1"))).job
    here = str(tmp_path)
    assert (told.checkpoint, told.training.teacher) == (f"{here}/bert", f"{here}/teacher")
    assert [told.out, told.data, told.cache, told.unlabelled] == [
        tmp_path / name for name in ("out", "rows.csv", "cache", "more.txt")
    ]
    assert told.augment == AugmentPlan(
        ("brand",), lexicon=f"{here}/synonyms.txt", brands=f"{here}/brands.txt", generator=f"{here}/generator",
        there=f"{here}/there", back="hub/back", teacher=f"{here}/teacher",
    )  # fmt: skip


@pytest.mark.slow
def test_what_ends_a_worker_is_told_in_one_line(order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        ConversionError, match=r"search: a worker on the Ray cluster failed: .*expected the search's"
    ) as told:
        work_elsewhere(replace(order, workers=1), tmp_path / "elsewhere" / "x.journal")
    assert "\n" not in str(told.value)


def test_without_ray_the_error_says_what_to_install(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'doorstep-converters\[ray\]'"):
        search(replace(order, workers=1), Lines())
    assert not order.job.cache.exists()
