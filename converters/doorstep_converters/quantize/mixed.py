"""Mixed precision by measured sensitivity: which layers cost most when they alone are quantized, and how many stay.

Each layer (or group of neighbours, where there are many) is quantized alone, and its outputs on calibration items are
compared with those of the fp32 graph, which stands for the checkpoint: parity proves them equal. Then the most
sensitive ones stay in floating point, more and more of them, until the answers agree. The order by sensitivity is that
of HAWQ (Dong et al. 2019, arXiv:1905.03696), with the distance measured in place of its second-order estimate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from doorstep.errors import ConversionError
from doorstep.tensors import Array
from doorstep_converters.worker import Channel

Run = Callable[[dict[str, Array]], list[Array]]
"""A loaded graph: feeds to its outputs, in a fixed order."""

_WEIGHED = 32  # items that each layer is weighed on


class Quantizable(Protocol):
    """A graph whose layers one engine can quantize one by one."""

    most_groups: int
    """Groups that are weighed at most: each costs one pass of the engine's quantizer."""

    def layers(self) -> list[str]:
        """Return the names of the layers that the recipe quantizes, in the order they run."""

    def quantized(self, layers: Sequence[str]) -> Run:
        """Quantize these layers alone; none of them gives the fp32 graph."""


@dataclass(frozen=True, slots=True)
class Weight:
    """What quantizing one group of layers alone costs.

    Attributes:
        distance: root of the squared errors over that of the squared outputs, the mean of all items; 0 for none.
    """

    layers: tuple[str, ...]
    distance: float


def weigh_graph(
    graph: Quantizable, feeds: Sequence[dict[str, Array]], agreement: float | None, channel: Channel
) -> dict[str, Any]:
    """Weigh every layer and choose how many stay in floating point.

    Args:
        agreement: share of rows whose largest output stays the largest (0 to 1); None where outputs are no scores, so
            that only the gate on held-out items can say how many are enough.

    Returns:
        `ranking`: groups of layer names, the most sensitive first; `distances`; `kept`: how many of the groups stay.

    Raises:
        ConversionError: the graph has no layer that the recipe quantizes.
    """
    layers = graph.layers()
    if not layers:
        raise ConversionError("mixed: the graph has no layer that could be quantized; use the plain variant")
    weights = weigh_layers(graph, layers, feeds[:_WEIGHED], channel)
    ranking = sorted(weights, key=lambda weight: -weight.distance)
    kept = 0 if agreement is None else fewest_kept(graph, ranking, feeds, agreement)
    return {
        "ranking": [list(weight.layers) for weight in ranking],
        "distances": [round(weight.distance, 6) for weight in ranking],
        "kept": kept,
    }


def weigh_layers(
    graph: Quantizable, layers: Sequence[str], feeds: Sequence[dict[str, Array]], channel: Channel
) -> list[Weight]:
    """Quantize one group at a time and measure its distance to the fp32 graph."""
    expected = _answers(graph.quantized([]), feeds)
    groups = group(layers, graph.most_groups)
    weights = []
    for place, names in enumerate(groups):
        got = _answers(graph.quantized(names), feeds)
        weights.append(Weight(tuple(names), distance(expected, got)))
        channel.progress(0.8 * (place + 1) / len(groups))
    return weights


def fewest_kept(
    graph: Quantizable, ranking: Sequence[Weight], feeds: Sequence[dict[str, Array]], agreement: float
) -> int:
    """Return how many of the most sensitive groups must stay in floating point until enough answers agree.

    Tried one by one, then in growing steps. At least one group is quantized; where that is not enough the gate on
    held-out items will say so.
    """
    expected = _answers(graph.quantized([]), feeds)
    kept = 0
    while True:
        names = [name for weight in ranking[kept:] for name in weight.layers]
        if agreeing(expected, _answers(graph.quantized(names), feeds)) >= agreement or kept == len(ranking) - 1:
            return kept
        kept = min(kept + max(1, kept // 2), len(ranking) - 1)


def tries(ranking: Sequence[Sequence[str]], kept: int, count: int = 4) -> list[list[str]]:
    """Return the layers to keep in each of a few tries: as many groups as were chosen, then twice as many, and so on.

    >>> tries([["a"], ["b", "c"], ["d"], ["e"]], 1)
    [['a'], ['a', 'b', 'c'], ['a', 'b', 'c', 'd']]
    """
    sizes, size = [kept], kept
    while len(sizes) < count and size < len(ranking) - 1:
        size = min(max(1, 2 * size), len(ranking) - 1)
        sizes.append(size)
    return [[name for names in ranking[:size] for name in names] for size in sizes]


def describe(layers: Sequence[str], modules: Mapping[str, str]) -> str:
    """Return in words which layers stay in floating point; `modules` maps nodes to the checkpoint's modules.

    >>> describe(["node_MatMul_60", "node_matmul/MatMulScaleFusion/"], {"node_MatMul_60": "encoder.0.query"})
    'kept in floating point: encoder.0.query, node_matmul'
    """
    nodes = [name.removeprefix("fused ").partition("/")[0] for name in layers]
    shown = dict.fromkeys(modules.get(node, node) for node in nodes)
    return f"kept in floating point: {', '.join(shown) or 'none, as plain int8 was enough'}"


def group(layers: Sequence[str], most: int) -> list[list[str]]:
    """Put neighbours together until there are at most `most` groups.

    >>> group(["a", "b", "c", "d", "e"], 2)
    [['a', 'b', 'c'], ['d', 'e']]
    """
    size = -(-len(layers) // most)
    return [list(layers[start : start + size]) for start in range(0, len(layers), size)]


def distance(expected: Sequence[list[Array]], got: Sequence[list[Array]]) -> float:
    """Return the mean relative error of the items, over all outputs; infinite where an answer is no number."""
    found = float(np.mean([_relative(one, other) for one, other in zip(expected, got, strict=True)]))
    return found if np.isfinite(found) else float("inf")


def agreeing(expected: Sequence[list[Array]], got: Sequence[list[Array]]) -> float:
    """Return the share of rows of the first output whose largest value stands at the same place."""
    pairs = [(one[0].argmax(axis=-1), other[0].argmax(axis=-1)) for one, other in zip(expected, got, strict=True)]
    return float(np.mean(np.concatenate([(left == right).ravel() for left, right in pairs])))


def _relative(expected: Sequence[Array], got: Sequence[Array]) -> float:
    pairs = [(one.astype(np.float64), other) for one, other in zip(expected, got, strict=True)]
    error = sum(float(np.square(other - one).sum()) for one, other in pairs)
    return float(np.sqrt(error / max(sum(float(np.square(one).sum()) for one, _ in pairs), 1e-30)))


def _answers(run: Run, feeds: Sequence[dict[str, Array]]) -> list[list[Array]]:
    return [run(feed) for feed in feeds]
