"""What came of a search: a ranked table, JSON, and an HTML page with the Pareto picture."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from doorstep.cli.output import table
from doorstep.files import write_atomic
from doorstep_converters.budget import show
from doorstep_converters.job import Cost
from doorstep_converters.search.front import Point, nearest
from doorstep_converters.search.latency import modelled_on
from doorstep_converters.search.run import Found

_COLUMNS = ("size", "download", "p50", "p95", "rss", "accuracy", "drop", "agreement", "worst_class", "slice_gap",
            "noise_drop", "ece")  # fmt: skip
HEAD = ("candidate", "variant", *_COLUMNS, "verdict")


def summary(found: Found) -> str:
    """Return the ranked table for the terminal, and what was stopped, refused or failed."""
    lines = [table(HEAD, rows(found)), ""]
    lines += [f"{one.state:<8}  {one.choice}: {one.reason}" for one in found.tried if one.state != "measured"]
    lines += [f"not made  {one.choice} as {name}: {reason}" for one in found.tried for name, reason in one.lost.items()]
    lines.append(f"teacher   {_teacher(found)}")
    lines.append(f"stages    {_total(found.costs, found.price_per_hour)}")
    if found.chosen is None:
        for point in nearest(found.points, found.budget):
            lines.append(f"nearest   {point.name} misses {' and '.join(found.budget.misses(point.figures))}")
    else:
        lines.append(f"chosen    {found.chosen.name}: {_gain(found)}")
    if found.report and found.report.bundle:
        lines.append(f"bundle    {found.report.bundle}")
    return "\n".join(lines)


def rows(found: Found) -> list[list[object]]:
    """Return one row a point: the chosen one, then the rest of the front, then the others."""
    front = {point.name for point in found.front}
    return [
        [point.choice, point.variant, *(_cell(point, name) for name in _COLUMNS), _verdict(point, found, front)]
        for point in _ranked(found)
    ]


def to_plain(found: Found) -> dict[str, Any]:
    """Return the search as plain data."""
    return {
        "name": found.name,
        "target": found.target,
        "budget": str(found.budget),
        "chosen": asdict(found.chosen) if found.chosen else None,
        "bundle": str(found.report.bundle) if found.report and found.report.bundle else None,
        "front": [point.name for point in found.front],
        "tried": [asdict(one) for one in found.tried],
        "gates": {name: asdict(gates) for name, gates in found.gates.items()},
        "teacher": found.reference,
        "costs": [{**asdict(cost), "money": _money(cost, found.price_per_hour)} for cost in found.costs],
    }


def write_search_report(found: Found, out: Path) -> Path:
    """Write `<name>.search.html` and `.json`; return the page."""
    out.mkdir(parents=True, exist_ok=True)
    data = json.dumps(to_plain(found), ensure_ascii=False, indent=2).encode()
    write_atomic(out / f"{found.name}.search.json", data + b"\n")
    environment = Environment(loader=PackageLoader("doorstep_converters", "templates"), autoescape=True)
    page = environment.get_template("search.html").render(
        found=found,
        head=HEAD,
        rows=rows(found),
        lost=[(one.choice, name, reason) for one in found.tried for name, reason in one.lost.items()],
        rejected=[one for one in found.tried if one.state != "measured"],
        picture=_picture(found) if found.points else "",
        teacher=_teacher(found),
        gain=_gain(found) if found.chosen else "",
        costs=[(cost, _money(cost, found.price_per_hour)) for cost in _each_once(found.costs)],
        total=_total(found.costs, found.price_per_hour),
        nearest=[] if found.chosen else nearest(found.points, found.budget),
        modelled=modelled_on(found.target) if any(point.latency == "modelled" for point in found.points) else "",
    )
    path = out / f"{found.name}.search.html"
    write_atomic(path, page.encode())
    return path


def _ranked(found: Found) -> list[Point]:
    front = {point.name for point in found.front}
    return sorted(found.points, key=lambda point: _rank(point, found, front))


def _rank(point: Point, found: Found, front: set[str]) -> tuple[Any, ...]:
    return (
        point != found.chosen,
        bool(found.budget.misses(point.figures)),
        point.name not in front,
        found.budget.excess(point.figures),
        point.figures.get("drop") or 0.0,
    )


def _verdict(point: Point, found: Found, front: set[str]) -> str:
    if point == found.chosen:
        return "chosen"
    if misses := found.budget.misses(point.figures):
        return f"rejected: {'; '.join(misses)}"
    return "on the front" if point.name in front else "within the budget, beaten in everything by another"


def _cell(point: Point, name: str) -> str | None:
    value = point.figures.get(name)
    if value is None:
        return None
    mark = "~" if point.latency == "modelled" and name in ("p50", "p95", "rss") else ""
    return mark + (f"{value:.4f}" if name in ("accuracy", "agreement", "worst_class", "ece") else show(name, value))


def _teacher(found: Found) -> str:
    r = found.reference
    speed = f"p50 {r['p50_ms']:.4g} ms in PyTorch here on one thread"
    return f"{show('size', r['bytes'])}, {speed}, accuracy {r['accuracy']:.4f}"


def _gain(found: Found) -> str:
    """Return by how much the chosen one is smaller and faster than the teacher; modelled times are not compared."""
    assert found.chosen is not None  # noqa: S101 -- callers look first
    figures, r = found.chosen.figures, found.reference
    parts = [f"{r['bytes'] / (figures['size'] or 1):.3g} × smaller"]
    if found.chosen.latency == "measured" and figures["p50"]:
        parts.append(f"{r['p50_ms'] / figures['p50']:.3g} × faster")
    return ", ".join([*parts, f"{figures['drop'] or 0:.2f} points lost on dev"])


def _total(costs: Sequence[Cost], price: float) -> str:
    now = sum(cost.seconds for cost in costs if not cost.is_kept)
    kept = sum(cost.is_kept for cost in costs)
    peak = max((cost.peak_rss_mib or 0 for cost in costs), default=0)
    on_gpu = max((cost.peak_gpu_mib or 0 for cost in costs), default=0)
    gpu = f", {on_gpu:.0f} MiB on the GPU" if on_gpu else ""
    money = f", {now / 3600 * price:.4f} at {price:g} an hour" if price else ""
    return f"{len(costs)}, of which {kept} kept from before; {now:.0f} s now, peak {peak:.0f} MiB{gpu}{money}"


def _each_once(costs: Sequence[Cost]) -> list[Cost]:
    """Leave out stages that were only taken from the cache and are listed already."""
    listed: dict[str, list[Cost]] = {}
    for cost in costs:
        if not (cost.is_kept and cost.stage in listed):
            listed.setdefault(cost.stage, []).append(cost)
    return [cost for found in listed.values() for cost in found]


def _money(cost: Cost, price: float) -> float | None:
    return round(0.0 if cost.is_kept else cost.seconds / 3600 * price, 6) if price else None


def _picture(found: Found) -> Markup:
    """Draw accuracy against p95, size as the dot's area, the candidate's number in the table beside it, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    front = {point.name for point in found.front}
    numbered = [(number, point) for number, point in enumerate(_ranked(found), 1) if _is_shown(point)]
    largest = max((point.figures["size"] or 1.0 for _, point in numbered), default=1.0)
    for number, point in numbered:
        x, y = point.figures["p95"], point.figures["accuracy"]
        colour = "#2b6cb0" if not found.budget.misses(point.figures) else "#c05621"
        area = 30 + 600 * (point.figures["size"] or 0) / largest
        axes.scatter([x], [y], s=area, color=colour, alpha=0.75 if point.name in front else 0.3)
        if point == found.chosen:
            axes.scatter([x], [y], s=area + 250, facecolors="none", edgecolors="#1a202c", linewidths=2)
        beside = (4 + area**0.5 / 2, 4)
        axes.annotate(str(number), (x, y), textcoords="offset points", xytext=beside, fontsize=9)
    if numbered:
        _plain_scale(axes.xaxis, axes.set_xscale)
        line = best_by_latency([point for _, point in numbered])
        axes.plot([x for x, _ in line], [y for _, y in line], color="#4a5568", linewidth=0.8, drawstyle="steps-post")
    if (bound := found.budget.bound("p95")) is not None:
        axes.axvline(bound, color="#a0aec0", linestyle="--", linewidth=1)
    kind = "modelled" if any(point.latency == "modelled" for _, point in numbered) else "measured"
    axes.set_xlabel(f"p95 in ms ({kind}), one thread")
    axes.set_ylabel("accuracy on dev")
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704 -- drawn here, from numbers


def _is_shown(point: Point) -> bool:
    return bool(point.figures.get("p95") and point.figures.get("size"))


def _plain_scale(axis: Any, set_scale: Any) -> None:
    """Let an axis be logarithmic, with plain numbers at it rather than powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def best_by_latency(points: Sequence[Point]) -> list[tuple[float, float]]:
    """Return (p95, accuracy) of each point that is more accurate than all that are as quick, the quickest first."""
    best: list[tuple[float, float]] = []
    for x, y in sorted((p.figures["p95"] or 0.0, -(p.figures["accuracy"] or 0.0)) for p in points):
        if not best or -y > best[-1][1]:
            best.append((x, -y))
    return best
