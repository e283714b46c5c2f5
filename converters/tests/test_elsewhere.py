"""Candidates measured on a device over ssh; here `ssh` is a program that runs the command on this machine."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from doorstep.bundle import Bundle
from doorstep.errors import ConversionError, UsageError
from doorstep_converters.budget import parse_budget
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.data import DataSet
from doorstep_converters.job import Job, Report
from doorstep_converters.pipeline import convert, workbench
from doorstep_converters.progress import Lines
from doorstep_converters.search.elsewhere import Place, arch_of, measure
from doorstep_converters.search.figures import Meter
from doorstep_converters.search.order import Order
from doorstep_converters.search.run import search
from doorstep_converters.search.steps import Steps
from doorstep_converters.stages import Output
from doorstep_converters.worker import Channel

VARIANT = "onnx-fp16"
SSH = """#!/bin/sh
# drops what ssh would use itself; what is left is the command
while [ "$1" != "--" ]; do shift; done
echo "$2" > "$HERE/host"
cd "$HERE/home" && exec sh -c "$3"
"""


@pytest.fixture(scope="module")
def tiny_bundle(make_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    out = tmp_path_factory.mktemp("out")
    job = Job(str(make_checkpoint("bert")), "x86-64", out, cache=cache, name="tiny", variants=(VARIANT,), max_length=32)
    convert(job, Lines())
    return out / "tiny.bundle"


@pytest.fixture
def channel() -> Channel:
    return Channel(sys.stderr)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an `ssh` on the path that reaches a device whose home is `here/home`."""
    (tmp_path / "home").mkdir()
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin/ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    doorstep = tmp_path / "bin/doorstep"
    doorstep.write_text(f'#!/bin/sh\nexec {sys.executable} -m doorstep.cli.main "$@"\n')
    doorstep.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("text", ["", ":doorstep", "-oProxyCommand=x", "a b"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected user@board"):
        Place.from_text(text)


def test_a_command_that_no_shell_would_find_is_refused() -> None:
    with pytest.raises(UsageError, match=r"got 'clerk@board:~/venv/bin/doorstep'; give its full path"):
        Place.from_text("clerk@board:~/venv/bin/doorstep")


def test_a_device_tells_its_architecture(here: Path) -> None:
    assert arch_of(Place.from_text(f"clerk@board:{here}/bin/doorstep")) == os.uname().machine
    assert (here / "host").read_text() == "clerk@board\n"


def test_a_variant_is_measured_there_and_nothing_stays(here: Path, tiny_bundle: Path, channel: Channel) -> None:
    figures = measure(here, channel, "clerk@board", str(tiny_bundle), VARIANT)
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] < figures["cold_start_ms"]
    assert figures["device_rss_mib"] > 1
    assert list((here / "home").iterdir()) == []


@pytest.mark.parametrize(
    ("place", "variant", "message"),
    [
        ("board:/nowhere/doorstep", VARIANT, "exit code 127.*try: ssh board /nowhere/doorstep doctor"),
        ("board:/bin/echo", VARIANT, "expected JSON, got"),
        ("board", "onnx-fp99", "exit code 1"),
    ],
)
def test_a_device_that_cannot_measure_says_why(
    here: Path, tiny_bundle: Path, channel: Channel, place: str, variant: str, message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        measure(here, channel, place, str(tiny_bundle), variant)


def test_a_search_measures_its_candidates_there(
    here: Path, make_checkpoint: Callable[[str], Path], reviews: Path, cache: Path
) -> None:
    head, *lines = reviews.read_text(encoding="utf-8").splitlines()
    more = [line.replace('",', f'{ending}",') for ending in ("", " now", " 谢谢") for line in lines]
    (here / "plenty.csv").write_text("\n".join([head, *more]) + "\n", encoding="utf-8")
    job = Job(str(make_checkpoint("bert")), "x86-64", here / "o", data=here / "plenty.csv", cache=cache, max_length=32)
    order = Order(
        job, parse_budget("drop<=100, p95<=10s"), students=("static-16w-200v",), augmented=(False,), rungs=(4,),
        trials=1, variants=(VARIANT,), measure_on="clerk@board",
    )  # fmt: skip
    found = search(order, Lines())
    assert found.chosen is not None
    assert found.chosen.latency == "measured on clerk@board"
    assert (here / "host").read_text() == "clerk@board\n"
    with pytest.raises(UsageError, match="target arm64 needs aarch64, that device is x86_64"):
        search(replace(order, job=replace(job, target="arm64")), Lines())


def test_a_variant_that_the_device_cannot_measure_is_lost_alone(
    here: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = f"""test "$1" != doctor || {{ echo '{{"arch": "{os.uname().machine}"}}'; exit; }}"""
    (here / "bin/doorstep").write_text(f"#!/bin/sh\n{doctor}\necho no such engine >&2\nexit 1\n")
    manifest = Bundle.open(tiny_bundle).manifest
    report = Report("tiny", "x86-64", tiny_bundle, manifest, (), {}, {}, {}, {})
    monkeypatch.setattr(Steps, "convert", lambda *given: report)
    job = Job("x", "x86-64", here / "out", cache=here / "cache")
    place = f"clerk@board:{here}/bin/doorstep"
    with workbench(job, "steps", Lines()) as bench:
        order, meter = Order(job, parse_budget("drop<=1")), Meter("x86-64", place, None)
        steps = Steps(order, bench, Lines(), cast(DataSet, None), cast(Checkpoint, None), {}, meter)
        judged = steps.measure("static", Output(here, {}, "", is_cached=False), (VARIANT,))
        assert judged.points == ()
        assert "measure-on clerk@board: exit code 1: no such engine" in judged.lost[VARIANT]
        (here / "bin/doorstep").unlink()
        with pytest.raises(UsageError, match="goes on from here once it answers"):
            steps.measure("static", Output(here, {}, "", is_cached=False), (VARIANT,))
