"""Networks over pictures that are trained from nothing: `new:KIND-WIDTH-SIDE`, for example `new:resnet-32w-64px`."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorstep.errors import CheckpointError
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.tasks.images_processor import FILE

KINDS = ("mobilenet_v2", "resnet")
_NAME = re.compile(r"(mobilenet_v2|resnet)-([0-9]{1,3})w-([0-9]{2,3})px")
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet


@dataclass(frozen=True, slots=True)
class NewNetwork:
    """A network to build.

    Attributes:
        width: of `resnet` the channels of its first stage, of `mobilenet_v2` the width in percent.
        side: pixels of the square it reads.
    """

    kind: str
    width: int
    side: int

    @classmethod
    def from_name(cls, name: str) -> "NewNetwork":
        """Read a name.

        Raises:
            CheckpointError: it is none, or too small to be built.
        """
        found = _NAME.fullmatch(name)
        if found is None or int(found[2]) < 4 or not 32 <= int(found[3]) <= 512:
            raise CheckpointError(
                f"new:{name}: expected {' or '.join(KINDS)}, a width and a side of 32 to 512 pixels, "
                "for example new:resnet-32w-64px or new:mobilenet_v2-50w-96px"
            )
        return cls(found[1], int(found[2]), int(found[3]))

    def build(self, labels: Sequence[str]) -> Any:
        """Return the untrained model (worker)."""
        import transformers

        names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
        if self.kind == "resnet":
            widths = [self.width * factor for factor in (1, 2, 4, 8)]
            config: Any = transformers.ResNetConfig(
                embedding_size=self.width, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic", **names
            )
        else:
            config = transformers.MobileNetV2Config(
                depth_multiplier=self.width / 100, image_size=self.side, tf_padding=False, **names
            )
        return transformers.AutoModelForImageClassification.from_config(config)

    def write_processor(self, folder: Path) -> None:
        """Write how its pictures are made."""
        plain = {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": self.side, "width": self.side},
            "resample": 2,
            "rescale_factor": 1 / 255,
            "image_mean": _MEAN,
            "image_std": _STD,
        }
        (folder / FILE).write_text(json.dumps(plain, indent=1), encoding="utf-8")


def new_checkpoint(source: str) -> Checkpoint:
    """Return what stands for a network that shall be trained; `source` is `new:NAME`.

    Raises:
        CheckpointError: no such network.
    """
    name = source.removeprefix("new:")
    network = NewNetwork.from_name(name)
    return Checkpoint(source, Path(), network.kind, None, 0, "", False, source, is_new=True)
