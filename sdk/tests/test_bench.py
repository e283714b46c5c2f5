"""`doorstep bench`: figures from fresh processes, as table, JSON and page."""

import json
import os
import re
import shlex
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from doorstep.bench import Benched, BenchReport, Latency, Setup, Throughput, bench
from doorstep.bench_page import page
from doorstep.bench_tables import tables
from doorstep.cli.main import main
from doorstep.cli.progress import Progress
from doorstep.energy import NOT_TOLD, EnergyMeter, find_power_sensor, read_energy, spent_mj
from doorstep.manifest import Board
from doorstep.origin import Origin
from doorstep.svg import Bar, Line, bars, lines

Capture = pytest.CaptureFixture[str]
SHORT = ("--iterations", "3", "--threads", "1", "--batch", "4")


def benched(variant: str, **changes: Any) -> Benched:
    values: dict[str, Any] = {
        "latencies": (Latency(1, 2.0, 3.0, 4.0, 0.5, None), Latency(2, 1.5, 2.0, 3.0, 0.5, 12.0)),
        "throughputs": tuple(Throughput(t, b, 100.0 * t * b, 80.0 + b) for t in (1, 2) for b in (1, 8)),
        "rss_mib": {"interpreter": 10.0, "numpy": 30.0, "doorstep": 28.0, "load": 60.0, "first predict": 61.0},
        "peak_rss_mib": 62.0,
        "cold_starts_ms": (300.0, 310.0, 400.0),
    }
    return Benched(variant, "onnxruntime 1.20", **{**values, **changes})


def report_of(*variants: Benched, is_emulated: bool = False) -> BenchReport:
    board = Board("aarch64", "评价 <CPU> & more", ("asimd",), is_emulated)
    origin = Origin(board, "", 4, "Linux", "3.11", "0.1", {"onnxruntime": "1.20"}, "reviews 1", "abc", "now", "c0ffee")
    setup = Setup("reviews.bundle", "love it", ("love it",) * 200, (1, 2), (1, 8), cold_starts=3)
    return BenchReport(origin, setup, "200 items", "doorstep bench reviews.bundle", variants)


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall("<svg.*?</svg>", text, re.DOTALL)]


def test_every_figure_is_taken(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    page_file = tmp_path / "report.html"
    options = [*SHORT, "--variant", "onnx-fp32", "--cold", "--starts", "2", "--html", str(page_file), "--json"]
    assert main(["bench", str(bundle), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    found = report["variants"][0]
    assert found["failures"] == []
    assert found["latencies"][0].keys() == {"threads", "p50_ms", "p95_ms", "p99_ms", "iqr_ms", "energy_mj"}
    assert [(t["threads"], t["batch"]) for t in found["throughputs"]] == [(1, 4)]
    assert list(found["rss_mib"]) == ["interpreter", "numpy", "doorstep", "load", "first predict"]
    assert len(found["cold_starts_ms"]) == 2
    assert report["setup"]["items"] == 200
    assert report["command"] in page_file.read_text()


def test_the_command_measures_the_same_again(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "texts with space.txt").write_text("love it\n\n配送很快\n")
    cpu, texts = str(min(os.sched_getaffinity(0))), str(tmp_path / "texts with space.txt")
    options = [*SHORT, "--variant", "onnx-int8", "--text-file", texts, "--cpu", cpu]
    assert main(["bench", str(bundle), *options, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert "(2 lines of texts with space.txt, repeated)" in first["items"]
    assert main([*shlex.split(first["command"])[1:], "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert (second["command"], second["setup"]) == (first["command"], first["setup"])


def test_what_fails_is_told_and_the_rest_is_measured(bundle: Path) -> None:
    setup = Setup(str(bundle), "love it", ("love it", None), batches=(1,), iterations=2, warmup=0)
    found = bench(setup, "onnx-fp32", "onnxruntime 1.20")
    assert found.latencies
    assert found.throughputs == ()
    assert "InputError: item 1" in found.failures[0]


def test_a_failure_is_exit_code_1_and_printed(tmp_path: Path, make_bundle: Any, capsys: Capture) -> None:
    golden = {"format": 1, "examples": [{"item": "love it", "expected": {}}], "tolerances": {}}
    files = {"golden.json": json.dumps(golden).encode(), "variants/onnx-fp32/model.onnx": b"no model"}
    folder = make_bundle(tmp_path / "b", files=files)
    assert main(["bench", str(folder), *SHORT, "--variant", "onnx-fp32"]) == 1
    assert "failed   onnx-fp32: the measuring process failed" in capsys.readouterr().out


def test_a_bundle_without_examples_needs_texts(tmp_path: Path, make_bundle: Any, capsys: Capture) -> None:
    assert main(["bench", str(make_bundle(tmp_path / "b"))]) == 1
    assert "--text-file" in capsys.readouterr().err


@pytest.mark.parametrize("data, message", [(b"\n \n", "one text a line"), (b"\xff", "UTF-8")])
def test_a_text_file_that_cannot_be_used_is_one_line(
    bundle: Path, tmp_path: Path, capsys: Capture, data: bytes, message: str
) -> None:
    (tmp_path / "texts.txt").write_bytes(data)
    assert main(["bench", str(bundle), "--text-file", str(tmp_path / "texts.txt")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--threads", "0"],
        ["--threads", "1,"],
        ["--batch", "a"],
        ["--cpu", "100000"],
        ["--cpu", "-1"],
        ["--starts", "0"],
    ],
)
def test_wrong_usage_is_exit_code_2(capsys: Capture, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "bundle", *options])
    assert caught.value.code == 2


def test_tables_leave_out_what_was_not_measured() -> None:
    whole = tables(report_of(benched("onnx-int8")))
    part = tables(report_of(benched("onnx-int8", cold_starts_ms=(), throughputs=())))
    assert [len(table.rows) for table in whole] == [2, 2, 1, 1]
    assert [table.title.split()[0] for table in part] == ["Latency", "Resident"]
    assert [row[-1] for row in whole[0].rows] == [None, "12"]
    assert all(len(row) == len(table.head) for table in whole for row in table.rows)


def test_energy_is_no_column_where_no_board_tells() -> None:
    silent = tables(report_of(benched("onnx-int8", latencies=(Latency(1, 2.0, 3.0, 4.0, 0.5, None),))))[0]
    assert silent.title.endswith(f"energy: {NOT_TOLD}")
    assert silent.head[-1] == "IQR"
    assert len(silent.rows[0]) == len(silent.head)


def test_the_page_needs_nothing_from_outside_and_says_where_it_comes_from() -> None:
    text = page(report_of(benched("onnx-fp32"), benched("onnx-int8")))
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", text)
    for fact in ("评价 &lt;CPU&gt; &amp; more", "asimd", "onnxruntime 1.20", "now", "c0ffee", "doorstep bench reviews"):
        assert fact in text
    assert len(pictures(text)) == 5
    assert "Emulated" not in text
    assert "Emulated" in page(report_of(benched("onnx-int8"), is_emulated=True))


def test_a_page_of_failures_is_still_a_page() -> None:
    nothing: dict[str, Any] = {"latencies": (), "throughputs": (), "rss_mib": {}, "cold_starts_ms": ()}
    text = page(report_of(benched("onnx-int8", **nothing, peak_rss_mib=None, failures=("killed by SIGILL <1>",))))
    assert "killed by SIGILL &lt;1&gt;" in text
    assert pictures(text) == []


def widths(text: str) -> list[float]:
    return [float(shape.get("width") or 0) for shape in ElementTree.fromstring(text).iter("rect")]


def test_bars_are_as_long_as_their_figures() -> None:
    one, two = widths(bars("p50", [Bar("a", (1.0,)), Bar("b", (2.0,))]))
    assert two == pytest.approx(2 * one, abs=0.2)


def test_parts_are_laid_end_to_end() -> None:
    text = bars("memory", [Bar("a", (1.0, 3.0))], ("first", "second"))
    rects = [shape for shape in ElementTree.fromstring(text).iter("rect") if shape.get("height") != "11"]
    first, second = ([float(rect.get(name) or 0) for name in ("x", "width")] for rect in rects)
    assert sum(first) == pytest.approx(second[0], abs=0.2)


@pytest.mark.parametrize("end", [9.9, 0.0], ids=["at the top", "at the bottom"])
def test_labels_of_curves_never_lie_on_one_another(end: float) -> None:
    curves = [Line(f"variant {number}", ((1, 10.0), (8, end + number / 1000))) for number in range(10)]
    picture = ElementTree.fromstring(lines("throughput", curves, "batch"))
    heights = sorted(float(t.get("y") or 0) for t in picture.iter("text") if (t.text or "").startswith("variant"))
    assert min(after - before for before, after in pairwise(heights)) >= 14.9
    assert heights[0] > 20
    assert heights[-1] < float((picture.get("viewBox") or "").split()[3])


@pytest.mark.parametrize("values", [(0.0,), (1e-9, 1e9), (5.0, 5.0)])
def test_plots_of_odd_figures_are_well_formed(values: tuple[float, ...]) -> None:
    text = bars("odd", [Bar("名<称>", (value,)) for value in values])
    text += lines("odd", [Line("名", tuple((2.0**place, value) for place, value in enumerate(values)))], "x")
    assert "nan" not in text
    assert len(pictures(text)) == 2


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A board with one package and a part of it."""
    for name, energy in (("intel-rapl:0", 1000), ("intel-rapl:0:0", 400), ("intel-rapl:1", None)):
        folder = tmp_path / "sys/class/powercap" / name
        folder.mkdir(parents=True)
        (folder / "max_energy_range_uj").write_text("5000\n")
        if energy is not None:
            (folder / "energy_uj").write_text(f"{energy}\n")
    return tmp_path


def test_energy_is_that_of_whole_packages(board: Path) -> None:
    assert read_energy(board) == {"intel-rapl:0": 1000}
    assert spent_mj({"intel-rapl:0": 1000}, {"intel-rapl:0": 4000}, board) == 3.0


def test_a_counter_that_began_again_is_read_rightly(board: Path) -> None:
    assert spent_mj({"intel-rapl:0": 4500}, {"intel-rapl:0": 500}, board) == 1.0


def test_a_board_without_counters_tells_nothing(tmp_path: Path) -> None:
    assert read_energy(tmp_path) == {}
    assert spent_mj({}, {}, tmp_path) is None
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.spent_mj is None


def sensors(root: Path, name: str, files: dict[str, str]) -> Path:
    folder = root / "sys/class/hwmon/hwmon3"
    folder.mkdir(parents=True)
    for file, text in {"name": name, **files}.items():
        (folder / file).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("name", "files", "watts"),
    [
        ("ina226", {"power1_input": "2500000"}, 2.5),
        ("ina3221", {"in1_input": "5000", "curr1_input": "400", "in2_input": "5000", "curr2_input": "100"}, 2.5),
        (
            "ina3221",
            {"in1_input": "5000", "curr1_input": "400", "in1_label": "VDD_IN", "in2_input": "5000", "curr2_input": "9"},
            2.0,
        ),
    ],
    ids=["one sensor", "rails are added", "the rail that feeds the others"],
)
def test_a_sensors_power_is_read_in_watts(tmp_path: Path, name: str, files: dict[str, str], watts: float) -> None:
    read = find_power_sensor(sensors(tmp_path, name, files))
    assert read is not None
    assert read() == pytest.approx(watts)


@pytest.mark.parametrize(("name", "files"), [("coretemp", {"power1_input": "1"}), ("ina226", {"power1_input": "?"})])
def test_other_sensors_tell_no_power(tmp_path: Path, name: str, files: dict[str, str]) -> None:
    assert find_power_sensor(sensors(tmp_path, name, files)) is None


def test_a_sampled_sensors_energy_is_power_over_time(tmp_path: Path) -> None:
    root = sensors(tmp_path, "ina226", {"power1_input": "1000000"})
    start = time.monotonic()
    with EnergyMeter(root) as meter:
        time.sleep(0.1)
    most_mj = 1e3 * (time.monotonic() - start)
    assert meter.spent_mj is not None
    assert 0 < meter.spent_mj <= most_mj


def test_progress_is_silent_where_nobody_looks(capsys: Capture) -> None:
    with Progress() as progress:
        progress("onnx-int8")
    assert capsys.readouterr().err == ""


def test_progress_counts_and_wipes_its_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress() as progress:
        progress("onnx-fp32")
        progress("onnx-int8")
    err = capsys.readouterr().err
    assert "2  onnx-int8 …" in err
    assert err.endswith("\r\x1b[K")
