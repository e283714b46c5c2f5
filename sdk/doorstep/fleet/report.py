"""A fleet seen from a folder of its devices' status reports: a table, or one HTML page that needs nothing else."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from doorstep.decoding import decode_json
from doorstep.errors import FormatError, UsageError
from doorstep.fleet.kept import FAILED, FORMAT, REFUSED
from doorstep.fleet.status import MAX_BYTES, Status
from doorstep.svg import Bar, bars

_MOST_FILES = 1_000_000
_MOST_ROWS = 2000
_STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
  color: #1a202c; background: #fff; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
.lead { color: #4a5568; margin: .2rem 0 1.5rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1.5rem 2.5rem; }
.plots svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem 1.1rem .3rem 0; border-bottom: 1px solid #e2e8f0; vertical-align: top; }
th { color: #4a5568; font-weight: 600; white-space: nowrap; }
td.id { font-family: ui-monospace, monospace; white-space: nowrap; } td.text { min-width: 18rem; }
td.time { white-space: nowrap; }
.failed, .refused, .stale { color: #9b2c2c; font-weight: 600; }
"""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The newest status of every device, those in trouble first, and how many files were no status."""

    devices: tuple[Status, ...]
    unreadable: int = 0

    def count(self, name: str) -> list[tuple[str, int]]:
        """Return how many devices have each value of a field, most first."""
        return Counter(str(getattr(device, name)) or "factory" for device in self.devices).most_common()


def load_fleet(folder: Path) -> Fleet:
    """Read every `*.json` below `folder`; of a device's several reports the newest counts.

    Raises:
        UsageError: no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected the folder of the devices' status reports")
    newest: dict[tuple[str, str], Status] = {}
    unreadable = 0
    for number, path in enumerate(sorted(folder.rglob("*.json"))):
        if number >= _MOST_FILES:
            raise UsageError(f"{folder}: more than {_MOST_FILES} reports; split the folder")
        try:
            with open(path, "rb") as file:
                status = decode_json(file.read(MAX_BYTES + 1), Status, path.name, FORMAT)
        except (OSError, FormatError):
            unreadable += 1
            continue
        key = (status.device, status.product)
        if key not in newest or status.time >= newest[key].time:
            newest[key] = status
    ordered = sorted(newest.values(), key=lambda one: (not is_troubled(one), one.product, one.release, one.device))
    return Fleet(tuple(ordered), unreadable)


def is_troubled(status: Status) -> bool:
    """Tell whether somebody should look at this device."""
    return status.kind in (FAILED, REFUSED) or status.is_stale or bool(status.denied)


def to_text(fleet: Fleet) -> str:
    """Return the fleet for a terminal."""
    lines = [_summary(fleet)]
    for name in ("release", "kind"):
        lines += [f"  {count:>8}  {value}" for value, count in fleet.count(name)]
        lines.append("")
    lines += [
        f"{one.device[:12]}  {one.product}  {one.release or 'factory'}  {one.kind}: {one.text}"
        for one in fleet.devices
        if is_troubled(one)
    ][:50]
    return "\n".join(lines).rstrip()


def to_html(fleet: Fleet) -> str:
    """Return the page."""
    plots = [
        bars("Devices by the release they serve", _bars(fleet.count("release"))),
        bars("Devices by what their last visit came to", _bars(fleet.count("kind"))),
    ]
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>Fleet of {len(fleet.devices)} devices – doorstep</title>\n<style>{_STYLE}</style>\n",
            f'<h1>Fleet</h1>\n<p class="lead">{escape(_summary(fleet))}</p>\n<div class="plots">\n',
            *(f"<div>{plot}</div>\n" for plot in (plots if fleet.devices else ())),
            "</div>\n",
            _table("In trouble", [one for one in fleet.devices if is_troubled(one)]),
            _table("In order", [one for one in fleet.devices if not is_troubled(one)]),
            "</html>\n",
        ]
    )


def _summary(fleet: Fleet) -> str:
    troubled = sum(map(is_troubled, fleet.devices))
    times = [one.time for one in fleet.devices]
    parts = [f"{len(fleet.devices)} devices", f"{troubled} in trouble"]
    if times:
        parts.append(f"reports from {min(times)} to {max(times)}")
    if fleet.unreadable:
        parts.append(f"{fleet.unreadable} files were no status report")
    return ", ".join(parts)


def _bars(counts: Sequence[tuple[str, int]]) -> list[Bar]:
    return [Bar(name, (float(count),)) for name, count in counts[:12]]


def _table(title: str, devices: Iterable[Status]) -> str:
    rows = list(devices)
    if not rows:
        return ""
    head = "".join(f"<th>{name}" for name in ("Device", "Product", "Serves", "Version", "State", "Last visit", "Why"))
    left = f'<p class="lead">and {len(rows) - _MOST_ROWS} more</p>' if len(rows) > _MOST_ROWS else ""
    body = "".join(_row(one) for one in rows[:_MOST_ROWS])
    return f'<h2>{title} ({len(rows)})</h2>\n<div class="scroll"><table><tr>{head}\n{body}</table></div>{left}\n'


def _row(one: Status) -> str:
    kind = "stale" if one.is_stale else one.kind
    denied = "".join(f"<br>{escape(id_)} denied: {escape(reason)}" for id_, reason in (one.denied or {}).items())
    cells = [
        f'<td class="id">{escape(one.device[:12])}',
        f"<td>{escape(one.product)}/{escape(one.channel)}",
        f'<td class="id">{escape(one.release or "factory")}',
        f"<td>{escape(one.version)}",
        f'<td class="{escape(kind.split()[0])}">{escape(kind)}',
        f'<td class="time">{escape(one.time)}',
        f'<td class="text">{escape(one.text)}{denied}',
    ]
    return f"<tr>{''.join(cells)}\n"
