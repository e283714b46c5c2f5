"""Students: small checkpoints that learn from a large one. Each is a checkpoint folder like any other."""

from importlib import import_module

MODELS = {
    "doorstep-bilstm": ("bilstm", "BiLstm"),
    "doorstep-cnn": ("cnn", "Cnn"),
    "doorstep-hashed": ("hashed", "Hashed"),
    "doorstep-static": ("static", "Static"),
}
"""Model type to the module it lives in and the beginning of its classes' names."""
TAGGERS = ("doorstep-bilstm", "doorstep-cnn")
"""Model types that also have a head over each token."""


def is_small(model_type: str) -> bool:
    """Tell whether a model type is one of these: it has neither layers to give nor a space of tokens."""
    return model_type in MODELS


def register() -> None:
    """Tell transformers' Auto classes about the small students; more than once does no harm."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )

    for model_type, (module, name) in MODELS.items():
        found = import_module(f"doorstep_converters.students.{module}")
        config = getattr(found, f"{name}Config")
        AutoConfig.register(model_type, config, exist_ok=True)
        model = getattr(found, f"{name}ForSequenceClassification")
        AutoModelForSequenceClassification.register(config, model, exist_ok=True)
        if hasattr(found, f"{name}Model"):
            AutoModel.register(config, getattr(found, f"{name}Model"), exist_ok=True)
        if model_type in TAGGERS:
            tagger = getattr(found, f"{name}ForTokenClassification")
            AutoModelForTokenClassification.register(config, tagger, exist_ok=True)
