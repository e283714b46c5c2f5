"""The figures of a bench as one HTML page that needs nothing from outside."""

from html import escape

from doorstep.bench import Benched, BenchReport
from doorstep.bench_tables import Table, tables
from doorstep.svg import Bar, Line, bars, lines

_STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
  color: #1a202c; background: #fff; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
.lead { color: #4a5568; margin: .2rem 0 1.5rem; } .warning { color: #9b2c2c; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .9rem; }
dt { color: #4a5568; } dd { margin: 0; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)); gap: 2rem 2.5rem;
  align-items: start; margin-top: 1.5rem; }
.plots svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e2e8f0; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
code { background: #edf2f7; padding: .1rem .35rem; border-radius: .2rem; }
"""


def page(report: BenchReport) -> str:
    """Return the page."""
    origin = report.origin
    facts = [(name, value.strip()) for name, _, value in (line.partition(" ") for line in origin.lines())]
    facts += [("items", report.items), ("command", "")]
    failures = [failure for one in report.variants for failure in one.failures]
    warning = "Emulated: the times below say nothing about a real board. " if origin.board.is_emulated else ""
    lead = "Every figure comes from processes of its own." if len(report.variants) else "Nothing was measured."
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(origin.bundle)} on {escape(origin.board.cpu)} – doorstep bench</title>\n",
            f"<style>{_STYLE}</style>\n<h1>{escape(origin.bundle)}</h1>\n",
            f'<p class="lead"><strong class="warning">{warning}</strong>{lead}</p>\n<dl>',
            *(_fact(name, value, report.command) for name, value in facts),
            '</dl>\n<div class="plots">\n',
            *(f"<div>{plot}</div>\n" for plot in _plots(report)),
            "</div>\n",
            *(_table(part) for part in tables(report)),
            f"<h2>Failed</h2><ul>{''.join(f'<li>{escape(text)}' for text in failures)}</ul>\n" if failures else "",
            "</html>\n",
        ]
    )


def _fact(name: str, value: str, command: str) -> str:
    shown = f"<code>{escape(command)}</code>" if name == "command" else escape(value)
    return f"<dt>{escape(name)}<dd>{shown}"


def _table(part: Table) -> str:
    head = "".join(f"<th>{escape(name)}" for name in part.head)
    cells = [["–" if cell is None else escape(str(cell)) for cell in row] for row in part.rows]
    rows = "".join(f"<tr><td>{'<td>'.join(row)}\n" for row in cells)
    return f'<h2>{escape(part.title)}</h2>\n<div class="scroll"><table><tr>{head}\n{rows}</table></div>\n'


def _plots(report: BenchReport) -> list[str]:
    threads = report.setup.threads
    found = [one for one in report.variants if one.latencies]
    plots = []
    if found:
        first = [Bar(one.variant, (one.latencies[0].p50_ms,), one.latencies[0].p95_ms) for one in found]
        plots.append(bars(f"p50 in ms, the line reaching to p95 (threads: {found[0].latencies[0].threads})", first))
    if found and len(threads) > 1:
        curves = [Line(one.variant, tuple((t.threads, t.p50_ms) for t in one.latencies)) for one in found]
        plots.append(lines("p50 in ms over threads", curves, "threads"))
    if len(report.setup.batches) > 1:
        curves = [curve for one in report.variants if (curve := _batches(one, threads[-1])).points]
        if curves:
            plots.append(lines(f"Items a second over batch size (threads: {threads[-1]})", curves, "batch size"))
    if cold := [one for one in report.variants if one.cold_start_ms is not None]:
        rows = [Bar(one.variant, (one.cold_start_ms or 0.0,), max(one.cold_starts_ms)) for one in cold]
        plots.append(bars("Cold start in ms: the median, the line reaching to the slowest", rows))
    if memory := [one for one in report.variants if one.rss_mib]:
        rows = [Bar(one.variant, _steps(list(one.rss_mib.values()))) for one in memory]
        plots.append(bars("Resident memory in MiB, by part of a start", rows, tuple(memory[0].rss_mib)))
    return plots


def _batches(one: Benched, threads: int) -> Line:
    return Line(one.variant, tuple((t.batch, t.items_per_s) for t in one.throughputs if t.threads == threads))


def _steps(levels: list[float]) -> tuple[float, ...]:
    """Return what each part added to the memory; a part that gave some back counts 0."""
    return tuple(max(0.0, level - before) for before, level in zip([0.0, *levels], levels, strict=False))
