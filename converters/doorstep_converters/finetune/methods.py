"""The ways to fine-tune, and what each leaves behind: merged weights, or a part of the graph.

| method  | learns                                       | afterwards                      |
|---------|----------------------------------------------|---------------------------------|
| full    | every weight                                 | the same architecture           |
| lora    | low-rank updates of every linear layer       | merged into the weights         |
| adalora | the same, rank moved to where it helps       | merged into the weights         |
| adapter | a bottleneck behind every layer              | part of the graph               |
| prefix  | keys and values in front of every layer's    | part of the graph               |
| prompt  | virtual tokens in front of the text          | part of the graph               |
| head    | the classification head alone                | the same architecture           |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import peft
from peft.utils import ModulesToSaveWrapper
from torch import nn

from doorstep.errors import UsageError
from doorstep_converters.finetune.tuned import TunedConfig, TunedForSequenceClassification, check_prefix

_RANK, _WIDTH, _VIRTUAL = 16, 48, 16
_HEADS = ("pooler", "pre_classifier", "classifier", "score")  # what transformers calls the parts behind an encoder


@dataclass(frozen=True, slots=True)
class Method:
    """One way to fine-tune.

    Attributes:
        learning_rate: what the method is usually happy with.
        prepare: freezes and adds to a loaded classifier; returns what the Trainer trains.
        finish: returns the model to save, as transformers or doorstep can load it.
        can_mix: takes mixed embeddings in place of tokens.
    """

    learning_rate: float
    prepare: "Callable[[Any, int], Any]"
    finish: Callable[[Any], Any]
    can_mix: bool = True


def find_method(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        UsageError: there is none; the message lists the known.
    """
    if name not in METHODS:
        raise UsageError(f"finetune: expected one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def head_names(model: Any) -> list[str]:
    """Return the names of the modules behind the encoder; they are learnt anew by every method."""
    names = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in _HEADS]
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _full(model: Any, steps: int) -> Any:
    return model


def _head(model: Any, steps: int) -> Any:
    model.requires_grad_(False)
    for name in head_names(model):
        model.get_submodule(name).requires_grad_(True)
    return model


def _lora(model: Any, steps: int) -> Any:
    config = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS,
        r=_RANK,
        lora_alpha=2 * _RANK,
        lora_dropout=0.05,
        target_modules=_linear_layers(model),
        modules_to_save=head_names(model),
    )
    return peft.get_peft_model(model, config)


def _adalora(model: Any, steps: int) -> Any:
    config = peft.AdaLoraConfig(
        task_type=peft.TaskType.SEQ_CLS,
        init_r=_RANK + _RANK // 2,
        target_r=_RANK,
        lora_alpha=2 * _RANK,
        lora_dropout=0.05,
        tinit=steps // 10,
        tfinal=steps // 3,
        deltaT=max(1, steps // 100),
        total_step=max(3, steps),
        target_modules=_linear_layers(model),
        modules_to_save=head_names(model),
    )
    return peft.get_peft_model(model, config)


def _adapter(model: Any, steps: int) -> Any:
    return _head_of(TunedForSequenceClassification(_tuned(model, "adapter", width=_WIDTH), model))


def _prefix(model: Any, steps: int) -> Any:
    check_prefix(model)
    config = peft.PrefixTuningConfig(
        task_type=peft.TaskType.SEQ_CLS, num_virtual_tokens=_VIRTUAL, modules_to_save=head_names(model)
    )
    return peft.get_peft_model(model, config)


def _prompt(model: Any, steps: int) -> Any:
    config = peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_CLS, num_virtual_tokens=_VIRTUAL, modules_to_save=head_names(model)
    )
    return peft.get_peft_model(model, config)


def _merge(model: Any) -> Any:
    return model.merge_and_unload()


def _same(model: Any) -> Any:
    return model


def _unwrap_prompt(model: Any) -> Any:
    inner = _without_wrappers(model.get_base_model())
    weight = model.prompt_encoder["default"].embedding.weight.data  # [virtual, size]
    tuned = TunedForSequenceClassification(_tuned(inner, "prompt", virtual_tokens=weight.shape[0]), inner)
    tuned.prompt.data.copy_(weight)
    return tuned


def _unwrap_prefix(model: Any) -> Any:
    inner = _without_wrappers(model.get_base_model())
    weight = model.prompt_encoder["default"].embedding.weight.data  # [virtual, layers * 2 * size]
    tuned = TunedForSequenceClassification(_tuned(inner, "prefix", virtual_tokens=weight.shape[0]), inner)
    layers, two, heads, virtual, size = tuned.prefix.shape
    tuned.prefix.data.copy_(weight.view(virtual, layers, two, heads, size).permute(1, 2, 3, 0, 4))
    return tuned


def _head_of(tuned: TunedForSequenceClassification) -> TunedForSequenceClassification:
    """Freeze all but the adapters and the head."""
    tuned.inner.requires_grad_(False)
    for name in head_names(tuned.inner):
        tuned.inner.get_submodule(name).requires_grad_(True)
    return tuned


def _tuned(model: Any, method: str, width: int = 0, virtual_tokens: int = 0) -> TunedConfig:
    config = model.config
    return TunedConfig(
        base=config.to_dict(),
        method=method,
        width=width,
        virtual_tokens=virtual_tokens,
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=config.problem_type,
    )


def _linear_layers(model: Any) -> list[str]:
    """Return the full names of every linear layer of the encoder."""
    heads = head_names(model)
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and not _is_below(name, heads)
    ]


def _is_below(name: str, heads: Sequence[str]) -> bool:
    return any(name == head or name.startswith(f"{head}.") for head in heads)


def _without_wrappers(model: Any) -> Any:
    """Put the trained copies of peft's `modules_to_save` in the places of the originals."""
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.modules_to_save["default"])
    return model


METHODS: dict[str, Method] = {
    "full": Method(1e-4, _full, _same),
    "lora": Method(1e-3, _lora, _merge),
    "adalora": Method(2e-3, _adalora, _merge),
    "adapter": Method(1e-3, _adapter, _same, can_mix=False),
    "prefix": Method(1e-2, _prefix, _unwrap_prefix, can_mix=False),
    "prompt": Method(1e-2, _prompt, _unwrap_prompt, can_mix=False),
    "head": Method(3e-3, _head, _same),
}
