"""A file of mostly zeros travels in its packed form and is expanded in the store; where that form is wrong in any way,
the whole file is fetched instead."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_tests.fleet.world import AT_ONCE, PIECE, PRODUCT, World, stray, write_bundle
from doorstep import Predictor
from doorstep.bundle import Bundle
from doorstep.errors import DepotError
from doorstep.fleet import care
from doorstep.fleet.depot import blob_path
from doorstep.fleet.publishing import Plan, publish
from doorstep.manifest import decode, encode
from doorstep_converters.adopt import Adoption, adopt

MODEL = "variants/numpy-int8/model.bin"
SIZE = 300_000


def pruned(seed: int, share: float = 0.8) -> bytes:
    random = np.random.default_rng(seed)
    weights = random.normal(size=SIZE // 4).astype(np.float32)
    weights[random.random(len(weights)) < share] = 0
    return weights.tobytes()


def packed_blob(world: World) -> Path:
    manifest = Bundle.open(world.folder / "drafts/2").manifest
    entry = next(entry for entry in manifest.files if entry.path == MODEL)
    assert entry.packed is not None
    return world.depot_folder / blob_path(entry.packed.sha256)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_device_fetches_the_packed_form_and_holds_the_file(world: World) -> None:
    world.publish(2, {MODEL: pruned(2)}, has_deltas=False)
    outcome = world.run()
    assert (outcome.kind, world.served()) == ("updated", "2")
    assert outcome.received < 0.3 * SIZE
    assert (world.store().current / MODEL).read_bytes() == pruned(2)
    assert stray(world.store()) == []


FAULTS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "flipped bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_packed_form_costs_bytes_and_nothing_else(fault: str, world: World) -> None:
    world.publish(2, {MODEL: pruned(2)}, has_deltas=False)
    FAULTS[fault](packed_blob(world))
    assert world.run().kind == "updated"
    assert (world.store().current / MODEL).read_bytes() == pruned(2)
    assert stray(world.store()) == []


def test_a_declared_form_that_the_file_does_not_give_is_not_published(world: World) -> None:
    folder = write_bundle(world.folder / "drafts/9", "9", {MODEL: pruned(2)})
    path = folder / "manifest.json"
    sha256 = next(entry.packed.sha256 for entry in decode(path.read_bytes()).files if entry.packed is not None)
    path.write_bytes(path.read_bytes().replace(sha256.encode(), b"0" * 64))
    assert encode(decode(path.read_bytes()))
    with pytest.raises(DepotError, match="not as the manifest declares it"):
        publish(world.depot, world.ring, folder, Plan(piece_size=PIECE), tell=lambda text: None)
    assert world.run().kind == "updated"
    assert world.served() == "1"


def test_a_depot_s_care_knows_packed_forms(world: World) -> None:
    world.publish(2, {MODEL: pruned(2)}, has_deltas=False)
    assert not [finding for finding in care.fsck(world.depot) if finding.is_error]
    flip(packed_blob(world))
    assert any("altered" in finding.text for finding in care.fsck(world.depot))


def test_a_pruned_model_is_pulled_and_answers_as_it_did_at_home(world: World, tmp_path: Path) -> None:
    """ONNX → bundle with both digests → depot → store → expanded → Predictor, in the engine itself."""
    weights = np.frombuffer(pruned(3), np.float32)[: 256 * 256].reshape(256, 256)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 256]) for name in ("x", "y")]
    graph = helper.make_graph([node], "pruned", values[:1], values[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    adopt(Adoption(model=tmp_path / "m.onnx", out=tmp_path, name="pruned"))
    plan = Plan(product=PRODUCT, piece_size=PIECE, health=AT_ONCE, has_deltas=False)
    publish(world.depot, world.ring, tmp_path / "pruned.bundle", plan, tell=lambda text: None)
    outcome = world.run()
    assert outcome.kind == "updated"
    assert outcome.received < 0.4 * weights.nbytes
    item = {"x": np.linspace(-1, 1, 256, dtype=np.float32)}
    answers = []
    for place in (tmp_path / "pruned.bundle", world.store().current):
        with Predictor.load(place) as predictor:
            answers.append(predictor.predict(item))
    assert answers[0] == answers[1]
