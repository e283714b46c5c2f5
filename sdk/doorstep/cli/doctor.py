"""`doorstep doctor`."""

import argparse
import importlib.util
import platform
from pathlib import Path

from doorstep import __version__
from doorstep.bundle import Bundle
from doorstep.cli.output import print_json
from doorstep.device import Device
from doorstep.errors import IncompatibleError, install_command
from doorstep.selection import has_int8_units, rank
from doorstep.session import RUNTIMES
from doorstep.signing import TRUST_VARIABLE, TrustKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, nargs="?", help="also say which variant of it would be chosen, and why")
    parser.add_argument("--json", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    device = Device.detect()
    trust = TrustKey.configured()
    report = {
        "doorstep": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        **device._asdict(),
        "features": sorted(device.features),
        "trust_key": trust.public if trust else None,
        "choice": _choice(arguments.bundle, device, trust) if arguments.bundle else None,
    }
    if arguments.json:
        print_json(report)
        return 0
    memory = f"{device.memory_mib} MiB" if device.memory_mib is not None else "unknown"
    int8 = "yes" if has_int8_units(device.features) else "no: int8 models may be slower than fp32 here"
    print(f"doorstep {__version__} on Python {report['python']}, {report['system']}")
    print(f"CPU        {device.cpu} ({device.arch}): {' '.join(sorted(device.features)) or 'no flags known'}")
    print(f"int8 units {int8}")
    print(f"cores      {device.cores} granted by affinity and cgroup (threads by default)")
    print(f"memory     {memory} left for this process")
    print(
        f"trust key  {trust.public[:16] + '…' if trust else f'none; set {TRUST_VARIABLE} to refuse unsigned bundles'}"
    )
    for name, runtime in RUNTIMES.items():
        print(f"{name:<10} {_engine(device, name, runtime.extra)}")
    if report["choice"]:
        print(f"\n{report['choice']}")
    return 0


def _engine(device: Device, name: str, extra: str) -> str:
    installed = [f"{d} {device.engines[d]}" for d in RUNTIMES[name].distributions if d in device.engines]
    if installed:
        return ", ".join(installed)
    if importlib.util.find_spec(RUNTIMES[name].module) is None:
        return "adapter missing"
    return f"not installed; run: {install_command(extra)}"


def _choice(folder: Path, device: Device, trust: TrustKey | None) -> str:
    bundle = Bundle.open(folder, trust=trust)
    try:
        ranking = rank(bundle.manifest.variants, device, None, bundle.has)
    except IncompatibleError as error:
        return str(error)
    return str(ranking.why(ranking.usable[0]))
