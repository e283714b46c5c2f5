"""Every state that a kill or a power cut can leave during an update, and what the device makes of it.

    python -m device_tests.fleet.sweep --seeds 20

After each: what is served is an old or the new release, complete and verified; the trust floor has not fallen; nothing
was denied that only the disk had damaged; later visits converge on the new release and leave nothing half-made.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from device_tests.fleet.disk_faults import Crash, Disk
from device_tests.fleet.world import PRODUCT, World, passes, stray, write_bundle
from doorstep.bundle import Bundle
from doorstep.errors import DoorstepError
from doorstep.fleet.channel import Health
from doorstep.fleet.floor import Floor, FloorFile
from doorstep.fleet.state import TRIAL, committed, rolled_back
from doorstep.fleet.store import Store
from doorstep.fleet.updater import Updater

_SOAKED = Health(confirm_requests=1, confirm_minutes=60)
_MOST_VISITS = 4
_RISING = ("root", "timestamp", "snapshot", "targets", "seq")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is interrupted: `prepare` makes the world, `act` is done under watch; the versions that may be served
    after, and those that it may end with.
    """

    name: str
    prepare: Callable[[World], None]
    act: Callable[[World, Path], None]
    served: frozenset[str]
    final: frozenset[str]


@dataclass(frozen=True, slots=True)
class Failure:
    """One state in which a promise was broken."""

    scene: str
    crash: Crash
    problem: str

    def __str__(self) -> str:
        return f"{self.scene}, operation {self.crash.point} ({self.crash.operation}), {self.crash.mode}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Swept:
    """A scene's figures: operations, distinct states, and the failures among them."""

    scene: str
    operations: int
    states: int
    failures: tuple[Failure, ...]


def sweep(scene: Scene, folder: Path, seeds: int, every: int = 1, most_failures: int = 10_000) -> Swept:
    """Interrupt `scene` everywhere; with `every`, only each so manyth state is tried; `most_failures` end it."""
    world = World.make(folder)
    scene.prepare(world)
    root = world.folder / "devices" / "kiosk"
    Store.open(root, PRODUCT)
    floors = [(0, FloorFile(root / PRODUCT / "trust").load())]
    disk = Disk(root, seeds)
    save = FloorFile.save

    def save_and_note(file: FloorFile, floor: Floor) -> None:
        save(file, floor)
        floors.append((disk.points, floor))

    with disk.watched(), mock.patch.object(FloorFile, "save", save_and_note):
        scene.act(world, root)
    failures = []
    chosen = disk.crashes[::every]
    for number, crash in enumerate(chosen):
        place = world.folder / "crashed" / str(number)
        crash.tree.write(place)
        try:
            floor = [floor for point, floor in floors if point < crash.point or point == 0][-1]
            problem = judge(world, place, scene, floor)
        except (DoorstepError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            failures.append(Failure(scene.name, crash, problem))
            if len(failures) >= most_failures:
                break
        shutil.rmtree(place)
    return Swept(scene.name, disk.points, len(chosen), tuple(failures))


def judge(world: World, place: Path, scene: Scene, floor: Floor) -> str:
    """Start the device again and let it visit the depot; return the promise that was broken, or ""."""
    store = _store(place)
    found = store.boot(Bundle.open).opened.manifest.version
    if found not in scene.served:
        return f"serves {found}"
    if damaged := store.state().damaged:
        return f"the record named {damaged[0]} before all of it was safe"
    kept = FloorFile(store.trust).load()
    if fallen := [name for name in _RISING if getattr(kept, name) < getattr(floor, name)]:
        return f"the floor's {fallen[0]} fell from {getattr(floor, fallen[0])} to {getattr(kept, fallen[0])}"
    if store.state().denied and len(scene.final) == 1:
        return f"denied {store.state().denied[0]}"
    for _ in range(_MOST_VISITS):
        outcome = _updater(world, place).run()
        if outcome.kind == "failed":
            return f"the visit failed: {outcome.text}"
        found = store.boot(Bundle.open).opened.manifest.version
        if found not in scene.served | scene.final:
            return f"served {found} later"
        _confirm(store)
        if outcome.kind == "current" and not store.state().damaged:
            break
    if found not in scene.final or store.state().phase != "idle":
        return f"ends with {found}, {store.state().phase}"
    return _untidy(store)


def _untidy(store: Store) -> str:
    if left := stray(store):
        return f"left behind: {left}"
    held = {held.id for held in (store.state().current, store.state().previous) if held}
    if left := [path.name for path in (store.trust / "metadata").iterdir() if path.name.startswith("tmp")]:
        return f"left behind: {left}"
    names = {path.name for path in store.releases.iterdir()}
    if names - held:
        return f"releases nobody holds: {names - held}"
    if not store.current.resolve().samefile(store.place(store.state().resorts()[0])):
        return f"current points at {store.current.resolve().name}"
    return ""


def _store(root: Path) -> Store:
    return Store.open(root, PRODUCT, root.parents[1] / "factory")


def _updater(world: World, root: Path) -> Updater:
    return world.updater(store=root, prover=passes, factory=world.folder / "factory")


def _confirm(store: Store) -> None:
    """Do what an app does whose requests were answered."""
    state = store.state()
    if state.phase == TRIAL and state.candidate is not None:
        candidate = state.candidate
        store.boot(Bundle.open)
        store.leave()
        store.change(lambda known: committed(known, candidate.id))


def _publish_first(world: World) -> None:
    write_bundle(world.folder / "factory", "factory", {"variants/numpy-int8/model.bin": b"factory"})
    world.publish(1, health=_SOAKED)


def _publish_both(world: World) -> None:
    _publish_first(world)
    root = world.folder / "devices" / "kiosk"
    _updater(world, root).run()
    _confirm(_store(root))
    _updater(world, root).run()
    world.publish(2, health=_SOAKED)


def _update(world: World, root: Path) -> None:
    _updater(world, root).run()
    _confirm(_store(root))
    _updater(world, root).run()


def _update_and_go_back(world: World, root: Path) -> None:
    _updater(world, root).run()
    store = _store(root)
    store.boot(Bundle.open)
    candidate = store.state().candidate
    if candidate is not None:
        store.change(lambda known: rolled_back(known, candidate.id, "too many errors", is_denied=True))
    _updater(world, root).run()


def _repair(world: World, root: Path) -> None:
    store = _store(root)
    model = store.place(store.state().resorts()[0]) / "variants/numpy-int8/model.bin"
    model.chmod(0o644)
    data = bytearray(model.read_bytes())
    data[100] ^= 1
    model.write_bytes(data)
    handle = model.open("rb")
    handle.close()
    store.boot(Bundle.open)
    _updater(world, root).run()


SCENES = (
    Scene("first install", _publish_first, _update, frozenset({"factory", "1"}), frozenset({"1"})),
    Scene("update", _publish_both, _update, frozenset({"1", "2"}), frozenset({"2"})),
    Scene("roll back", _publish_both, _update_and_go_back, frozenset({"1", "2"}), frozenset({"1", "2"})),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Interrupt updates everywhere.")
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    failed = False
    for scene in SCENES:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
            swept = sweep(scene, Path(folder) / "world", arguments.seeds)
        print(
            f"{scene.name}: {swept.operations} operations, {swept.states} distinct states, "
            f"{len(swept.failures)} failures, {time.monotonic() - start:.0f} s",
            flush=True,
        )
        kinds = Counter(failure.problem[:80] for failure in swept.failures)
        for problem, count in kinds.most_common(5):
            print(f"  {count} × {problem}")
        for failure in swept.failures[:5]:
            print(f"  {failure}")
        failed = failed or bool(swept.failures)
    return int(failed)


def fast_folder() -> str | None:
    """Return a folder in memory where there is one: the model needs no real disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


if __name__ == "__main__":
    sys.exit(main())
