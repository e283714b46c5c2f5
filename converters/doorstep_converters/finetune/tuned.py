"""Classifiers whose tuning cannot be merged into the weights: adapters, prompts and prefixes become part of the graph.

A checkpoint folder of model type `doorstep-tuned` holds the frozen encoder, what was learnt beside it and the head in
one `model.safetensors`, so that it is loaded, exported and proven like any other.

Sources: bottleneck adapters, Houlsby et al. 2019 (arXiv:1902.00751), placed behind each layer as in Pfeiffer et al.
2020 (arXiv:2005.00247); prompts, Lester et al. 2021 (arXiv:2104.08691); prefixes, Li and Liang 2021 (arXiv:2101.00190).
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from doorstep.errors import UsageError

MODEL_TYPE = "doorstep-tuned"
_PADDED = ("roberta", "xlm-roberta", "camembert")  # their positions start behind the padding id


class TunedConfig(PretrainedConfig):
    """What was learnt beside a frozen encoder.

    Args:
        base: the encoder's own configuration, as a dictionary with its `model_type`.
        method: `adapter`, `prompt` or `prefix`.
        width: inner size of an adapter.
        virtual_tokens: length of a prompt or prefix.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        base: dict[str, Any] | None = None,
        method: str = "adapter",
        width: int = 0,
        virtual_tokens: int = 0,
        **others: Any,
    ) -> None:
        self.base = base or {}
        self.method = method
        self.width = width
        self.virtual_tokens = virtual_tokens
        for name in ("vocab_size", "hidden_size", "pad_token_id", "num_hidden_layers"):
            others.setdefault(name, self.base.get(name))
        positions = self.base.get("max_position_embeddings")
        if positions:
            used = int(self.base.get("pad_token_id") or 1) + 1 if self.base.get("model_type") in _PADDED else 0
            others.setdefault("max_position_embeddings", positions - used - virtual_tokens)
        super().__init__(**others)


class Bottleneck(nn.Module):
    """Adds `up(gelu(down(hidden)))` to what a layer gives; begins as the identity."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(size, width)
        self.up = nn.Linear(width, size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return [batch, sequence, size] for the same."""
        changed: torch.Tensor = hidden + self.up(nn.functional.gelu(self.down(hidden)))
        return changed


class TunedForSequenceClassification(PreTrainedModel):
    """A sequence classifier around a frozen one: `inner` with adapters, a prompt or a prefix."""

    config_class = TunedConfig
    base_model_prefix = "inner"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules: list[str] = []

    def __init__(self, config: TunedConfig, inner: Any = None) -> None:
        super().__init__(config)
        if inner is None:
            base = dict(config.base)
            base_config = AutoConfig.for_model(base.pop("model_type"), **base)
            base_config.id2label, base_config.label2id = config.id2label, config.label2id
            inner = AutoModelForSequenceClassification.from_config(base_config)
        self.inner = inner
        size = inner.config.hidden_size
        if config.method == "adapter":
            layers = encoder_layers(inner)
            self.adapters = nn.ModuleList(Bottleneck(size, config.width) for _ in layers)
            for layer, adapter in zip(layers, self.adapters, strict=True):
                layer.register_forward_hook(_behind(adapter))
        elif config.method == "prompt":
            self.prompt = nn.Parameter(torch.zeros(config.virtual_tokens, size))
        else:
            layers_count, heads = inner.config.num_hidden_layers, inner.config.num_attention_heads
            self.prefix = nn.Parameter(torch.zeros(layers_count, 2, heads, config.virtual_tokens, size // heads))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Keep what the constructor set; everything is loaded afterwards."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return logits [batch, classes]; the mask is [batch, sequence], or additive [batch, 1, sequence, sequence]."""
        if self.config.method == "adapter":
            logits = self.inner(input_ids=input_ids, attention_mask=attention_mask).logits
        elif self.config.method == "prompt":
            words = self.inner.get_input_embeddings()(input_ids)  # [batch, sequence, size]
            prompt = self.prompt.expand(words.shape[0], -1, -1)  # [batch, virtual, size]
            mask = self._widen(attention_mask, is_longer=True)
            logits = self.inner(inputs_embeds=torch.cat([prompt, words], 1), attention_mask=mask).logits
        else:
            pairs = self.prefix.unsqueeze(2).expand(-1, -1, input_ids.shape[0], -1, -1, -1)
            cache = DynamicCache([(layer[0], layer[1]) for layer in pairs])  # each [batch, heads, virtual, head size]
            mask = self._widen(attention_mask, is_longer=False)
            logits = self.inner(input_ids=input_ids, attention_mask=mask, past_key_values=cache).logits
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _widen(self, mask: torch.Tensor, is_longer: bool) -> torch.Tensor:
        """Let every token see the virtual ones; with a prompt the virtual ones ask as well (`is_longer`)."""
        virtual = self.config.virtual_tokens
        if mask.dim() == 2:
            return torch.cat([mask.new_ones(mask.shape[0], virtual), mask], 1)  # [batch, virtual + sequence]
        if is_longer:
            mask = torch.cat([mask[:, :, :1].expand(-1, -1, virtual, -1), mask], 2)
        return torch.cat([mask.new_zeros(*mask.shape[:3], virtual), mask], 3)


def encoder_layers(model: Any) -> nn.ModuleList:
    """Return the list of a model's layers.

    Raises:
        UsageError: its layers are shared or hidden, so nothing can be put behind each.
    """
    count = model.config.num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UsageError(
        f"finetune: {model.config.model_type} has no list of layers to put adapters behind; use lora, head or full"
    )


def check_prefix(model: Any) -> None:
    """See that attention takes keys and values from outside.

    Raises:
        UsageError: the architecture does not.
    """
    if "past_key_values" not in inspect.signature(model.base_model.forward).parameters:
        raise UsageError(
            f"finetune: {model.config.model_type} takes no prefix; use prompt, adapter, lora, head or full"
        )


def _behind(adapter: Bottleneck) -> Any:
    def hook(layer: nn.Module, given: Any, hidden: Any) -> Any:
        if isinstance(hidden, tuple):
            return (adapter(hidden[0]), *hidden[1:])
        return adapter(hidden)

    return hook


def register() -> None:
    """Make transformers know the model type; more than once does no harm."""
    AutoConfig.register(MODEL_TYPE, TunedConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(TunedConfig, TunedForSequenceClassification, exist_ok=True)
