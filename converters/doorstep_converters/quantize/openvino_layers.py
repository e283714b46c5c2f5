"""The layers of an OpenVINO graph, quantized one by one by NNCF."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from doorstep.tensors import Array
from doorstep_converters.quantize.calibration import read_feeds
from doorstep_converters.quantize.mixed import Run, weigh_graph
from doorstep_converters.quantize.openvino import dense_layers, static
from doorstep_converters.worker import Channel

_PLAIN = ("Constant", "Parameter", "Result", "Convert")
_RANGED = 32  # feeds that ranges are measured on while layers are weighed


def weigh(
    out: Path,
    channel: Channel,
    source: str,
    recipe: str,
    calibration: str,
    tokenizer: str,
    max_length: int,
    agreement: float | None,
) -> dict[str, Any]:
    """Weigh the layers of an fp32 graph; a job of `stages`, see `mixed.weigh_graph`.

    The recipe is a static one.
    """
    feeds = read_feeds(Path(calibration), Path(tokenizer), max_length, "int64")
    return weigh_graph(OpenVinoLayers(Path(source), feeds), feeds, agreement, channel)


class OpenVinoLayers:
    """A graph that is read anew for each try: NNCF changes what it quantizes."""

    most_groups = 16

    def __init__(self, source: Path, feeds: Sequence[dict[str, Array]]) -> None:
        self._source = source
        self._feeds = feeds[:_RANGED]
        self._layers = dense_layers(self._read())

    def layers(self) -> list[str]:
        return self._layers

    def quantized(self, layers: Sequence[str]) -> Run:
        model = self._read()
        if layers:
            wanted = set(layers)
            others = [n.get_friendly_name() for n in model.get_ordered_ops() if n.get_type_name() not in _PLAIN]
            model = static(model, self._feeds, ignored=[name for name in others if name not in wanted])
        compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1})
        return lambda feed: [np.array(value) for value in compiled(feed).values()]

    def _read(self) -> ov.Model:
        return ov.Core().read_model(self._source)
