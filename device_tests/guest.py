"""Runs on the device: `python guest.py FAULT BUNDLE` loads and predicts under one fault, and prints JSON.

Stands alone: it is sent to boards as text, so it imports doorstep and the standard library only. What a kernel can
deny (writes, sockets) is denied outside, by `confine.py`.
"""

import datetime
import json
import signal
import sys
import time

_AFTER_S = 3600


def _fail_writes(event: str, arguments: tuple[object, ...]) -> None:
    """Fail as a read-only file system does; Landlock's own error number is another."""
    if event == "open":
        flags = arguments[2]
        if isinstance(flags, int) and flags & 0o3 and arguments[0] != "/dev/null":
            raise OSError(30, "Read-only file system", str(arguments[0]))
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"):
        raise OSError(30, "Read-only file system", str(arguments[0]))


def _set_clock(seconds: float) -> None:
    """Let every clock that tells a date say `seconds` after 1970, for ever."""
    real = datetime.datetime

    class Wrong(real):  # type: ignore[misc,valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.fromtimestamp(seconds, tz)

        utcnow = now

    datetime.datetime = Wrong  # type: ignore[misc]
    time.time = lambda: seconds
    time.time_ns = lambda: int(seconds * 1e9)


def _hide(names: set[str]) -> None:
    """Let the packages `names` look as if they were not installed."""
    for finder in list(sys.meta_path):
        if hasattr(finder, "find_spec"):
            sys.meta_path[sys.meta_path.index(finder)] = _hiding(finder, names)  # type: ignore[no-untyped-call]


def _hiding(finder, names):  # type: ignore[no-untyped-def]
    original = finder.find_spec

    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        return None if name.partition(".")[0] in names else original(name, path, target)

    return type("Hiding", (), {"find_spec": staticmethod(find_spec)})


def prepare(fault: str) -> None:
    """Bring the fault about, for as long as this process lives."""
    kind, _, value = fault.partition(":")
    if kind == "read-only":
        sys.addaudithook(_fail_writes)
    elif kind == "clock":
        _set_clock(float(value))
    elif kind == "without":
        _hide(set(value.split(",")))


def kill_later(fault: str) -> None:
    """Let a signal end this process from outside Python, with nothing tidied up, where `fault` is `killed:SECONDS`."""
    kind, _, seconds = fault.partition(":")
    if kind == "killed":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, float(seconds))


def main() -> None:
    """Load, answer one text, and say what happened and how long loading took (s)."""
    fault, bundle = sys.argv[1:]
    prepare(fault)
    from doorstep import DoorstepError, Predictor

    start = time.monotonic()
    kill_later(fault)
    try:
        with Predictor.load(bundle, threads=1) as predictor:
            loaded = time.monotonic() - start
            if fault.startswith("killed:"):
                time.sleep(_AFTER_S)
            answer = predictor.predict("is the oat milk back in stock")
            said = {"label": answer.label, "variant": predictor.variant.name, "why": str(predictor.why)}
            if fault.startswith("idle:"):
                time.sleep(float(fault.removeprefix("idle:")))
            print(json.dumps({**said, "load_s": loaded}))
    except DoorstepError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))


if __name__ == "__main__":
    main()
