"""Figures of a search's candidates: what a device holds, and how long it takes, here, there, or by a model."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from doorstep.bundle import Bundle
from doorstep.device import Device
from doorstep.errors import ConversionError, UsageError
from doorstep.manifest import Manifest, Measured, Variant
from doorstep_converters.gates import Gates
from doorstep_converters.search.elsewhere import Place, arch_of
from doorstep_converters.search.latency import factor, is_measured_here, rate_here
from doorstep_converters.stages import Output, Stage
from doorstep_converters.targets import find_target

Figures = dict[str, float | None]
"""Bound to figure, as in `budget.KINDS`."""


@dataclass(frozen=True, slots=True)
class Meter:
    """How candidates for a target are measured.

    Attributes:
        place: device to measure on, as `elsewhere.Place` reads it; "" for this machine.
        rate: fp32 multiply-adds of one core here in 10^9 a second, where latency is modelled; None elsewhere.
    """

    target: str
    place: str
    rate: float | None

    @classmethod
    def find(cls, target: str, place: str, device: Device) -> "Meter":
        """Choose where to measure: on the device that is named, else here, else by a model.

        Raises:
            UsageError: the device is of another architecture than the target.
            ConversionError: it cannot be reached.
        """
        if not place:
            return cls(target, "", None if is_measured_here(target, device) else rate_here())
        there, wanted = Place.from_text(place), find_target(target).arch
        if (arch := arch_of(there)) != wanted:
            raise UsageError(
                f"measure-on {there.host}: target {target} needs {wanted}, that device is {arch}; name another"
            )
        return cls(target, place, None)

    @property
    def where(self) -> str:
        """How latencies are found, as a `front.Point` says it."""
        if self.place:
            return f"measured on {Place.from_text(self.place).host}"
        return "measured" if self.rate is None else "modelled"

    def figures(self, bundle: Path, variant: Variant, run: Callable[[Stage], Output]) -> Figures:
        """Return size, download, latencies, cold start and memory of a variant.

        Args:
            run: runs a stage, for what is measured elsewhere.
        """
        size, download = device_bytes(bundle, variant.name)
        found = self._there(bundle, variant.name, run) if self.place else self._here(variant)
        return {"size": float(size), "download": float(download), **found}

    def check_is_there(self) -> None:
        """Make sure, after a measurement that failed, that the device still answers: else all others would fail too.

        Raises:
            UsageError: it is gone.
        """
        if not self.place:
            return
        try:
            arch_of(Place.from_text(self.place))
        except ConversionError as error:
            raise UsageError(f"{error}; the same command goes on from here once it answers") from error

    def _there(self, bundle: Path, variant: str, run: Callable[[Stage], Output]) -> Figures:
        manifest = Bundle.open(bundle).manifest
        arguments = {"place": self.place, "bundle": str(bundle.resolve()), "variant": variant}
        inputs = (self.place, variant, *digests_of(manifest, variant), str(manifest.options))
        found = run(
            Stage(f"there-{variant}", "doorstep_converters.search.elsewhere:measure", arguments, inputs, is_bare=True)
        ).result
        names = {"p50": "p50_ms", "p95": "p95_ms", "cold": "cold_start_ms", "rss": "device_rss_mib"}
        return {name: float(found[given]) for name, given in names.items()}

    def _here(self, variant: Variant) -> Figures:
        measured = variant.measured or Measured(bytes=0)
        slower = 1.0 if self.rate is None else factor(self.target, variant.name, self.rate)
        times = {"p50": measured.p50_ms, "p95": measured.p95_ms, "cold": measured.cold_start_ms}
        scaled = {name: None if ms is None else round(slower * ms, 4) for name, ms in times.items()}
        return {**scaled, "rss": measured.peak_rss_mib}


def digests_of(manifest: Manifest, variant: str) -> list[str]:
    """Return the digests of the files that answers of a variant come from."""
    read = (f"variants/{variant}/", str(manifest.options.get("tokenizer", "tokenizer.json")))
    return [entry.sha256 for entry in manifest.files if entry.path.startswith(read)]


def device_bytes(bundle: Path, variant: str) -> list[int]:
    """Return the bytes a device holds for one variant, tokenizer included, and the same deflated."""
    manifest = Bundle.open(bundle).manifest
    own = next(found for found in manifest.variants if found.name == variant)
    paths = [bundle / path for path in (*own.files, str(manifest.options.get("tokenizer", "tokenizer.json")))]
    held = [path for path in paths if path.is_file()]
    return [sum(path.stat().st_size for path in held), sum(len(zlib.compress(path.read_bytes(), 6)) for path in held)]


def gate_figures(gates: Gates) -> Figures:
    """Return the figures of a variant's gates that a budget can bound."""
    names = ("accuracy", "drop", "macro_f1", "agreement", "slice_gap", "noise_drop", "ece", "worst_class")
    return {name: getattr(gates, name) for name in names}
