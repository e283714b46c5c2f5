"""`doorstep-audio-cnn`: sound in, classes or letters out; the log-mel features are part of the graph.

Filters over windows of frames as dense layers (see `students.layers`), half as many frames behind the first, and where
wanted a recurrent layer in both directions on top.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput

from doorstep_converters.students.layers import AttentionPooling, Head, masked_mean, windows

FLOOR = 1e-6  # of a mel band's power; 16-bit silence lies below
_CLOSED = -40.0  # sigmoid(-40) is 4e-18
_RANGE = 9.0  # 39 dB in the logarithms of power; what lies deeper below the loudest band is silence
_BLANK_BEYOND = 10.0


class AudioCnnConfig(PreTrainedConfig):
    """Configuration of `doorstep-audio-cnn`.

    Attributes:
        rate: samples a second.
        window, hop: samples of a frame, and from one frame to the next.
        fft: points of its Fourier transform.
        mels: bands of the mel scale.
        width: filters of each layer.
        layers: of filters behind the first.
        states: of each direction of a recurrent layer; 0 for none.
        stride: frames of features that become one.
        heads, head_width: of the attention pooling; of the hidden layer in front of the classes.
    """

    model_type = "doorstep-audio-cnn"
    rate: int = 8000
    window: int = 200
    hop: int = 80
    fft: int = 256
    mels: int = 40
    width: int = 64
    layers: int = 3
    states: int = 0
    reach: int = 2
    stride: int = 2
    heads: int = 4
    head_width: int = 0
    dropout: float = 0.1
    vocab_size: int = 0
    pad_token_id: int | None = 0

    @property
    def shortest(self) -> int:
        """Samples of the shortest recording: two strides of frames."""
        return int(self.window + (2 * self.stride - 1) * self.hop)


class LogMel(nn.Module):
    """Log-mel features by two fixed convolutions: windowed Fourier transform, mel bands.

    Equal to `transformers.audio_utils.spectrogram(…, center=False, power=2, log_mel="log")`. Convolutions, because no
    quantizer of ONNX Runtime touches them here: a spectrum's range is far beyond eight bits.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.hop = config.hop
        bins = config.fft // 2 + 1
        hann = window_function(config.window, "hann")  # [window]
        angles = np.outer(np.arange(bins), np.arange(config.window)) * (2 * np.pi / config.fft)  # [bins, window]
        waves = np.concatenate([np.cos(angles), np.sin(angles)]) * hann  # [2·bins, window]
        filters = mel_filter_bank(bins, config.mels, 20.0, config.rate / 2, config.rate, mel_scale="htk")
        self.register_buffer("waves", torch.from_numpy(waves[:, None].astype(np.float32)))
        self.register_buffer("filters", torch.from_numpy(filters.T[:, :, None].astype(np.float32)))
        self.bins = bins

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return features [batch, frames, mels] of sound [batch, samples]."""
        parts = nn.functional.conv1d(waveform[:, None], self.waves, stride=self.hop)  # [batch, 2·bins, frames]
        power = parts[:, : self.bins] ** 2 + parts[:, self.bins :] ** 2  # [batch, bins, frames]
        mel = nn.functional.conv1d(power, self.filters)  # [batch, mels, frames]
        return torch.log(torch.clamp(mel, min=FLOOR)).transpose(1, 2)


class Filters(nn.Module):
    """Filters over windows of frames, normalised; where input and output are alike, added to the input."""

    def __init__(self, inputs: int, width: int, reach: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.reach, self.stride = reach, stride
        self.filters = nn.Linear((2 * reach + 1) * inputs, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.is_residual = inputs == width and stride == 1

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return [batch, frames / stride, width], 0 at padding; `mask` is that of the output."""
        wide = windows(x, self.reach)
        if self.stride > 1:
            wide = wide[:, :: self.stride]
        fired = torch.relu(self.norm(self.filters(wide)))
        return (x + self.dropout(fired) if self.is_residual else fired) * mask


class AudioCnn(PreTrainedModel):
    """The part that both heads share: `features` gives frames [batch, frames, size] and their mask."""

    config_class = AudioCnnConfig
    main_input_name = "waveform"
    base_model_prefix = ""

    def build(self, config: Any) -> int:
        """Make the layers; returns the size of a frame."""
        self.log_mel = LogMel(config)
        self.first = Filters(config.mels, config.width, config.reach, config.stride, config.dropout)
        self.layers = nn.ModuleList(
            Filters(config.width, config.width, 1, 1, config.dropout) for _ in range(config.layers)
        )
        if config.states:
            self.cell = nn.LSTM(config.width + 1, config.states, batch_first=True, bidirectional=True)
        return 2 * config.states if config.states else config.width

    def frames(self, waveform: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return frames [batch, frames, size], 0 at padding, and their mask [batch, frames, 1]."""
        x = self.log_mel(waveform)  # [batch, frames, mels]
        ends = torch.arange(x.shape[1], device=x.device, dtype=lengths.dtype) * self.config.hop + self.config.window
        mask = (ends[None] <= lengths[:, None]).to(x.dtype).unsqueeze(2)  # [batch, frames, 1]
        x = _below_peak(x, mask)
        if self.training:
            x = _with_holes(x)
        mask = mask[:, :: self.config.stride]
        x = self.first(x, mask)
        for layer in self.layers:
            x = layer(x, mask)
        if self.config.states:
            states, _ = self.cell(torch.cat([x, 1.0 - mask], dim=2))
            x = torch.relu(states) * mask
        return x, mask

    def train(self, mode: bool = True) -> "AudioCnn":
        """Switch between training and answering; in padding the cell's gates stay closed, as in `students.bilstm`."""
        super().train(mode)
        states = self.config.states
        with torch.no_grad():
            for weight in (self.cell.weight_ih_l0, self.cell.weight_ih_l0_reverse) if states else ():
                weight[: 2 * states, -1] = _CLOSED  # rows: input, forget, cell, output
                weight[2 * states :, -1] = 0.0
        return self

    def unsure(self, classes: nn.Linear) -> None:
        """Let an untrained head give all classes much the same chance: it learns three times as fast from there."""
        with torch.no_grad():
            classes.weight.mul_(0.1)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)


class AudioCnnForSequenceClassification(AudioCnn):
    """One answer for a recording."""

    def __init__(self, config: AudioCnnConfig) -> None:
        super().__init__(config)
        size = self.build(config)
        self.pooling = AttentionPooling(size, config.heads)
        self.head = Head(3 * size, config.head_width, config.num_labels, config.dropout)
        self.post_init()
        self.unsure(self.head.classes)

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor, **unused: Any) -> SequenceClassifierOutput:
        """Return logits [batch, classes] for sound [batch, samples] and its lengths [batch]."""
        x, mask = self.frames(waveform, lengths)
        pooled = torch.cat([self.pooling(x, mask), masked_mean(x, mask)], dim=1)
        return SequenceClassifierOutput(logits=self.head(pooled))


class AudioCnnForCTC(AudioCnn):
    """One answer for a frame."""

    def __init__(self, config: AudioCnnConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(self.build(config), config.vocab_size)
        self.post_init()
        self.unsure(self.head)

    def forward(self, waveform: torch.Tensor, lengths: torch.Tensor, **unused: Any) -> CausalLMOutput:
        """Return logits [batch, frames, tokens] for sound [batch, samples] and its lengths [batch]."""
        x, mask = self.frames(waveform, lengths)
        return CausalLMOutput(logits=blank_beyond(self.head(x), mask, self.config.pad_token_id or 0))


def blank_beyond(logits: torch.Tensor, mask: torch.Tensor, blank: int) -> torch.Tensor:
    """Make frames of padding say nothing; `mask` is [batch, frames, 1]."""
    silent = torch.zeros(logits.shape[2], dtype=logits.dtype)
    silent[blank] = _BLANK_BEYOND
    return logits * mask + silent.to(logits.device) * (1.0 - mask)


def _below_peak(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scale features [batch, frames, mels] to -1 … 1 below each recording's loudest, 0 at padding.

    So neither loudness nor the share of silence changes them (as in Whisper, https://arxiv.org/abs/2212.04356).
    """
    peak = (x * mask + math.log(FLOOR) * (1.0 - mask)).amax(dim=(1, 2), keepdim=True)  # [batch, 1, 1]
    return (torch.clamp(x - peak, min=-_RANGE) * (2 / _RANGE) + 1.0) * mask


def _with_holes(x: torch.Tensor) -> torch.Tensor:
    """Blank one band and one stretch of frames of each recording (SpecAugment, https://arxiv.org/abs/1904.08779)."""
    batch, frames, mels = x.shape
    for axis, size, widest in ((2, mels, mels // 6), (1, frames, max(1, frames // 10))):
        places = torch.arange(size).reshape((1, 1, -1) if axis == 2 else (1, -1, 1))
        widths = torch.rand(batch, 1, 1) * widest
        starts = torch.rand(batch, 1, 1) * (size - widths)
        x = x * ~((places >= starts) & (places < starts + widths)).to(x.device)
    return x


def register() -> None:
    """Tell transformers' Auto classes about this network; more than once does no harm."""
    from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForCTC

    AutoConfig.register(AudioCnnConfig.model_type, AudioCnnConfig, exist_ok=True)
    AutoModelForAudioClassification.register(AudioCnnConfig, AudioCnnForSequenceClassification, exist_ok=True)
    AutoModelForCTC.register(AudioCnnConfig, AudioCnnForCTC, exist_ok=True)
