"""Which variant of a bundle fits this device, and why.

Engines and CPU features rule variants out; measured latency orders the rest where it was measured on a CPU of
this kind; else a table of what each kind of CPU is known to run well. int8 is never assumed to be faster. NumPy, the
last resort, stands behind every engine unless it was clearly quicker; see `sdk/docs/decisions/0007-numpy-runtime.md`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from doorstep.device import Device, parse_version
from doorstep.errors import IncompatibleError, UsageError, install_command
from doorstep.manifest import Variant
from doorstep.session import RUNTIMES

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_DOT = frozenset({"asimddp", "i8mm"})
_TIE = 1.15  # p50 within this factor counts as level; the quicker cold start then decides
_CLEARLY = 1.5  # a last resort goes before an engine that takes this many times as long
_ASSUMED_OVERHEAD_MIB = 60

# Lower is better. Rows: (runtime, weights and activations); columns: int8 units or none.
# Sources: the project's own measurements on VNNI; on ARM, reports for Cortex-A72 and A73 against dot-product cores.
_PRIOR: dict[tuple[str, str], tuple[int, int]] = {
    ("tflite", "dynamic_wi8_afp32"): (0, 4),
    ("onnx", "dynamic_wi8_afp32"): (1, 6),
    ("tflite", "static_wi8_ai8"): (2, 5),
    ("openvino", "static_wi8_ai8"): (2, 7),
    ("onnx", "static_wi8_ai8"): (5, 8),
    ("onnx", "none"): (4, 0),
    ("tflite", "none"): (4, 1),
    ("onnx", "weight_only_wfp16_afp32"): (4, 2),
    ("tflite", "weight_only_wfp16_afp32"): (4, 2),
    ("openvino", "weight_only_wfp16_afp32"): (4, 3),
    ("tflite", "weight_only_wi8_afp32"): (6, 3),  # made float again when loaded: the speed and memory of fp32
    ("numpy", "weight_only_wi8_afp32"): (10, 10),  # behind every engine
    ("numpy", "weight_only_wfp16_afp32"): (11, 11),
    ("numpy", "none"): (11, 11),
}
_PRIOR_UNKNOWN = 9


class Verdict(NamedTuple):
    """What was decided about one variant, and the reason in words."""

    variant: str
    is_usable: bool
    reason: str


class Why(NamedTuple):
    """The choice, explained. `str(why)` is a table for people."""

    chosen: str
    engine: str
    rule: str
    verdicts: tuple[Verdict, ...]
    fallbacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.chosen} in {self.engine}: {self.rule}"]
        for verdict in self.verdicts:
            mark = "→" if verdict.variant == self.chosen else "+" if verdict.is_usable else "-"
            lines.append(f"  {mark} {verdict.variant:<18} {verdict.reason}")
        lines += [f"  ! {fallback}" for fallback in self.fallbacks]
        return "\n".join(lines)


class Ranking(NamedTuple):
    """The variants this device can run, best first, and the verdict on every variant."""

    usable: tuple[Variant, ...]
    engines: dict[str, str]
    rule: str
    verdicts: tuple[Verdict, ...]

    def why(self, chosen: Variant, rule: str | None = None, fallbacks: Sequence[str] = ()) -> Why:
        """Explain `chosen`."""
        return Why(chosen.name, self.engines[chosen.name], rule or self.rule, self.verdicts, tuple(fallbacks))


def rank(
    variants: Sequence[Variant], device: Device, wanted: str | None, is_present: Callable[[Variant], bool]
) -> Ranking:
    """Order the variants that fit `device`, best first.

    Args:
        wanted: a variant's or a runtime's name; only those count then.
        is_present: whether a variant's files are on the device.

    Raises:
        IncompatibleError: none fits; the message holds every variant's reason.
        UsageError: `wanted` names nothing in the bundle.
    """
    known = {variant.name for variant in variants} | {variant.runtime for variant in variants}
    if wanted is not None and wanted not in known:
        raise UsageError(f"variant: expected one of {', '.join(sorted(known))}, got {wanted!r}")
    usable: list[Variant] = []
    engines: dict[str, str] = {}
    refused: dict[str, str] = {}
    for variant in variants:
        engine, refusal = _engine_for(variant, device)
        refusal = refusal or _refusal(variant, device, wanted, is_present)
        if refusal:
            refused[variant.name] = refusal
        else:
            usable.append(variant)
            engines[variant.name] = engine
    if not usable:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise IncompatibleError(f"no variant fits this device ({device.arch}): {reasons}")
    rule, usable, reasons_of = _order(usable, device)
    verdicts = [Verdict(variant.name, True, reasons_of[variant.name]) for variant in usable]
    verdicts += [Verdict(name, False, reason) for name, reason in refused.items()]
    return Ranking(tuple(usable), engines, rule, tuple(verdicts))


def last_resorts(variants: Sequence[Variant], times: Mapping[str, float]) -> set[str]:
    """Return the names of the variants that go behind the engines.

    They are those of a last-resort runtime, unless `times` (ms, by variant) say that the quickest engine takes more
    than half as long again: on a machine that does other work too, two medians can lie that far apart by chance.
    """
    resorts = {variant.name for variant in variants if RUNTIMES[variant.runtime].is_last_resort}
    engines = [times[variant.name] for variant in variants if variant.name not in resorts]
    return {name for name in resorts if engines and times[name] * _CLEARLY > min(engines)}


def has_int8_units(features: frozenset[str]) -> bool:
    """Tell whether the CPU multiplies int8 at more than the speed of fp32."""
    return bool(features & (_VNNI | _DOT))


def _engine_for(variant: Variant, device: Device) -> tuple[str, str]:
    """Return (engine, "") or ("", reason)."""
    if variant.runtime not in RUNTIMES:
        return "", f"this doorstep knows no runtime {variant.runtime!r}; upgrade with: pip install -U doorstep"
    old = []
    requires = variant.requires or dict.fromkeys(RUNTIMES[variant.runtime].distributions, "0")
    for distribution, lowest in requires.items():
        installed = device.engines.get(distribution)
        if installed is None:
            continue
        if parse_version(installed) >= parse_version(lowest):
            return f"{distribution} {installed}", ""
        old.append(f"{distribution} {installed} is older than {lowest}")
    if old:
        return "", f"{'; '.join(old)}; run: pip install -U {next(iter(requires))}"
    names = " or ".join(requires)
    return "", f"{names} is not installed; run: {install_command(RUNTIMES[variant.runtime].extra)}"


def _refusal(variant: Variant, device: Device, wanted: str | None, is_present: Callable[[Variant], bool]) -> str:
    if wanted is not None and wanted not in (variant.name, variant.runtime):
        return f"{wanted} was asked for"
    if not is_present(variant):
        return "its files are not on this device"
    if variant.arch and device.arch not in variant.arch:
        return f"made for {' and '.join(variant.arch)}, this is {device.arch}"
    if missing := set(variant.cpu_features) - device.features:
        return f"the CPU lacks {' '.join(sorted(missing))}"
    need = _memory_need_mib(variant)
    if device.memory_mib is not None and need > device.memory_mib:
        return f"needs about {need} MiB of memory, {device.memory_mib} MiB are left"
    return ""


def _memory_need_mib(variant: Variant) -> int:
    measured = variant.measured
    if measured is None:
        return 0
    if measured.peak_rss_mib is not None:
        return round(measured.peak_rss_mib)
    return round(2 * measured.bytes / (1 << 20)) + _ASSUMED_OVERHEAD_MIB


def _order(usable: list[Variant], device: Device) -> tuple[str, list[Variant], dict[str, str]]:
    if all(_is_comparable(variant, device) for variant in usable):
        behind = last_resorts(usable, {variant.name: _steady(variant) for variant in usable})
        best = min(_p50(variant) for variant in usable if variant.name not in behind)
        ordered = sorted(usable, key=lambda v: (v.name in behind, _p50(v) > best * _TIE, _tie_break(v, best), _p50(v)))
        reasons = {variant.name: _figures(variant, variant.name in behind) for variant in ordered}
        return "lowest p50 measured on a CPU of this kind", ordered, reasons
    ordered = sorted(usable, key=lambda v: (_prior(v, device), v.name))
    kind = "with int8 units" if has_int8_units(device.features) else "without int8 units"
    reasons = {variant.name: f"place {_prior(variant, device) + 1} for CPUs {kind}" for variant in ordered}
    return f"not measured on a CPU of this kind; best known for {device.arch} {kind}", ordered, reasons


def _is_comparable(variant: Variant, device: Device) -> bool:
    measured = variant.measured
    if measured is None or measured.board is None or measured.p50_ms is None or measured.board.is_emulated:
        return False
    board = measured.board
    same_units = has_int8_units(frozenset(board.features)) == has_int8_units(device.features)
    return board.arch == device.arch and same_units


def _p50(variant: Variant) -> float:
    assert variant.measured is not None and variant.measured.p50_ms is not None  # noqa: S101 -- _is_comparable
    return variant.measured.p50_ms


def _steady(variant: Variant) -> float:
    """Return what a variant is believed to take (ms): an engine its p50; a last resort its p95, to be certain."""
    measured = variant.measured
    if measured is not None and measured.p95_ms is not None and RUNTIMES[variant.runtime].is_last_resort:
        return measured.p95_ms
    return _p50(variant)


def _tie_break(variant: Variant, best: float) -> float:
    cold = variant.measured.cold_start_ms if variant.measured else None
    return cold if cold is not None and _p50(variant) <= best * _TIE else float("inf")


def _figures(variant: Variant, is_behind: bool) -> str:
    measured = variant.measured
    cold = measured.cold_start_ms if measured else None
    shown = f"p50 {_p50(variant):.2f} ms" + (f", cold start {cold:.0f} ms" if cold is not None else "")
    return f"{shown}; the last resort, not clearly quicker than an engine" if is_behind else shown


def _prior(variant: Variant, device: Device) -> int:
    column = 0 if has_int8_units(device.features) else 1
    recipe = variant.recipe
    if (variant.runtime, recipe) not in _PRIOR:
        recipe = recipe.rpartition("_")[0]  # the last word of a longer name tells where ranges came from
    return _PRIOR.get((variant.runtime, recipe), (_PRIOR_UNKNOWN, _PRIOR_UNKNOWN))[column]
