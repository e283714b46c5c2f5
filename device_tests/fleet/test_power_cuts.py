"""Faults 1 to 3: killed, or cut off, at every operation on the disk. CI tries a part of the states, evenly chosen;
`make fleet-sweep` tries all of them with 20 seeds.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from device_tests.fleet.mutations import MUTATIONS, Mutation
from device_tests.fleet.sweep import SCENES, Scene, sweep
from device_tests.fleet.world import World, noise, stray

_PROGRAM = """
import sys
from pathlib import Path
from device_tests.fleet.world import World
world = World(Path(sys.argv[1]))
print("ready", flush=True)
print(world.run().kind)
"""


@pytest.mark.parametrize("scene", SCENES, ids=[scene.name for scene in SCENES])
def test_an_update_interrupted_anywhere_never_leaves_a_device_without_a_whole_release(scene: Scene, fast: Path) -> None:
    swept = sweep(scene, fast / "world", seeds=2, every=5)
    assert swept.operations > 100
    assert swept.states > 40
    assert [str(failure) for failure in swept.failures] == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_bug_put_into_the_store_is_noticed(mutation: Mutation, fast: Path) -> None:
    with mutation.applied():
        swept = sweep(SCENES[1], fast / "world", seeds=1, every=mutation.every, most_failures=1)
    assert swept.failures, f"nothing noticed: {mutation.name}"


def test_a_process_killed_at_random_moments_gets_there_in_the_end(world: World) -> None:
    """Real processes, a real SIGKILL, a model of some size; how often it gets through is chance, how it ends is not."""
    world.run()
    world.publish(2, {"variants/numpy-int8/model.bin": noise(3_000_000, 9)}, has_deltas=False)
    chance = random.Random(5)  # noqa: S311 -- when to kill
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(world.folder)], stdout=subprocess.PIPE, env={**os.environ}
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(chance.uniform(0.0, 0.25))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        assert world.served() in ("1", "2")
    world.run()
    assert world.served() == "2"
    assert stray(world.store()) == []
