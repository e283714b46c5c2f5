"""What reads bytes that came over a network, each as a function of bytes that may be anything.

Each either refuses them with one of doorstep's errors, or gives a value that is written and read again as itself.
`python -m device_tests.fleet.decoders NAME` feeds one of them from atheris until it is stopped; `make fuzz`.
"""

import hashlib
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_tests.fleet.sweep import fast_folder
from device_tests.fleet.world import model, write_bundle
from doorstep import manifest
from doorstep.errors import DoorstepError
from doorstep.fleet.channel import Channel, Rollout, Wave, decode_channel, encode_channel
from doorstep.fleet.delta import decode_delta, encode_delta
from doorstep.fleet.release import Content, Delta, Release, ReleaseFile, decode_release, encode_release

_BASE, _TARGET = model(1, 3000), model(2, 3000)


def _same(decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Callable[[bytes], bool]:
    def read(data: bytes) -> bool:
        try:
            value = decode(data)
        except DoorstepError:
            return False
        assert decode(encode(value)) == value
        return True

    return read


def read_delta(data: bytes) -> bool:
    """Apply a delta; what is accepted is the target and nothing else."""
    content = Content(hashlib.sha256(_TARGET).hexdigest(), len(_TARGET), 4096, (hashlib.sha256(_TARGET).hexdigest(),))
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        base, delta, out = (Path(folder) / name for name in ("base", "delta", "out"))
        base.write_bytes(_BASE)
        delta.write_bytes(data)
        try:
            decode_delta(base, delta, out, content)
        except DoorstepError:
            assert not out.exists() or out.stat().st_size <= len(_TARGET)
            return False
        assert out.read_bytes() == _TARGET
        return True


READERS: dict[str, Callable[[bytes], bool]] = {
    "manifest": _same(manifest.decode, manifest.encode),
    "release": _same(decode_release, encode_release),
    "channel": _same(decode_channel, encode_channel),
    "delta": read_delta,
}
"""Name to a function that tells whether the bytes were accepted."""


def samples() -> dict[str, bytes]:
    """Return bytes that each reader accepts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bundle(folder / "b", "1", {"variants/numpy-int8/model.bin": b"model", "labels.json": b"[]"})
        (folder / "base").write_bytes(_BASE)
        (folder / "target").write_bytes(_TARGET)
        encode_delta(folder / "base", folder / "target", folder / "delta")
        digest = hashlib.sha256(b"x").hexdigest()
        content = Content(digest, 1, 4096, (digest,))
        release = Release(
            1, "reviews", "1.0", 7, "2026-01-01T00:00:00Z", digest,
            (ReleaseFile("manifest.json", content), ReleaseFile("labels.json", content)),
            (Delta(hashlib.sha256(b"y").hexdigest(), digest, "seg1", content),),
        )  # fmt: skip
        waves = (Wave(10, "2026-01-01T00:00:00Z"), Wave(10_000, "2026-01-02T00:00:00Z"))
        rollout = Rollout(8, f"8-{digest[:12]}", "salt", "running", waves, cohorts=("lab",))
        channel = Channel(1, "reviews", "stable", 9, 7, rollout=rollout, windows=("02:00-05:00",))
        return {
            "manifest": (folder / "b/manifest.json").read_bytes(), "release": encode_release(release),
            "channel": encode_channel(channel), "delta": (folder / "delta").read_bytes(),
        }  # fmt: skip


def main() -> None:
    """Run atheris on one reader, its sample as the first input."""
    import atheris

    name = sys.argv[1]
    corpus = Path(tempfile.mkdtemp())
    (corpus / "sample").write_bytes(samples()[name])
    for module in [module for module in sys.modules if module.partition(".")[0] in ("doorstep", "device_tests")]:
        del sys.modules[module]  # imported again below, with counters in
    with atheris.instrument_imports(include=["doorstep"]):
        reader = importlib.import_module("device_tests.fleet.decoders").READERS[name]

    def feed(data: bytes) -> None:
        reader(data)

    atheris.Setup([sys.argv[0], f"-artifact_prefix={corpus}/", *sys.argv[2:], str(corpus)], feed)
    atheris.Fuzz()


def paths_of(plain: Any) -> list[tuple[Any, ...]]:
    """Return the place of every value in a JSON document."""
    found: list[tuple[Any, ...]] = [()]
    pairs = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in pairs:
        found += [(key, *path) for path in paths_of(value)]
    return found


def with_value(data: bytes, place: int, value: Any) -> bytes:
    """Return a JSON document with another value at one of its places."""
    plain = json.loads(data)
    paths = paths_of(plain)
    path = paths[place % len(paths)]
    if not path:
        return json.dumps(value).encode()
    parent = plain
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return json.dumps(plain).encode()


if __name__ == "__main__":
    main()
