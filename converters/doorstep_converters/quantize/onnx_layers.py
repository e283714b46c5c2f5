"""The layers of an ONNX graph, quantized one by one by ONNX Runtime's own quantizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from doorstep.tensors import Array
from doorstep_converters.quantize.calibration import read_feeds
from doorstep_converters.quantize.mixed import Run, weigh_graph
from doorstep_converters.quantize.onnx import DENSE, Ranges, dynamic, for_ranges, static
from doorstep_converters.recipe import split_recipe
from doorstep_converters.worker import Channel


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
    """Weigh the layers of an fp32 graph; a job of `stages`, see `mixed.weigh_graph`."""
    feeds = read_feeds(Path(calibration), Path(tokenizer), max_length, "int64")
    found = weigh_graph(OnnxLayers(Path(source), recipe, feeds, out), feeds, agreement, channel)
    for scratch in ("ranges.json", "folded.onnx"):
        (out / scratch).unlink(missing_ok=True)
    return found


class OnnxLayers:
    """A graph whose quantization is written to a scratch file, again and again."""

    most_groups = 48

    def __init__(self, source: Path, recipe: str, feeds: Sequence[dict[str, Array]], scratch: Path) -> None:
        self._is_static = split_recipe(recipe)[0].startswith("static")
        self._source, kinds = for_ranges(source, scratch) if self._is_static else (source, DENSE)
        self._kinds = kinds or [*DENSE, "Conv"]
        self._place = scratch / "try.onnx"
        self._ranges = Ranges.measure(self._source, "", feeds, scratch, kinds) if self._is_static else None

    def layers(self) -> list[str]:
        graph = onnx.load(self._source, load_external_data=False).graph
        weights = {weight.name for weight in graph.initializer if len(weight.dims) >= 2}
        dense = [node for node in graph.node if node.op_type in self._kinds]
        if self._is_static:
            return [node.name for node in dense if node.op_type != "Gather" or node.input[0] in weights]
        return [node.name for node in dense if weights & set(node.input)]

    def quantized(self, layers: Sequence[str]) -> Run:
        if not layers:
            return _load(self._source)
        if self._ranges is not None:
            static(self._source, self._place, self._ranges, layers)
        else:
            dynamic(self._source, self._place, layers)
        run = _load(self._place)
        self._place.unlink()
        return run


def _load(path: Path) -> Run:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.x64quantprecision", "1")  # as a device's runtime does
    session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    wanted = [given.name for given in session.get_inputs()]
    return lambda feed: session.run(None, {name: feed[name] for name in wanted})
