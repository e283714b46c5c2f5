"""The command line that TUF's conformance suite drives, each command a process as the suite starts it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from device_tests.fleet import tuf_client
from device_tests.fleet.fault_server import serving
from device_tests.fleet.world import PRODUCT, World
from doorstep.fleet.depot import Depot, channel_path
from doorstep.fleet.keys import KeyRing

TOP_ROLES = ("root", "timestamp", "snapshot", "targets")


@dataclass
class Client:
    """The client under test with its two folders."""

    metadata: Path
    targets: Path

    def run(self, *arguments: str, depot: str = "") -> subprocess.CompletedProcess[str]:
        options = ["--metadata-dir", str(self.metadata), "--metadata-url", f"{depot}/metadata/"]
        options += ["--target-base-url", f"{depot}/targets/", "--target-dir", str(self.targets)]
        return subprocess.run(
            [sys.executable, tuf_client.__file__, *options, *arguments], capture_output=True, text=True, check=False
        )

    def download(self, name: str, depot: str) -> subprocess.CompletedProcess[str]:
        return self.run("--target-name", name, "download", depot=depot)


@pytest.fixture
def today(fast: Path) -> World:
    """A depot with release 1 that is valid by this machine's clock, which the client goes by."""
    world = World(fast / "today")
    world.clock.time = datetime.now(UTC)
    Depot.init(world.depot_folder, KeyRing(world.folder / "keys", {}), clock=world.clock)
    world.publish(1)
    return world


@pytest.fixture
def client(fast: Path, today: World) -> Client:
    """A client that was born with the root of `today`."""
    made = Client(fast / "metadata", fast / "targets")
    made.metadata.mkdir()
    made.targets.mkdir()
    done = made.run("init", str(today.depot_folder / "root.json"))
    assert (done.returncode, done.stderr) == (0, "")
    return made


def test_the_client_refreshes_and_downloads_and_fetches_nothing_twice(today: World, client: Client) -> None:
    assert os.access(tuf_client.__file__, os.X_OK)
    name = channel_path(PRODUCT, "stable")
    with serving(today.depot_folder) as served:
        assert client.run("refresh", depot=served.address).returncode == 0
        assert {f"{role}.json" for role in TOP_ROLES} <= {path.name for path in client.metadata.iterdir()}
        assert client.download(name, served.address).returncode == 0
        assert client.download(name, served.address).returncode == 0
        assert len([path for path in served.requests if path.startswith("targets/")]) == 1
        assert client.download("channels/none.json", served.address).returncode == 1
    assert [path.read_bytes() for path in client.targets.iterdir()] == [today.depot.read_target("channels", name)]


def test_the_client_refuses_a_replay_also_after_a_power_cut_emptied_its_metadata(today: World, client: Client) -> None:
    old = Path(shutil.copytree(today.depot_folder, today.folder / "old"))
    today.publish(2)
    assert client.run("refresh", depot=today.address).returncode == 0
    for role in TOP_ROLES[1:]:
        (client.metadata / f"{role}.json").write_bytes(b"")
    refused = client.run("refresh", depot=old.as_uri())
    assert refused.returncode == 1
    assert "older than version" in refused.stderr
