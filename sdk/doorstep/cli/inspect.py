"""`doorstep inspect`."""

import argparse
from dataclasses import asdict
from pathlib import Path

from doorstep.bundle import Bundle
from doorstep.cli.output import mib, print_json, table
from doorstep.manifest import Manifest, Variant
from doorstep.signing import TrustKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", action="store_true", help="the manifest, as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle, trust=TrustKey.configured())
    if arguments.json:
        print_json({"digest": bundle.digest, **asdict(bundle.manifest)})
        return 0
    print(describe(bundle.manifest, bundle.digest))
    return 0


def describe(manifest: Manifest, digest: str) -> str:
    """Return a manifest as text for people."""
    labels = manifest.options.get("labels", [])
    shown = ", ".join(labels[:12]) + (f", … ({len(labels)})" if len(labels) > 12 else "")
    head = [
        f"{manifest.name} {manifest.version} · {manifest.task} · made {manifest.created}",
        f"digest   {digest}",
        f"target   {manifest.target or 'any'}",
        f"licence  {manifest.licence or 'not stated'}",
        *([f"labels   {shown}"] if shown else []),
        *[f"{key:<8} {value}" for key, value in sorted(manifest.provenance.items())],
    ]
    rows = [_row(variant, manifest) for variant in manifest.variants]
    columns = ("variant", "recipe", "size", "agreement", "accuracy", "p50 ms", "p95 ms", "cold ms", "RSS MiB", "needs")
    return "\n".join(head) + "\n\n" + table(columns, rows)


def _row(variant: Variant, manifest: Manifest) -> list[object]:
    sizes = {entry.path: entry.size for entry in manifest.files}
    needs = " or ".join(f"{name} ≥ {version}" for name, version in variant.requires.items())
    measured = variant.measured
    figures: list[object] = [None] * 6
    if measured:
        figures = [
            measured.agreement, measured.accuracy, measured.p50_ms, measured.p95_ms,
            measured.cold_start_ms and round(measured.cold_start_ms),
            measured.peak_rss_mib and round(measured.peak_rss_mib),
        ]  # fmt: skip
    size = mib(sum(sizes[path] for path in variant.files))
    return [variant.name, variant.recipe, size, *figures, needs]
