"""The result of a convert: a table on the terminal, JSON for machines, an HTML page with pictures."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from doorstep.cli.output import mib, table
from doorstep.files import write_atomic
from doorstep_converters.job import Candidate, Report

_FIGURES = (
    ("bytes", "size (MiB)", 1 << 20),
    ("p50_ms", "p50 (ms)", 1),
    ("p95_ms", "p95 (ms)", 1),
    ("agreement", "agreement", 1),
    ("peak_rss_mib", "peak RSS (MiB)", 1),
    ("cold_start_ms", "cold start (ms)", 1),
)
_COLOURS = {"onnx": "#2b6cb0", "openvino": "#6b46c1", "tflite": "#c05621", "numpy": "#2f855a"}


def summary(report: Report) -> str:
    """Return the table for the terminal."""
    columns = (
        "variant",
        "size",
        "agreement",
        "max error",
        "accuracy",
        "p50 ms",
        "p95 ms",
        "cold ms",
        "RSS MiB",
        "verdict",
    )
    rows = [_row(candidate) for candidate in report.candidates]
    lines = [table(columns, rows), ""]
    lines += [f"{name}: {note}" for name, note in notes(report)]
    lines += [f"not tried  {name}: {reason}" for name, reason in report.excluded.items()]
    for kind, choice in report.choices.items():
        lines.append(f"{kind:<27} would choose {choice}")
    if report.bundle:
        lines.append(f"bundle  {report.bundle}")
    return "\n".join(lines)


def to_plain(report: Report) -> dict[str, Any]:
    """Return the report as plain data."""
    moved = travels(report)
    peaks = {c.stage: {"peak_rss_mib": c.peak_rss_mib, "peak_gpu_mib": c.peak_gpu_mib} for c in report.costs}
    return {
        "name": report.name,
        "target": report.target,
        "bundle": str(report.bundle) if report.bundle else None,
        "candidates": [
            {
                "variant": candidate.plan.name,
                "recipe": candidate.plan.recipe,
                "is_packed": not candidate.failure,
                "reason": candidate.failure,
                "parity": asdict(candidate.parity) if candidate.parity else None,
                "measured": asdict(candidate.measured) if candidate.measured else None,
                "seconds": round(candidate.seconds, 1),
                "notes": candidate.notes,
                "fetched_bytes": moved.get(candidate.plan.name, (None,))[0],
            }
            for candidate in report.candidates
        ],
        "excluded": report.excluded,
        "choices": report.choices,
        "stages": {
            name: {"seconds": round(s, 1), "is_kept": kept, **peaks.get(name, {})}
            for name, (s, kept) in report.stages.items()
        },
        "provenance": report.provenance,
    }


def travels(report: Report) -> dict[str, tuple[int, int]]:
    """Map each variant that a device may fetch in a smaller form to the bytes fetched and the bytes installed."""
    manifest = report.manifest
    entries = {entry.path: entry for entry in manifest.files} if manifest else {}
    found = {}
    for variant in manifest.variants if manifest else ():
        files = [entries[path] for path in variant.files]
        moved = sum(entry.packed.size if entry.packed else entry.size for entry in files)
        held = sum(entry.size for entry in files)
        if moved < held:
            found[variant.name] = (moved, held)
    return found


def write_report(report: Report, out: Path) -> Path:
    """Write `<name>.report.html` and `.json`; return the page."""
    plain = to_plain(report)
    data = json.dumps(plain, ensure_ascii=False, indent=2).encode()
    write_atomic(out / f"{report.name}.report.json", data + b"\n")
    environment = Environment(loader=PackageLoader("doorstep_converters", "templates"), autoescape=True)
    page = environment.get_template("report.html").render(
        report=report,
        notes=notes(report),
        rows=[_row(candidate) for candidate in report.candidates],
        pictures=_pictures(report),
    )
    path = out / f"{report.name}.report.html"
    write_atomic(path, page.encode())
    return path


def notes(report: Report) -> list[tuple[str, str]]:
    """Return what is particular about a variant: its name and a sentence."""
    found = [(one.plan.name, one.notes) for one in report.candidates if one.notes]
    for one in report.candidates:
        judged = one.measured or one.parity
        if judged is not None and judged.recall_at_10 is not None:
            found.append(
                (one.plan.name, f"recall@10 {judged.recall_at_10:.4f} beside {judged.metric} in accuracy's place")
            )
    sizes = travels(report).items()
    return found + [(name, f"{mib(moved)} fetched, {mib(held)} installed") for name, (moved, held) in sizes]


def _row(candidate: Candidate) -> list[object]:
    parity, m = candidate.parity, candidate.measured
    verdict = "packed" if not candidate.failure else f"left out: {candidate.failure[:120]}"
    answers: list[object] = [None, None, None]
    if parity:
        accuracy = m.accuracy if m else parity.accuracy
        answers = [_digits(parity.agreement, 4), _digits(parity.max_abs_error, 4), _digits(accuracy, 4)]
    if m is None:
        return [candidate.plan.name, None, *answers, None, None, None, None, verdict]
    times = [_digits(m.p50_ms, 2), _digits(m.p95_ms, 2), _digits(m.cold_start_ms, 0), _digits(m.peak_rss_mib, 0)]
    return [candidate.plan.name, mib(m.bytes), *answers, *times, verdict]


def _digits(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _pictures(report: Report) -> list[Markup]:
    packed = [candidate for candidate in report.candidates if candidate.measured]
    return [_bars(packed, *figure) for figure in _FIGURES] if packed else []


def _label(value: float, is_share: bool) -> str:
    """Return a figure with the digits that tell a tiny model from a small one."""
    return f"{value:.4f}" if is_share else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _bars(packed: list[Candidate], name: str, title: str, unit: float) -> Markup:
    """Draw one bar a variant as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 0.6 + 0.32 * len(packed)), layout="constrained")
    axes = figure.subplots()
    names = [candidate.plan.name for candidate in packed]
    values = [float(getattr(candidate.measured, name) or 0) / unit for candidate in packed]
    bars = axes.barh(names, values, color=[_COLOURS.get(candidate.plan.runtime, "#4a5568") for candidate in packed])
    axes.bar_label(bars, labels=[_label(value, name == "agreement") for value in values], padding=3, fontsize=8)
    if name == "agreement":
        axes.set_xlim(min(0.98, *values) - 0.002, 1.002)
    else:
        axes.set_xlim(0, max(values) * 1.18)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 -- drawn here, from numbers and variant names
