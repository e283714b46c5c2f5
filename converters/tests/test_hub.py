"""Checkpoints from a hub: a real one on loopback, asked by the hub's own client."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIND = """
import sys
from doorstep.errors import CheckpointError
from doorstep_converters.checkpoint import find_checkpoint
try:
    found = find_checkpoint(sys.argv[1], is_pickle_allowed=sys.argv[2] == "pickle")
    print(found.model_type, ",".join(found.labels), sorted(path.name for path in found.folder.iterdir()))
except CheckpointError as error:
    print(error)
"""


class Hub:
    """A hub with one repository, `shop/reviews`; counts what is fetched."""

    def __init__(self, files: dict[str, bytes]) -> None:
        fetched: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(is_head=True)

            def do_GET(self) -> None:
                self._answer(is_head=False)

            def log_message(self, *arguments: object) -> None:
                return None

            def _answer(self, is_head: bool) -> None:
                path = self.path.partition("?")[0]
                name = path.removeprefix(f"/shop/reviews/resolve/{COMMIT}/")
                if path.startswith("/api/models/shop/reviews/tree/"):
                    tree = [
                        {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for name, content in files.items()
                    ]
                    data = json.dumps(tree).encode()
                elif path.startswith("/api/models/shop/reviews"):
                    siblings = [{"rfilename": name} for name in files]
                    data = json.dumps({"id": "shop/reviews", "sha": COMMIT, "siblings": siblings}).encode()
                elif name in files:
                    data = files[name]
                    if not is_head:
                        fetched.append(name)
                else:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if not is_head:
                    self.wfile.write(data)

        self.fetched = fetched
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub(make_checkpoint: Callable[[str], Path]) -> Iterator[Hub]:
    folder = make_checkpoint("bert")
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    files |= {"pytorch_model.bin": b"a pickle", "modeling_custom.py": b"raise SystemExit", "onnx/model.onnx": b"big"}
    made = Hub(files)
    yield made
    made.server.shutdown()
    made.server.server_close()


def find(hub: Hub, folder: Path, source: str, permission: str = "") -> str:
    """Find a checkpoint in a process of its own: the hub's client reads its settings once."""
    environment = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}
    command = ["env", *(f"{name}={value}" for name, value in environment.items()), "HF_HUB_OFFLINE=0"]
    command += [sys.executable, "-c", FIND, source, permission]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_hub_id_is_downloaded_without_code_or_pickles(hub: Hub, tmp_path: Path) -> None:
    assert find(hub, tmp_path, "shop/reviews").startswith("bert buy,return,ask,complain")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(hub.fetched)
    assert not [name for name in hub.fetched if name.endswith((".bin", ".py", ".onnx"))]


def test_a_pickle_is_downloaded_only_with_permission(hub: Hub, tmp_path: Path) -> None:
    find(hub, tmp_path, "shop/reviews", "pickle")
    assert "pytorch_model.bin" in hub.fetched
    assert "modeling_custom.py" not in hub.fetched


def test_a_hub_id_that_the_hub_lacks_is_named(hub: Hub, tmp_path: Path) -> None:
    assert "shop/nothing: no such folder, and the hub did not give it" in find(hub, tmp_path, "shop/nothing")
