"""A model as exporters need it: named inputs, named outputs, an example of each shape."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.tensors import TensorSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Exportable:
    """A module whose `forward` takes `inputs` in their order and returns the outputs.

    Attributes:
        module: a torch module in eval mode.
        onnx: bytes of a finished ONNX graph instead, where there is no torch module (trees).
        shortest: least length of the open axis that engines of fixed shapes are given.
    """

    module: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    onnx: bytes = b""
    shortest: int = 16

    def example(self, batch: int, length: int, is_narrow: bool) -> "dict[str, torch.Tensor]":
        """Return feeds for tracing; integers are int32 where `is_narrow`, the last quarter of a mask is padding."""
        import torch

        generator = torch.Generator().manual_seed(7)
        feeds = {}
        for spec in self.inputs:
            shape = [batch if axis == "batch" else length if isinstance(axis, str) else axis for axis in spec.shape]
            if spec.dtype.startswith("float"):
                feeds[spec.name] = torch.rand(shape, generator=generator)
            else:
                whole = torch.int32 if is_narrow else torch.int64
                feeds[spec.name] = torch.full(shape, length if spec.name == "lengths" else 1, dtype=whole)
                if spec.name == "attention_mask":
                    feeds[spec.name][:, length - length // 4 :] = 0
        return feeds

    @property
    def is_varying(self) -> bool:
        """Tell whether an axis beside the batch varies."""
        return any(isinstance(axis, str) and axis != "batch" for spec in self.inputs for axis in spec.shape)


def load_exportable(task: str, folder: Path, is_pickle_allowed: bool) -> Exportable:
    """Load a checkpoint of `task`."""
    crafts: Any = importlib.import_module("doorstep_converters.tasks")
    loaded: Exportable = crafts.find_craft(task).load(folder, is_pickle_allowed)
    return loaded
