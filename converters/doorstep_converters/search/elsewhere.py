"""Latency and memory on the device itself: a candidate is sent there over ssh, and `doorstep bench` measures it.

The device has doorstep and an engine, and lets this user in without a password. Nothing stays on it.
"""

import io
import json
import shlex
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorstep.errors import ConversionError, UsageError
from doorstep_converters.worker import Channel

_PATIENCE = 600  # seconds that a measurement may take
_MAX_BYTES = 16 << 20  # of a report
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20")


@dataclass(frozen=True, slots=True)
class Place:
    """A device that can be reached.

    Attributes:
        host: as ssh takes it; command: that runs doorstep there.
    """

    host: str
    command: str = "doorstep"

    @classmethod
    def from_text(cls, text: str) -> "Place":
        """Read `user@board` or `user@board:/opt/doorstep/bin/doorstep`.

        Raises:
            UsageError: no host, what ssh would take for an option, or a command below `~`, which is not expanded.
        """
        host, _, command = text.partition(":")
        if not host or host.startswith("-") or any(character.isspace() for character in host):
            raise UsageError(f"measure-on: expected user@board or user@board:/path/to/doorstep, got {text!r:.60}")
        if command.startswith("~"):
            raise UsageError(f"measure-on: expected user@board:/path/to/doorstep, got {text!r:.60}; give its full path")
        return cls(host, command or "doorstep")


def arch_of(place: Place) -> str:
    """Ask a device what its kernel calls it (`uname -m`).

    Raises:
        ConversionError: it cannot be reached, or has no doorstep.
    """
    report = _ask(place, f"{shlex.quote(place.command)} doctor --json", b"")
    arch = report.get("arch")
    if not isinstance(arch, str):
        raise ConversionError(f"measure-on {place.host}: expected doctor to tell the architecture, got {arch!r:.40}")
    return arch


def measure(out: Path, channel: Channel, place: str, bundle: str, variant: str) -> dict[str, Any]:
    """Measure a variant of a bundle on a device: one thread, one item; a job of `stages`.

    Returns:
        `p50_ms`, `p95_ms`, `cold_start_ms` (the median of five) and `device_rss_mib`.

    Raises:
        ConversionError: the device cannot be reached, or cannot run the variant.
    """
    there = Place.from_text(place)
    command = shlex.join(
        [there.command, "bench", "b.bundle", "--variant", variant, "--threads", "1", "--batch", "1", "--cold", "--json"]
    )
    script = f'd=$(mktemp -d) && trap \'rm -rf "$d"\' EXIT && cd "$d" && tar -xf - && {command}'
    report = _ask(there, script, _packed(Path(bundle)))
    try:
        (found,) = report["variants"]
        (latency,), starts = found["latencies"], sorted(found["cold_starts_ms"])
        return {
            "p50_ms": float(latency["p50_ms"]),
            "p95_ms": float(latency["p95_ms"]),
            "cold_start_ms": float(starts[len(starts) // 2]),
            "device_rss_mib": float(found["peak_rss_mib"]),  # peak_rss_mib is that of the stage itself
        }
    except (KeyError, TypeError, ValueError, IndexError) as error:
        failures = "; ".join(map(str, report.get("variants", [{}])[0].get("failures", ()))) if report else ""
        raise ConversionError(
            f"measure-on {there.host}: {variant}: expected figures, got none ({failures or error!s:.200})"
        ) from error


def _packed(bundle: Path) -> bytes:
    """Return the bundle as a tar file."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.add(bundle, arcname="b.bundle")
    return held.getvalue()


def _ask(place: Place, script: str, sent: bytes) -> dict[str, Any]:
    """Run a script there and read the JSON it prints."""
    if shutil.which("ssh") is None:
        raise ConversionError("measure-on: expected ssh on this machine, found none; install openssh-client")
    try:
        done = subprocess.run([*_SSH, "--", place.host, script], input=sent, capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise ConversionError(f"measure-on {place.host}: no answer within {_PATIENCE} s") from error
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise ConversionError(
            f"measure-on {place.host}: exit code {done.returncode}: {last:.300}; try: ssh {place.host} "
            f"{shlex.quote(place.command)} doctor"
        )
    try:
        report = json.loads(done.stdout[:_MAX_BYTES])
    except ValueError as error:
        raise ConversionError(f"measure-on {place.host}: expected JSON, got {done.stdout[:80]!r}") from error
    if not isinstance(report, dict):
        raise ConversionError(f"measure-on {place.host}: expected a JSON object, got {type(report).__name__}")
    return report
