"""doorstep: the last metre of machine learning.

    from doorstep import Predictor

    with Predictor.load("dist/reviews.bundle") as predictor:
        predictor.predict("arrived in two days, love it")

Importing this package loads no engine, no tokenizer, and nothing that needs more than NumPy.
"""

import numpy  # noqa: F401 -- before our own modules: imported between them it takes 25 ms longer

from doorstep.errors import (
    BundleError,
    ConversionError,
    DepotError,
    DoorstepError,
    EngineError,
    FleetError,
    FormatError,
    IncompatibleError,
    InputError,
    IntegrityError,
    MissingExtraError,
    SignatureError,
    StoreError,
    TransferError,
    TrustError,
    UsageError,
)
from doorstep.predictor import LoadOptions, Predictor
from doorstep.results import Classification, Label, Tensors
from doorstep.selection import Why
from doorstep.signing import TrustKey

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "Classification",
    "ConversionError",
    "DepotError",
    "DoorstepError",
    "EngineError",
    "FleetError",
    "FormatError",
    "IncompatibleError",
    "InputError",
    "IntegrityError",
    "Label",
    "LoadOptions",
    "MissingExtraError",
    "Predictor",
    "SignatureError",
    "StoreError",
    "Tensors",
    "TransferError",
    "TrustError",
    "TrustKey",
    "UsageError",
    "Why",
    "__version__",
]
