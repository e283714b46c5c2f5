"""What `new:…` builds for sound; names decode: `new:cnn-3l-64w-48r` has 3 layers of 64 filters, 48 LSTM states."""

import re
from typing import NamedTuple

from doorstep.errors import CheckpointError

_NAME = re.compile(r"new:cnn(?:-(\d{1,2})l)?(?:-(\d{1,4})w)?(?:-(\d{1,4})r)?", re.ASCII)


class SoundSpec(NamedTuple):
    """Sizes of a `doorstep-audio-cnn`.

    Attributes:
        layers: of filters behind the first.
        width: filters of each layer, a multiple of 4.
        states: of each direction of a recurrent layer on top; 0 for none.
    """

    layers: int = 3
    width: int = 96
    states: int = 0

    @classmethod
    def from_name(cls, name: str) -> "SoundSpec":
        """Read `new:cnn`, `new:cnn-2l-48w` or `new:cnn-2l-48w-32r`.

        Raises:
            CheckpointError: it is none, or has sizes that cannot be built.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{name}: expected new:cnn, or its sizes as in new:cnn-2l-48w or new:cnn-2l-48w-32r")
        sizes = {field: int(text) for field, text in zip(cls._fields, match.groups(), strict=True) if text}
        spec = cls(**sizes)
        if spec.width < 8 or spec.width % 4 or spec.states % 4:
            raise CheckpointError(f"{name}: expected filters and states in multiples of 4, at least 8 filters")
        return spec
