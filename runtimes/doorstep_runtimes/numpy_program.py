"""`model.json` made ready to run: names become places in a list, operators become functions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from doorstep.decoding import decode_json
from doorstep.errors import FormatError
from doorstep.tensors import Array, TensorSpec
from doorstep_runtimes.numpy_operators import bind

FORMAT = 1
MAX_MODEL_BYTES = 4 << 20
_LEFT_OUT, _UNWANTED = 0, 1  # places of inputs and outputs called ""
_UNPACKING = frozenset(["Cast", "DequantizeLinear"])


class Node(NamedTuple):
    """One operator at work; an input or output called "" is left out."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = {}


class Model(NamedTuple):
    """What `model.json` holds: nodes in the order they run."""

    format: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]


class Step(NamedTuple):
    """A node made ready.

    Attributes:
        inputs, outputs: places in the list of values.
        dead: places whose value nobody needs after this step.
    """

    label: str
    function: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dead: tuple[int, ...]


class Program(NamedTuple):
    """Steps, and the values they start from: None where one is yet to come."""

    steps: tuple[Step, ...]
    values: tuple[Array | None, ...]
    places: dict[str, int]

    def find(self, specs: Iterable[TensorSpec], names: Sequence[str]) -> tuple[tuple[str, int], ...]:
        """Return (declared name, place) of declared tensors, which must be among `names`.

        Raises:
            FormatError: the file has no such tensor.
        """
        found = []
        for spec in specs:
            source = spec.source or spec.name
            if source not in names:
                raise FormatError(f"{source[:80]!r}: expected one of {', '.join(names):.200}")
            found.append((spec.name, self.places[source]))
        return tuple(found)


def read_model(path: Path) -> Model:
    """Read `model.json`.

    Raises:
        FormatError: malformed or too large.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_MODEL_BYTES + 1)
    if len(data) > MAX_MODEL_BYTES:
        raise FormatError(f"{path.name}: expected at most {MAX_MODEL_BYTES} bytes")
    return decode_json(data, Model, path.name, FORMAT)


def plan(model: Model, weights: dict[str, Array], is_unpacked: bool) -> Program:
    """Make a model ready; `is_unpacked` computes now what only unpacks weights.

    Raises:
        FormatError: an input that nothing makes before it is used, or a name made twice.
        EngineError: an operator that is not known here.
    """
    places = {"": _LEFT_OUT, "\0": _UNWANTED}
    for name in (*model.inputs, *weights):
        _define(name, places)
    constants = {places[name]: array for name, array in weights.items()}
    last_use = {name: number for number, node in enumerate(model.nodes) for name in node.inputs}
    steps = []
    for number, node in enumerate(model.nodes):
        label = f"node {number} ({node.op:.80})"
        if missing := [name for name in node.inputs if name not in places]:
            raise FormatError(f"{label}: nothing makes its input {missing[0][:80]!r}")
        function = bind(node.op, node.attributes, len(node.inputs), len(node.outputs))
        inputs = tuple([places[name] for name in node.inputs])
        outputs = tuple([_define(name, places) if name else _UNWANTED for name in node.outputs])
        if is_unpacked and node.op in _UNPACKING and constants.keys() >= set(inputs):
            constants[outputs[0]] = function(*[constants[place] for place in inputs])
            continue
        dead = {name for name in node.inputs if last_use[name] == number}
        dead |= {name for name in node.outputs if name not in last_use}
        freed = {places[name] for name in dead - {"", *model.outputs}} - constants.keys()
        steps.append(Step(label, function, inputs, outputs, tuple(freed)))
    if missing := [name for name in model.outputs if name not in places]:
        raise FormatError(f"nothing makes the output {missing[0][:80]!r}")
    return Program(tuple(steps), tuple([constants.get(place) for place in range(len(places))]), places)


def _define(name: str, places: dict[str, int]) -> int:
    if name in places:
        raise FormatError(f"{name[:80]!r} is made twice")
    places[name] = len(places)
    return places[name]
