"""What the device suite asks of a place, and what it keeps of the answers."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device_tests.places import FREE, Limits, Place
from doorstep.bundle import Bundle
from doorstep.cli.output import table
from doorstep.manifest import Variant
from doorstep.session import RUNTIMES

HERE = Path(__file__).parent
GUEST = (HERE / "guest.py").read_text(encoding="utf-8")
BUDGETS = HERE / "budgets.toml"
RESULTS = Path(os.environ.get("DOORSTEP_RESULTS", HERE.parent / "dist/device_results.jsonl"))


def load_under(
    place: Place, fault: str, *, env: Mapping[str, str] | None = None, limits: Limits = FREE
) -> dict[str, Any]:
    """Load and predict on the device under one fault; return what it said."""
    done = place.run(["-c", GUEST, fault, place.bundle], env=env, limits=limits)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def ask_doctor(place: Place) -> dict[str, Any]:
    """Return what `doorstep doctor` says of the device."""
    done = place.run(["-m", "doorstep.cli.main", "doctor", "--json"])
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_there(place: Place, examples: int | None) -> dict[str, Any]:
    """Run `doorstep check` on the device for every variant, keep a line for each, and return the report."""
    argv = ["-m", "doorstep.cli.main", "check", place.bundle, "--all", "--json", "--threads", "1"]
    fewer = () if examples is None else ("--examples", str(examples))
    done = place.run([*argv, *fewer, "--budgets", place.put(BUDGETS)])
    assert done.stdout, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines(place.name, report))
    return report


def lines(place: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one plain dict a variant: board, CPU flags, versions, commit, bundle, figures and verdicts."""
    origin = {"place": place, **report["origin"], "threads": report["threads"]}
    return [origin | variant for variant in report["variants"]]


def variants_for(place: Place, engines: Mapping[str, str]) -> list[Variant]:
    """Return the variants of the bundle that claim a device with these engines."""
    manifest = Bundle.open(place.source, is_lazy=True).manifest
    return [variant for variant in manifest.variants if engines.keys() & variant.requires.keys()]


def packages_of(runtimes: Sequence[str]) -> str:
    """Return the import names of these runtimes' engines, for the fault `without:`."""
    return ",".join(name for runtime in runtimes for name in RUNTIMES[runtime].distributions.values())


def verdict_table(reports: Mapping[str, dict[str, Any]]) -> str:
    """Return every variant's verdict on every device, as text for people."""
    rows = [row for place, report in reports.items() for row in _rows(place, report)]
    return table(("device", "variant", "engine", "golden", "tokens", "verdict"), rows)


def _rows(place: str, report: dict[str, Any]) -> list[tuple[object, ...]]:
    return [
        (place, variant["variant"], variant["engine"] or None, *_shares(variant["checks"]), _verdict(variant["checks"]))
        for variant in report["variants"]
    ]


def _shares(checks: Sequence[dict[str, Any]]) -> list[str | None]:
    found = {item["name"]: item for item in checks if item["value"] is not None}
    names = ("golden", "tokens")
    return [f"{found[name]['value']:g} of {found[name]['limit']:g}" if name in found else None for name in names]


def _verdict(checks: Sequence[dict[str, Any]]) -> str:
    failed = [f"{item['name']}: {item['detail']}" for item in checks if item["outcome"] == "failed"]
    not_run = [item["detail"] for item in checks if item["name"] == "runs here"]
    return f"FAILED {'; '.join(failed)}" if failed else f"not run: {not_run[0]}" if not_run else "passed"
