"""The command line: find the verb, import only its module, turn known errors into one line."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from doorstep import __version__
from doorstep.errors import DoorstepError, MissingExtraError

_WORKSHOP = "doorstep_converters"
_FLEET_PACKAGES = frozenset({"tuf", "securesystemslib", "urllib3", "zstandard", "cryptography"})

VERBS: dict[str, tuple[str, str]] = {
    "convert": ("doorstep_converters.cli.convert", "checkpoint → bundle, every step of the way"),
    "augment": ("doorstep_converters.cli.augment", "more training texts from those at hand, and what each kind brings"),
    "finetune": ("doorstep_converters.cli.finetune", "train a checkpoint on labelled texts, or compare ways to"),
    "adopt": ("doorstep_converters.cli.adopt", "an exported .onnx, .tflite or OpenVINO file → bundle"),
    "predict": ("doorstep.cli.predict", "answer items with a bundle"),
    "inspect": ("doorstep.cli.inspect", "show what is in a bundle"),
    "verify": ("doorstep.cli.verify", "compare a bundle with its digests and signature"),
    "doctor": ("doorstep.cli.doctor", "what this device is, and what would be chosen on it"),
    "check": ("doorstep.cli.check", "prove a bundle on this device: answers, tokens, budgets"),
    "bench": ("doorstep.cli.bench", "measure a bundle on this device: latency, throughput, memory"),
    "serve": ("doorstep.cli.serve", "answer over HTTP: REST, GraphQL, a page to try it"),
    "keygen": ("doorstep.cli.keygen", "make a pair of signing keys"),
    "sign": ("doorstep.cli.sign", "sign a bundle"),
    "pack": ("doorstep.cli.pack", "bundle folder → single file"),
    "unpack": ("doorstep.cli.unpack", "single file → bundle folder"),
    "depot": ("doorstep.cli.depot", "make, check and look after the folder that devices pull from"),
    "publish": ("doorstep.cli.publish", "bundle → depot, for all devices or in waves"),
    "rollout": ("doorstep.cli.rollout", "show, pause, resume, halt or finish a rollout"),
    "agent": ("doorstep.cli.agent", "bring this device up to its channel, once or for ever"),
    "fleet": ("doorstep.cli.fleet", "why this device did or did not update; what all devices report"),
    "rollback": ("doorstep.cli.rollback", "go back to the release before, on this device"),
}
"""Verb to (module, summary)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a known error, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if not arguments or arguments[0] not in VERBS:
            return _without_verb(arguments)
        module, summary = VERBS[arguments[0]]
        verb = _import(module)
        parser = argparse.ArgumentParser(prog=f"doorstep {arguments[0]}", description=summary)
        verb.add_arguments(parser)
        # Intermixed: `predict BUNDLE --json TEXT` is as good as `predict BUNDLE TEXT --json`.
        return int(verb.run(parser.parse_intermixed_args(arguments[1:])))
    except DoorstepError as error:
        print(f"doorstep: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _FLEET_PACKAGES:
            raise
        print(f"doorstep: {MissingExtraError.of(str(error.name), 'fleet')}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"doorstep: {error.filename2 or error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("doorstep: interrupted; nothing half-made is left behind", file=sys.stderr)
        return 130


def _without_verb(arguments: Sequence[str]) -> int:
    """Print help or the version, or refuse a misspelt verb."""
    parser = argparse.ArgumentParser(prog="doorstep", description="The last metre of machine learning.")
    parser.add_argument("--version", action="version", version=f"doorstep {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="<verb>")
    for name, (_, summary) in VERBS.items():
        verbs.add_parser(name, help=summary)
    parser.parse_args(arguments)
    parser.print_help()
    return 2


def _import(module: str):  # type: ignore[no-untyped-def]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(_WORKSHOP) or (error.name or "").startswith("doorstep."):
            raise
        print(f"doorstep: {MissingExtraError.of(error.name or _WORKSHOP, 'convert')}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    raise SystemExit(main())
