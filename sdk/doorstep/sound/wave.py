"""WAV files, read strictly and in bounded memory; why not by a library: `sdk/docs/decisions/0017-sound.md`.

After "Multimedia Programming Interface and Data Specifications 1.0" (IBM and Microsoft, 1991), section "Waveform Audio
File Format", and KSDATAFORMAT of `WAVE_FORMAT_EXTENSIBLE`.
"""

import os
import struct
from typing import BinaryIO, NamedTuple

import numpy as np

from doorstep.errors import InputError
from doorstep.given import told
from doorstep.tensors import Array

LOWEST_RATE, HIGHEST_RATE = 1_000, 192_000
MOST_CHANNELS = 32
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_NAMES = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x50: "MPEG", 0x55: "MP3"}
_GUID_END = bytes.fromhex("000000001000800000aa00389b71")  # behind the format's number
_SAMPLES = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}
_MOST_CHUNKS = 256
_BLOCK = 1 << 16  # frames decoded at a time
_REMEDY = "convert it: ffmpeg -i FILE -c:a pcm_s16le out.wav"


class Format(NamedTuple):
    """How a file's samples are stored.

    Attributes:
        kind: 1 for whole numbers, 3 for floating point.
        rate: frames a second.
        bits: of one sample of one channel.
    """

    kind: int
    channels: int
    rate: int
    bits: int

    @property
    def frame(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * self.bits // 8


class Recording(NamedTuple):
    """Sound in one channel: float32 [samples], -1 to 1, and samples a second."""

    samples: Array
    rate: int


def read_wave(file: BinaryIO, most_seconds: float) -> Recording:
    """Read a WAV file, its channels averaged; nothing is read of one that is too long.

    Raises:
        InputError: no WAV, cut off, empty, too long, or samples of a kind or rate that is not read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise InputError(f"expected a WAV file, got {_looks_like(head)}; {_REMEDY}")
    form, length = _find_samples(file, size)
    frames, rest = divmod(length, form.frame)
    if rest:
        raise InputError(f"the WAV file is cut off: {length} bytes of sound are no whole frames of {form.frame}")
    if frames == 0:
        raise InputError("the WAV file holds no samples")
    if frames > most_seconds * form.rate:
        raise InputError(f"expected at most {most_seconds:g} s of sound, got {frames / form.rate:.1f} s; cut it")
    samples = np.empty(frames, np.float32)
    for start in range(0, frames, _BLOCK):
        data = file.read(min(_BLOCK, frames - start) * form.frame)
        samples[start : start + _BLOCK] = _decode(data, form)
    return Recording(samples, form.rate)


def write_wave(samples: Array, rate: int) -> bytes:
    """Return float32 samples [samples], -1 to 1, as a WAV file of 16 bits."""
    data = (np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, _PCM, 1, rate, 2 * rate, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data


def _find_samples(file: BinaryIO, size: int) -> tuple[Format, int]:
    """Walk the chunks up to the samples; returns their form and how many bytes there are."""
    form: Format | None = None
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        name, length = struct.unpack("<4sI", head)
        left = size - file.tell()
        if length > left:
            raise InputError(f"the WAV file is cut off: its header claims {length} bytes of {name!r}, it has {left}")
        if name == b"data":
            if form is None:
                raise InputError("the WAV file has samples before it says of which kind they are")
            return form, length
        if name == b"fmt ":
            form = _read_format(file.read(min(length, 40)))
            length -= min(length, 40)
        file.seek(length + (length & 1), os.SEEK_CUR)  # chunks begin at even places
    raise InputError("the WAV file is cut off: it ends before its samples begin")


def _read_format(data: bytes) -> Format:
    if len(data) < 16:
        raise InputError(f"the WAV file's header is damaged: its format has {len(data)} bytes, expected 16 or more")
    kind, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", data[:16])
    if kind == _EXTENSIBLE and len(data) >= 40 and data[26:40] == _GUID_END:
        kind = int.from_bytes(data[24:26], "little")
    form = Format(kind, channels, rate, bits)
    if (kind, bits) not in _SAMPLES:
        raise InputError(
            f"expected a WAV file of 8, 16, 24 or 32 bit PCM or of floats, got {bits} bit "
            f"{_NAMES.get(kind, f'format {kind:#x}')}; {_REMEDY}"
        )
    if not 1 <= channels <= MOST_CHANNELS or frame != form.frame:
        raise InputError(f"the WAV file's header is damaged: {channels} × {bits} bits in frames of {frame} bytes")
    check_rate(rate)
    return form


def check_rate(rate: int) -> None:
    """Refuse a rate that no recording has.

    Raises:
        InputError: it is below 1,000 or above 192,000.
    """
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InputError(f"expected {LOWEST_RATE} to {HIGHEST_RATE} samples a second, got {told(rate)}")


def _decode(data: bytes, form: Format) -> Array:
    """Return frames as float32 [frames], channels averaged."""
    samples: Array
    if form.kind == _FLOAT:
        samples = np.frombuffer(data, f"<f{form.bits // 8}").astype(np.float32)
    elif form.bits == 8:
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif form.bits == 24:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = wide.view("<i4")[:, 0].astype(np.float32) / (1 << 31)
    else:
        samples = np.frombuffer(data, f"<i{form.bits // 8}").astype(np.float32) / (1 << (form.bits - 1))
    mono: Array = samples.reshape(-1, form.channels).mean(axis=1)  # [frames]
    return mono


def _looks_like(head: bytes) -> str:
    kinds = {
        b"\x89PNG": "a picture (PNG)", b"\xff\xd8\xff": "a picture (JPEG)", b"GIF8": "a picture (GIF)",
        b"ID3": "MP3", b"\xff\xfb": "MP3", b"OggS": "Ogg", b"fLaC": "FLAC", b"\x1aE\xdf\xa3": "WebM", b"RIFX": "RIFX",
        b"RF64": "RF64", b"RIFF": "another RIFF file",
    }  # fmt: skip
    found = next((name for start, name in kinds.items() if head.startswith(start)), "")
    return found or (f"something else ({head[:4].hex(' ')} …)" if head else "an empty file")
