"""Picture models as exporters need them: one tensor in, one out."""

from pathlib import Path
from typing import Any

import torch


class Logits(torch.nn.Module):
    """Pixels [batch, 3, height, width] to logits [batch, classes]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=pixel_values).logits
        return logits


class Features(torch.nn.Module):
    """Pixels to vectors [batch, dimensions]: a transformer's first token, a convolutional network's mean over space."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        last: torch.Tensor = self.model(pixel_values=pixel_values).last_hidden_state
        return last.mean(dim=(2, 3)) if last.dim() == 4 else last[:, 0]


def load_model(folder: Path, auto: str, is_pickle_allowed: bool) -> Any:
    """Load a checkpoint in fp32, in eval mode; `auto` is the transformers class that does."""
    import transformers

    model = getattr(transformers, auto).from_pretrained(
        folder,
        use_safetensors=None if is_pickle_allowed else True,
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
    )
    if any(kind in model.config.model_type for kind in ("vit", "deit", "dino", "beit")):
        model.set_attn_implementation("eager")
    return model.eval()
