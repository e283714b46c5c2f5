"""Checkpoints for sound as one graph: `logits = graph(waveform, lengths)`, the same whatever padding follows.

transformers' wav2vec 2.0 and HuBERT are run layer by layer here, because their own forward masks in ways that engines
do not take over: samples are normalised in the graph, and the first layer's group norm counts no padding.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from doorstep.errors import CheckpointError
from doorstep.tensors import Array
from doorstep_converters.architectures import register_architectures
from doorstep_converters.students.audio_cnn import AudioCnnConfig, blank_beyond

WAVE_MODELS = ("wav2vec2", "hubert")
_LEFT_OUT = -1000.0  # added to attention scores at padding


class OwnGraph(nn.Module):
    """`doorstep-audio-cnn` with nothing but its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return logits for sound [batch, samples] and its lengths [batch]."""
        logits: torch.Tensor = self.model(waveform=waveform, lengths=lengths).logits
        return logits


class WaveGraph(nn.Module):
    """A wav2vec 2.0 or HuBERT model with a head."""

    def __init__(self, model: Any, is_normalized: bool) -> None:
        super().__init__()
        self.model = model
        self.body = model.base_model
        self.is_normalized = is_normalized
        config = model.config
        self.config = config
        self.is_ctc = hasattr(model, "lm_head")

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] or [batch, frames, tokens]."""
        places = torch.arange(waveform.shape[1], device=waveform.device, dtype=lengths.dtype)
        valid = (places[None] < lengths[:, None]).to(waveform.dtype)  # [batch, samples]
        if self.is_normalized:
            count = valid.sum(dim=1, keepdim=True).clamp(min=1.0)
            centred = (waveform - (waveform * valid).sum(dim=1, keepdim=True) / count) * valid
            waveform = centred / torch.sqrt((centred**2).sum(dim=1, keepdim=True) / count + 1e-7)
        x, mask = self._features(waveform, lengths)  # [batch, frames, channels], [batch, frames, 1]
        found = self.body.feature_projection(x)
        x = (found[0] if isinstance(found, tuple) else found) * mask
        hidden = self._encode(x, mask)
        if self.is_ctc:
            return blank_beyond(self.model.lm_head(hidden[-1]), mask, self.config.pad_token_id)
        if self.config.use_weighted_layer_sum:
            weights = torch.softmax(self.model.layer_weights, dim=-1)
            x = (torch.stack(hidden, dim=1) * weights[None, :, None, None]).sum(dim=1)
        else:
            x = hidden[-1]
        x = self.model.projector(x) * mask
        pooled = x.sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        logits: torch.Tensor = self.model.classifier(pooled)
        return logits

    def _features(self, waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = waveform[:, None]  # [batch, 1, samples]
        step, reach = 1, 1  # samples between two frames, and that one frame sees
        mask = torch.ones(1)
        for layer in self.body.feature_extractor.conv_layers:
            kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
            x = layer.conv(x)  # [batch, channels, frames]
            reach, step = reach + (kernel - 1) * step, step * stride
            ends = torch.arange(x.shape[2], device=x.device, dtype=lengths.dtype) * step + reach
            mask = (ends[None] <= lengths[:, None]).to(x.dtype)[:, None]  # [batch, 1, frames]
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                count = mask.sum(dim=2, keepdim=True).clamp(min=1.0)
                centred = (x - (x * mask).sum(dim=2, keepdim=True) / count) * mask
                x = centred / torch.sqrt((centred**2).sum(dim=2, keepdim=True) / count + norm.eps)
                x = x * norm.weight[:, None] + norm.bias[:, None]
            elif norm is not None:
                x = norm(x.transpose(1, 2)).transpose(1, 2)
            x = layer.activation(x)
        return x.transpose(1, 2), mask.transpose(1, 2)

    def _encode(self, x: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
        """Return what every layer gave [batch, frames, hidden], what went into the first in front."""
        encoder, is_stable = self.body.encoder, self.config.do_stable_layer_norm
        length = x.shape[1]
        left_out = ((1.0 - mask.transpose(1, 2)) * _LEFT_OUT).unsqueeze(1).expand(-1, -1, length, -1)
        x = x + encoder.pos_conv_embed(x)
        if not is_stable:
            x = encoder.layer_norm(x)
        hidden = [x]
        for layer in encoder.layers:
            found = layer(x, attention_mask=left_out)
            x = found[0] if isinstance(found, tuple) else found
            hidden.append(x)
        if is_stable:
            hidden[-1] = encoder.layer_norm(x)
        return hidden


def load_model(folder: Path, is_ctc: bool, is_pickle_allowed: bool = False) -> Any:
    """Load a checkpoint with its head in fp32, in eval mode, with plain attention."""
    from transformers import AutoModelForAudioClassification, AutoModelForCTC

    register_architectures()
    auto = AutoModelForCTC if is_ctc else AutoModelForAudioClassification
    model = auto.from_pretrained(
        folder,
        use_safetensors=None if is_pickle_allowed else True,
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
    ).eval()
    if hasattr(model, "set_attn_implementation") and model.config.model_type in WAVE_MODELS:
        model.set_attn_implementation("eager")
    return model


def graph_of(model: Any, folder: Path) -> nn.Module:
    """Wrap a loaded checkpoint."""
    if isinstance(model.config, AudioCnnConfig):
        return OwnGraph(model).eval()
    return WaveGraph(model, bool(read_processor(folder)["do_normalize"])).eval()


def read_processor(folder: Path) -> dict[str, Any]:
    """Read how a checkpoint wants its sound.

    Raises:
        CheckpointError: it does not say.
    """
    path = folder / "preprocessor_config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rate, is_normalized = found["sampling_rate"], found.get("do_normalize", True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected the checkpoint's sampling_rate and do_normalize ({error!s:.80})"
        ) from error
    if not isinstance(rate, int) or not 1000 <= rate <= 192_000:
        raise CheckpointError(f"{path}: expected a sampling_rate of 1000 to 192000, got {rate!r:.40}")
    return {"sampling_rate": rate, "do_normalize": bool(is_normalized)}


def shortest(config: Any) -> int:
    """Return the samples of the shortest recording that a model reads."""
    if isinstance(config, AudioCnnConfig):
        return config.shortest
    step = reach = 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        reach, step = reach + (kernel - 1) * step, step * stride
    return reach + step


def frame_samples(config: Any) -> int:
    """Return the samples from one frame of the logits to the next."""
    if isinstance(config, AudioCnnConfig):
        return config.hop * config.stride
    step = 1
    for stride in config.conv_stride:
        step *= stride
    return step


class Asked:
    """A checkpoint as it is, asked in its own way: transformers' normalisation, no padding.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path, is_ctc: bool, is_pickle_allowed: bool) -> None:
        self._model = load_model(folder, is_ctc, is_pickle_allowed)
        self._extractor: Any = None
        if self._model.config.model_type in WAVE_MODELS:
            from transformers import Wav2Vec2FeatureExtractor

            self._extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)

    def logits(self, waveform: Array, lengths: Array) -> Array:
        """Return the logits of one recording [1, samples] without the batch."""
        with torch.no_grad():
            if self._extractor is None:
                found = self._model(torch.from_numpy(waveform), torch.from_numpy(lengths))
            else:
                rate = self._extractor.sampling_rate
                values = self._extractor(waveform[0], sampling_rate=rate, return_tensors="pt").input_values
                found = self._model(values)
        logits: Array = found.logits[0].float().numpy()
        return logits


def rate_of_folder(folder: Path) -> int:
    """Return the samples a second that a checkpoint reads."""
    config = _config(folder)
    if config.model_type in WAVE_MODELS:
        return int(read_processor(folder)["sampling_rate"])
    return int(config.rate)


def shortest_of_folder(folder: Path) -> int:
    """Return the samples of the shortest recording that a checkpoint reads."""
    return shortest(_config(folder))


def frame_seconds(folder: Path) -> float:
    """Return the seconds from one frame of a checkpoint's logits to the next."""
    return frame_samples(_config(folder)) / rate_of_folder(folder)


def blank_of_folder(folder: Path) -> int:
    """Return the class of a CTC head that writes nothing."""
    blank = _config(folder).pad_token_id
    if not isinstance(blank, int):
        raise CheckpointError(f"{folder}: its configuration names no blank (pad_token_id)")
    return blank


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    register_architectures()
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
