"""The NumPy runtime's own files: what it reads, what it refuses, what it keeps in memory."""

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from doorstep.errors import EngineError, FormatError
from doorstep.session import Graph, Session, SessionOptions, open_session
from doorstep.tensors import TensorSpec
from doorstep_runtimes.numpy_program import MAX_MODEL_BYTES
from doorstep_runtimes.numpy_threads import limit_threads
from doorstep_runtimes.numpy_weights import MAX_HEADER_BYTES, open_weights

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)
MODEL: dict[str, Any] = {
    "format": 1,
    "inputs": ["x"],
    "outputs": ["y"],
    "nodes": [
        {"op": "MatMul", "inputs": ["x", "w"], "outputs": ["h"]},
        {"op": "Softmax", "inputs": ["h"], "outputs": ["y"], "attributes": {"axis": -1}},
    ],
}
SPECS = (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 3)),)
FEEDS = {"x": np.ones((4, 2), np.float32)}


def write(folder: Path, model: Any = MODEL, weights: bytes | None = None) -> Graph:
    data = model if isinstance(model, bytes) else json.dumps(model).encode()
    (folder / "model.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(tensors() if weights is None else weights)
    return Graph(folder / "model.json", *SPECS)


def tensors(header: Any = None, data: bytes = WEIGHT.tobytes(), length: int | None = None) -> bytes:
    """Return a .safetensors file, sound unless told otherwise."""
    entry = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}} if header is None else header
    text = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def with_nodes(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {**MODEL, "nodes": list(nodes)}


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> dict[str, Any]:
    return {"op": op, "inputs": inputs, "outputs": outputs, "attributes": attributes}


def open_(graph: Graph, **options: Any) -> Session:
    return open_session("numpy", graph, SessionOptions(engine_options=options))


def test_a_sound_model_answers(tmp_path: Path) -> None:
    expected = np.exp(FEEDS["x"] @ WEIGHT)
    fetched = open_(write(tmp_path)).run(FEEDS)["y"]
    np.testing.assert_allclose(fetched, expected / expected.sum(-1, keepdims=True), rtol=1e-6)


BAD_MODELS: dict[str, tuple[Any, str]] = {
    "an unknown operator": (with_nodes(node("Einsum", ["x", "w"], ["y"])), "no operator 'Einsum'"),
    "a name of Python": (with_nodes(node("__import__", ["x"], ["y"])), "no operator"),
    "an unknown attribute": (with_nodes(node("Softmax", ["x"], ["y"], out=1)), "attribute 'out'"),
    "an attribute of another type": (with_nodes(node("Softmax", ["x"], ["y"], axis="0")), "axis cannot be"),
    "a bool for a number": (with_nodes(node("Softmax", ["x"], ["y"], axis=True)), "axis cannot be"),
    "a list of other things": (with_nodes(node("Transpose", ["x"], ["y"], perm=[0, [1]])), "perm cannot be"),
    "a missing attribute": (with_nodes(node("Cast", ["x"], ["y"])), "to is missing"),
    "a type that holds objects": (with_nodes(node("Cast", ["x"], ["y"], to="object")), "to cannot be"),
    "a constant of objects": (with_nodes(node("ConstantOfShape", ["x"], ["y"], dtype="O")), "dtype cannot be"),
    "too many inputs": (with_nodes(node("Tanh", ["x", "w"], ["y"])), "2 inputs"),
    "too many outputs": (with_nodes(node("Tanh", ["x"], ["y", "z"])), "2 outputs"),
    "no outputs": (with_nodes(node("Tanh", ["x"], [])), "0 outputs"),
    "an input that nothing makes": (with_nodes(node("Tanh", ["z"], ["y"])), "nothing makes its input 'z'"),
    "a circle": (with_nodes(node("Tanh", ["y"], ["y"])), "nothing makes its input 'y'"),
    "an output that nothing makes": (with_nodes(node("Tanh", ["x"], ["z"])), "nothing makes the output 'y'"),
    "an output made twice": (with_nodes(*[node("Tanh", ["x"], ["y"])] * 2), "made twice"),
    "an output over a weight": (with_nodes(node("Tanh", ["x"], ["w"])), "made twice"),
    "an output over an input": (with_nodes(node("Tanh", ["x"], ["x"])), "made twice"),
    "another format": ({**MODEL, "format": 2}, "reads format 1"),
    "a list": ([], "expected an object"),
    "nodes of another type": ({**MODEL, "nodes": {}}, "nodes: expected a list"),
    "an input that is not declared": ({**MODEL, "inputs": ["x", "z"]}, "'z' is not declared"),
    "a name twice in an object": (b'{"format": 1, "format": 1}', "twice"),
    "deep nesting": (b"[" * 100_000, "model.json"),
    "a number no float holds": (json.dumps(MODEL).replace("-1", "1e999").encode(), "no JSON number"),
    "a pickle": (pickle.dumps(MODEL), "model.json"),
    "too many bytes": (json.dumps(MODEL).encode() + b" " * MAX_MODEL_BYTES, "at most"),
    "nothing": (b"", "model.json"),
}


@pytest.mark.parametrize("attack", BAD_MODELS)
@pytest.mark.parametrize("is_unpacked", [False, True])
def test_a_malformed_model_is_refused_when_it_is_opened(attack: str, is_unpacked: bool, tmp_path: Path) -> None:
    model, message = BAD_MODELS[attack]
    with pytest.raises(EngineError, match=message):
        open_(write(tmp_path, model), is_unpacked=is_unpacked)


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}}


TWO = {"w": entry()["w"], "v": {"dtype": "F32", "shape": [1], "data_offsets": [24, 28]}}
BAD_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "at least 8 bytes"),
    "half a length": (b"\x01\0\0", "at least 8 bytes"),
    "a header longer than the file": (tensors(length=1 << 20), "header of at most"),
    "a header of 16 EiB": (tensors(length=(1 << 64) - 1), "header of at most"),
    "a huge header": (tensors(b" " * (MAX_HEADER_BYTES + 1)), "header of at most"),
    "no header": (struct.pack("<Q", 0), "expected JSON"),
    "a header cut short": (tensors(length=20), "expected JSON"),
    "a header of a list": (tensors([]), "expected an object"),
    "a pickle": (tensors(pickle.dumps(WEIGHT)), "expected JSON"),
    "a NumPy file": (b"\x93NUMPY" + bytes(200), "header of at most"),
    "a name twice": (tensors(b'{"w": {}, "w": {}}'), "twice"),
    "an entry that is no object": (tensors({"w": 1}), "expected an object"),
    "an unknown dtype": (tensors(entry(dtype="BF16")), "expected a dtype"),
    "a dtype of objects": (tensors(entry(dtype="O")), "expected a dtype"),
    "a wrong dtype": (tensors(entry(dtype="F64")), "expected 48 bytes"),
    "a negative length": (tensors(entry(shape=[-2, -3])), "no possible shape"),
    "a length that is no number": (tensors(entry(shape=[2, "3"])), "expected int"),
    "a length that is a bool": (tensors(entry(shape=[6, True])), "expected int"),
    "a shape beyond 64 bits": (tensors(entry(shape=[1 << 62, 1 << 62])), "bytes for its shape"),
    "a shape that overflows to 24 bytes": (tensors(entry(shape=[(1 << 62) + 2, 3])), "bytes for its shape"),
    "too many axes": (tensors(entry(shape=[1] * 40 + [2, 3])), "no possible shape"),
    "one offset": (tensors(entry(data_offsets=[0])), "offsets"),
    "a negative offset": (tensors(entry(data_offsets=[-24, 0])), "next tensor at byte 0"),
    "offsets backwards": (tensors(entry(data_offsets=[24, 0])), "got offsets"),
    "an offset behind the end": (tensors(entry(data_offsets=[24, 48])), "next tensor at byte 0"),
    "an offset into the header": (tensors(entry(data_offsets=[-8, 16])), "next tensor at byte 0"),
    "tensors that overlap": (tensors({**TWO, "v": {**TWO["v"], "data_offsets": [20, 24]}}), "next tensor"),
    "a hole": (tensors({**TWO, "v": {**TWO["v"], "data_offsets": [28, 32]}}, bytes(32)), "next tensor"),
    "data cut short": (tensors(data=WEIGHT.tobytes()[:-1]), "bytes of tensors"),
    "data too long": (tensors(data=WEIGHT.tobytes() + b"\0"), "bytes of tensors"),
    "no tensors": (tensors({}, b""), "nothing makes its input 'w'"),
}


@pytest.mark.parametrize("attack", BAD_WEIGHTS)
def test_malformed_weights_are_refused_when_they_are_opened(attack: str, tmp_path: Path) -> None:
    data, message = BAD_WEIGHTS[attack]
    with pytest.raises(EngineError, match=message):
        open_(write(tmp_path, weights=data))


@given(noise=st.binary(max_size=200), place=st.integers(0, 130))
@settings(max_examples=200, deadline=None)
def test_weights_with_any_bytes_in_them_are_read_or_refused(
    noise: bytes, place: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sound = tensors()
    path = tmp_path_factory.mktemp("noise") / "model.safetensors"
    path.write_bytes(sound[:place] + noise + sound[place + len(noise) :])
    try:
        found = open_weights(path)
    except FormatError:
        return
    assert sum(array.nbytes for array in found.values()) <= path.stat().st_size


BAD_RUNS: dict[str, dict[str, Any]] = {
    "shapes that do not fit": with_nodes(node("MatMul", ["w", "x"], ["y"])),
    "an index outside": with_nodes(node("Cast", ["x"], ["i"], to="int64"), node("Gather", ["i", "i"], ["y"], axis=5)),
    "an array of 16 EiB": with_nodes(
        node("Cast", ["w"], ["i"], to="int64"), node("Exp", ["w"], ["e"]), node("Pow", ["e", "e"], ["p"]),
        node("Mul", ["p", "p"], ["q"]), node("Cast", ["q"], ["n"], to="int64"),
        node("ConstantOfShape", ["n"], ["y"]),
    ),
    "a step of nothing": with_nodes(node("ReduceMin", ["w"], ["z"], keepdims=0), node("Range", ["z", "z", "z"], ["y"])),
    "text where numbers are": with_nodes(node("Conv", ["x", "w"], ["y"], pads=[1, 1])),
    "a kernel of another size than its weight": with_nodes(
        node("Unsqueeze", ["x", "one"], ["u"]), node("Conv", ["u", "v"], ["y"], kernel_shape=[5])
    ),
    "strides backwards": with_nodes(
        node("Unsqueeze", ["x", "one"], ["u"]), node("MaxPool", ["u"], ["y"], kernel_shape=[1], strides=[-1])
    ),
    "padding beyond any memory": with_nodes(
        node("Unsqueeze", ["x", "one"], ["u"]), node("MaxPool", ["u"], ["y"], kernel_shape=[1], pads=[1 << 40, 0])
    ),
    "one direction where weights hold two": with_nodes(
        node("Unsqueeze", ["x", "one"], ["u"]), node("LSTM", ["u", "g", "g"], ["y"], hidden_size=1)
    ),
    "an expansion beyond any memory": with_nodes(node("Expand", ["w", "many"], ["e"]), node("ReduceSum", ["e"], ["y"])),
    "an output that its node does not make": with_nodes(node("Split", ["x"], ["a", "y"], num_outputs=1)),
    "an absent input": with_nodes(node("MatMul", ["x", ""], ["y"])),
    "fewer outputs than named": with_nodes(
        node("Split", ["x"], ["a", "b", "c"], num_outputs=1), node("Add", ["b", "c"], ["y"])
    ),
}  # fmt: skip


EXTRA = {
    "w": WEIGHT, "one": np.array([1]), "v": np.ones((1, 1, 2), np.float32), "g": np.ones((2, 4, 2), np.float32),
    "many": np.array([1 << 30, 2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("attack", BAD_RUNS)
def test_a_model_that_cannot_run_is_an_engine_error(attack: str, tmp_path: Path) -> None:
    session = open_(write(tmp_path, BAD_RUNS[attack], save(EXTRA)))
    with pytest.raises(EngineError, match="NumPy failed in node"):
        session.run(FEEDS)


@pytest.mark.parametrize(
    "nodes, made",
    [
        ([node("Cast", ["x"], ["y"], to="float64")], "float64"),
        ([node("Flatten", ["x"], ["f"]), node("Unsqueeze", ["f", "one"], ["y"])], r"\[4, 1, 2\]"),
        ([node("ArgMax", ["x"], ["y"])], "int64"),
    ],
    ids=["another precision", "another rank", "places for scores"],
)
def test_an_output_of_another_form_than_declared_is_an_engine_error(
    nodes: list[dict[str, Any]], made: str, tmp_path: Path
) -> None:
    session = open_(write(tmp_path, with_nodes(*nodes), save(EXTRA)))
    with pytest.raises(EngineError, match=f"the model makes .*{made}"):
        session.run(FEEDS)


@pytest.mark.parametrize("options", [{"is_unpacked": 1}, {"is_packed": True}, {"is_unpacked": True, "threads": 1}])
def test_an_engine_option_that_is_none_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is_unpacked"):
        open_(write(tmp_path), **options)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3, 4)])
def test_weights_are_what_the_safetensors_library_wrote(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.asarray(np.random.default_rng(3).integers(0, 2, shape)).astype(dtype)
    save_file({"a": array, "another": WEIGHT}, tmp_path / "a.safetensors", metadata={"made": "here"})
    found = open_weights(tmp_path / "a.safetensors")
    assert found["a"].dtype == array.dtype
    assert found["a"].shape == shape
    np.testing.assert_array_equal(found["a"], array)


def test_a_bool_that_is_neither_true_nor_false_is_true(tmp_path: Path) -> None:
    header = {"b": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}
    (tmp_path / "b.safetensors").write_bytes(tensors(header, bytes([0, 1, 77])))
    assert open_weights(tmp_path / "b.safetensors")["b"].view(np.uint8).tolist() == [0, 1, 1]


def test_feeds_and_weights_are_never_written_to(tmp_path: Path) -> None:
    chain = [node("Identity", ["x"], ["a"]), node("Identity", ["a"], ["y"])]
    fetched = open_(write(tmp_path, with_nodes(*chain))).run(FEEDS)["y"]
    fetched[:] = 7
    assert FEEDS["x"].max() == 1
    assert not open_weights(tmp_path / "model.safetensors")["w"].flags.writeable


RESIDENT = """
import sys
from pathlib import Path
from doorstep.fresh_child import memory_mib
from doorstep_runtimes.numpy_weights import open_weights
before = memory_mib("VmRSS")
weights = open_weights(Path(sys.argv[1]))
print(memory_mib("VmRSS") - before, weights["table"][7, :4].tolist())
"""


def test_weights_stay_on_disk_until_they_are_used(tmp_path: Path) -> None:
    save_file({"table": np.ones((16384, 1024), np.float32)}, tmp_path / "table.safetensors")  # 64 MiB
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(tmp_path / "table.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, _, values = done.stdout.partition(" ")
    assert float(grown) < 8
    assert values.strip() == "[1.0, 1.0, 1.0, 1.0]"


THREADS = """
import ctypes
from pathlib import Path
import numpy as np
from doorstep_runtimes import numpy_threads
for count in (1, 2):
    assert numpy_threads.limit_threads(count)
    for path in numpy_threads._blas_libraries(Path("/proc/self/maps")):
        for name in numpy_threads._CALLS:
            if tell := getattr(ctypes.CDLL(path), name.replace("_set_", "_get_"), None):
                print(tell())
"""


def test_openblas_uses_as_many_threads_as_it_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "2"]


@pytest.mark.parametrize("text", ["", "nothing mapped\n", "0-1 r-xp 0 0:0 1 /nowhere/libopenblas.so.0\n"])
def test_without_openblas_the_number_of_threads_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text(text)
    assert not limit_threads(1, tmp_path / "maps")
    assert not limit_threads(1, tmp_path / "no maps")
