"""Runs on the device: `python guest.py FAULT BUNDLE [VARIANT]` loads and predicts under one fault, prints JSON.

Stands alone: it is sent to boards as text, so it imports doorstep and the standard library only.
"""

import json
import sys


def _no_writes(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        flags = arguments[2]
        if isinstance(flags, int) and flags & 0o3 and arguments[0] != "/dev/null":
            raise OSError(30, "Read-only file system", str(arguments[0]))
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"):
        raise OSError(30, "Read-only file system", str(arguments[0]))


def _no_network(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith("socket."):
        raise SystemExit(f"a socket was used: {event} {arguments}")


def _prepare(fault: str) -> None:
    if fault == "read-only":
        sys.addaudithook(_no_writes)
    elif fault == "no-network":
        sys.addaudithook(_no_network)
    elif fault == "wrong-clock":
        import time

        time.time = lambda: 0.0
    elif fault.startswith("without:"):
        names = set(fault.removeprefix("without:").split(","))
        for finder in sys.meta_path:
            if hasattr(finder, "find_spec"):
                _hide(finder, names)


def _hide(finder: object, names: set[str]) -> None:
    original = finder.find_spec  # type: ignore[attr-defined]

    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        return None if name.partition(".")[0] in names else original(name, path, target)

    try:
        finder.find_spec = find_spec  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        sys.meta_path[sys.meta_path.index(finder)] = type("Hiding", (), {"find_spec": staticmethod(find_spec)})  # type: ignore[arg-type,call-overload]


def main() -> None:
    """Load, answer one text, and say what happened."""
    fault, bundle, *rest = sys.argv[1:]
    _prepare(fault)
    from doorstep import DoorstepError, Predictor

    try:
        with Predictor.load(bundle, variant=rest[0] if rest else None, threads=1) as predictor:
            answer = predictor.predict("is the oat milk back in stock")
            print(json.dumps({"label": answer.label, "variant": predictor.variant.name, "why": str(predictor.why)}))
    except DoorstepError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))


if __name__ == "__main__":
    main()
