"""Sound: WAV files of every kind, damaged ones, rates, streams, explanations."""

import io
import os
import random
import struct
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import resample_poly

from doorstep.errors import FormatError, InputError, UsageError
from doorstep.golden import flatten, max_error
from doorstep.predictor import LoadOptions, Predictor
from doorstep.results import Heard
from doorstep.sound.resample import resample
from doorstep.sound.wave import read_wave, write_wave

RATE = 8000


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def riff(form: bytes, data: bytes, claimed: int | None = None, before: bytes = b"") -> bytes:
    body = b"WAVE" + before + struct.pack("<4sI", b"fmt ", len(form)) + form
    body += struct.pack("<4sI", b"data", len(data) if claimed is None else claimed) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def form_of(kind: int, channels: int, rate: int, bits: int, frame: int | None = None) -> bytes:
    frame = channels * bits // 8 if frame is None else frame
    return struct.pack("<HHIIHH", kind, channels, rate, rate * frame & 0xFFFFFFFF, frame, bits)


def extensible(kind: int, channels: int, rate: int, bits: int) -> bytes:
    end = bytes.fromhex("000000001000800000aa00389b71")
    return form_of(0xFFFE, channels, rate, bits) + struct.pack("<HHIH", 22, bits, 3, kind) + end


def encoded(samples: np.ndarray, bits: int, channels: int = 1, rate: int = RATE) -> bytes:
    """Write with Python's own module, every channel alike."""
    whole = np.repeat(np.round(samples * (2 ** (bits - 1) - 1)).astype(np.int64), channels)
    if bits == 8:
        data = (whole + 128).astype(np.uint8).tobytes()
    else:
        data = whole.astype("<i8").view(np.uint8).reshape(-1, 8)[:, : bits // 8].tobytes()
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((channels, bits // 8, rate, 0, "NONE", ""))
        file.writeframes(data)
    return out.getvalue()


LOW, HIGH = tone(400), tone(1600)
FORMS: dict[str, bytes] = {
    "8 bit": encoded(LOW, 8),
    "16 bit": encoded(LOW, 16),
    "24 bit": encoded(LOW, 24),
    "32 bit": encoded(LOW, 32),
    "8 bit stereo": encoded(LOW, 8, 2),
    "24 bit, five channels": encoded(LOW, 24, 5),
    "float": riff(form_of(3, 1, RATE, 32), LOW.tobytes()),
    "double stereo": riff(form_of(3, 2, RATE, 64), np.repeat(LOW.astype("<f8"), 2).tobytes()),
    "extensible PCM": riff(extensible(1, 1, RATE, 16), (LOW * 32767).astype("<i2").tobytes()),
    "extensible float": riff(extensible(3, 1, RATE, 32), LOW.tobytes()),
    "with a chunk of odd length before": riff(
        form_of(3, 1, RATE, 32), LOW.tobytes(), before=b"LIST" + struct.pack("<I", 3) + b"abc\0"
    ),
    "44.1 kHz": encoded(tone(400, rate=44100), 16, 2, 44100),
    "48 kHz, 24 bit": encoded(tone(400, rate=48000), 24, 1, 48000),
    "11.025 kHz": encoded(tone(400, rate=11025), 16, 1, 11025),
    "own writer": write_wave(LOW, RATE),
}


@pytest.fixture(scope="module")
def sounds(sound_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(sound_bundle) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def speech(speech_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(speech_bundle) as loaded:
        yield loaded


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_every_kind_of_wav_holds_the_same_sound(sounds: Predictor, data: bytes) -> None:
    (row,) = sounds.prepare([data])
    np.testing.assert_allclose(row[500:-500], LOW[500:-500], atol=0.01)
    assert sounds.predict(data).label == "low"


@pytest.mark.parametrize(
    "form",
    [
        lambda path: path,
        str,
        Path.read_bytes,
        lambda path: HIGH,
        lambda path: (HIGH * 32767).astype(np.int16),
        lambda path: np.stack([HIGH, HIGH]),
        lambda path: np.stack([HIGH, HIGH], axis=1),
        lambda path: {"array": tone(1600, rate=16000), "sampling_rate": 16000},
        lambda path: {"array": tone(1600, rate=22050), "sampling_rate": np.int64(22050)},
    ],
    ids=["path", "text", "bytes", "array", "int16", "two rows", "two columns", "16 kHz", "22 kHz"],
)
def test_sound_may_come_in_many_forms(sounds: Predictor, tmp_path: Path, form: Callable[[Path], Any]) -> None:
    path = tmp_path / "高.wav"
    path.write_bytes(encoded(HIGH, 16))
    assert sounds.predict(form(path)).label == "high"


def test_stereo_at_8_khz_is_averaged(sounds: Predictor) -> None:
    both = np.stack([LOW, HIGH], axis=1).reshape(-1)
    data = riff(form_of(1, 2, RATE, 16), (both * 32767).astype("<i2").tobytes())
    (row,) = sounds.prepare([data])
    np.testing.assert_allclose(row, (LOW + HIGH) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 7999, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("wanted", [8000, 16000])
def test_resampling_is_scipys_within_its_bound(rate: int, wanted: int) -> None:
    samples = np.random.default_rng(rate).uniform(-1, 1, rate // 4 + 13).astype(np.float32)
    expected = resample_poly(samples.astype(np.float64), wanted, rate)
    found = resample(samples, rate, wanted)
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() < 1e-5


PCM = form_of(1, 1, RATE, 16)
DATA = (LOW * 32767).astype("<i2").tobytes()
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452")
BAD: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "an empty file"),
    "no WAV": (b"hello, is it me", "something else"),
    "a picture": (PNG, r"a picture \(PNG\); convert it"),
    "MP3": (b"ID3\x04" + bytes(40), "MP3"),
    "half a header": (FORMS["16 bit"][:30], "cut off"),
    "cut off": (FORMS["16 bit"][:500], "its header claims 8000 bytes of b'data', it has 456"),
    "cut off in a frame": (riff(form_of(1, 1, RATE, 24), bytes(100)), "no whole frames"),
    "claims gigabytes": (riff(PCM, DATA, claimed=0xFFFFFFF0), "claims 4294967280 bytes"),
    "a chunk that claims gigabytes": (riff(PCM, DATA, before=b"LIST" + b"\xff" * 4), "claims 4294967295 bytes"),
    "no samples": (riff(PCM, b""), "holds no samples"),
    "only a header": (riff(PCM, b"")[:36], "cut off"),
    "samples before their kind": (b"RIFF\0\0\0\0WAVEdata" + struct.pack("<I", 4) + bytes(4), "before it says"),
    "a short format": (riff(PCM[:12], DATA), "its format has 12 bytes"),
    "mu-law": (riff(form_of(7, 1, RATE, 8), bytes(800)), "mu-law; convert it: ffmpeg"),
    "12 bit": (riff(form_of(1, 1, RATE, 12), DATA), "12 bit"),
    "no channels": (riff(form_of(1, 0, RATE, 16), DATA), "damaged: 0 × 16"),
    "1000 channels": (riff(form_of(1, 1000, RATE, 16), DATA), "damaged: 1000 × 16"),
    "wrong frames": (riff(form_of(1, 2, RATE, 16, 2), DATA), "in frames of 2 bytes"),
    "rate 0": (riff(form_of(1, 1, 0, 16), DATA), "1000 to 192000 samples a second, got 0"),
    "rate of gigahertz": (riff(form_of(1, 1, 4_000_000_000, 16), DATA), "got 4000000000"),
    "a rate without a ratio": (riff(form_of(1, 1, 191_999, 16), DATA), "usual rate"),
    "too long": (riff(form_of(1, 1, 1000, 8), bytes(5001)), r"at most 5 s of sound, got 5\.0 s"),
    "NaN": (riff(form_of(3, 1, RATE, 32), np.array([0, np.nan], "<f4").tobytes()), "NaN or infinity"),
    "infinity": (riff(form_of(3, 1, RATE, 32), np.array([0, np.inf], "<f4").tobytes()), "NaN or infinity"),
    "NaN in an array": (np.array([0, np.nan], np.float32), "NaN or infinity"),
    "an array of whole numbers as floats": (LOW * 32767, "from -1 to 1, got 16"),
    "an empty array": (np.zeros(0, np.float32), r"got \[0\]"),
    "no axis": (np.array(3.0, np.float32), r"got \[\]"),
    "three axes": (np.zeros((2, 3, 4), np.float32), r"got \[2, 3, 4\]"),
    "64 channels": (np.zeros((64, 80), np.float32), "at most 32 channels"),
    "an array of words": (np.array(["a"]), "int16, int32 or float32"),
    "a long array": (np.zeros(RATE * 6, np.float32), "at most 5 s"),
    "no rate": ({"array": LOW}, "got dict"),
    "a rate of half a sample": ({"array": LOW, "sampling_rate": 8000.5}, "whole number"),
    "an absurd rate": ({"array": LOW, "sampling_rate": 3}, "got 3"),
    "a list": ([0.0, 0.1], "got list"),
    "None": (None, "got NoneType"),
    "a number": (3, "got int"),
    "a path to nothing": ("/nowhere/a.wav", "cannot be read"),
    "a folder": (Path("/"), "expected a file"),
    "a device": ("/dev/zero", "expected a file"),
    "a path with a zero": ("a\0b", "cannot be read"),
}


@pytest.mark.parametrize(("item", "said"), BAD.values(), ids=BAD)
def test_what_is_no_sound_is_refused_by_its_place_and_the_others_are_answered(
    sounds: Predictor, item: Any, said: str
) -> None:
    with pytest.raises(InputError, match=f"item 1: .*{said}"):
        sounds.predict_many([LOW, item])
    first, error, last = sounds.predict_many([LOW, item, HIGH], on_error="return")
    assert (first.label, last.label) == ("low", "high")
    assert isinstance(error, InputError)


def test_a_picture_called_wav_is_told_for_what_it_is(sounds: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    path.write_bytes(PNG + bytes(100))
    with pytest.raises(InputError, match="expected a WAV file, got a picture"):
        sounds.predict(path)


def test_a_pipe_is_not_waited_for(sounds: Predictor, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InputError, match="expected a file"):
        sounds.predict(tmp_path / "pipe.wav")


def test_a_long_file_is_refused_unread() -> None:
    class Counted(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            Counted.taken += len(data)
            return data

    with pytest.raises(InputError, match="at most 5 s"):
        read_wave(Counted(riff(PCM, bytes(1 << 20))), 5.0)
    assert Counted.taken < 100


@pytest.mark.parametrize("kind", ["16 bit", "24 bit", "extensible float", "double stereo"])
def test_no_damaged_wav_ends_in_another_error(sounds: Predictor, kind: str) -> None:
    data, chance = FORMS[kind], random.Random(4)
    for _ in range(300):
        damaged = bytearray(data[: chance.choice([len(data), 60, 300])])
        for _ in range(chance.choice([1, 2, 8])):
            damaged[chance.randrange(min(60, len(damaged)))] = chance.randrange(256)
        try:
            labels = len(sounds.predict(bytes(damaged)).scores)
        except InputError:
            labels = 2
        assert labels == 2


def test_a_batch_answers_like_one_at_a_time(sounds: Predictor, speech: Predictor) -> None:
    items = [tone(400, seconds) for seconds in (0.001, 0.05, 0.3, 1.0)] + [tone(1600, 0.7)]
    for predictor in (sounds, speech):
        for one, other in zip(predictor.predict_many(items), map(predictor.predict, items), strict=True):
            assert max_error(flatten(one), flatten(other)) < 1e-5


def test_speech_is_written_with_its_times(speech: Predictor) -> None:
    found = speech.predict(np.concatenate([tone(400, 0.1), np.zeros(RATE // 5, np.float32), tone(1600, 0.1)]))
    assert found.text == "ab"
    (word,) = found.words
    assert (word.start, word.end) == pytest.approx((0.0, 0.4), abs=0.02)
    assert found.flat() == {"ab": found.score}
    assert found.score > 0.9


def test_silence_is_no_word(speech: Predictor) -> None:
    found = speech.predict(np.zeros(RATE, np.float32))
    assert (found.text, found.words) == ("", ())


def test_only_listed_words_are_written(speech_bundle: Path) -> None:
    options = LoadOptions(task_options={"words": ["aa", "ab", "bb"]})
    with Predictor.load(speech_bundle, options=options) as listed:
        assert listed.predict(tone(400, 0.3)).text in ("aa", "ab")
        assert listed.predict(np.concatenate([tone(400, 0.2), tone(1600, 0.2)])).text == "ab"
    with pytest.raises(FormatError, match="no tokens to write 'ac'"):
        Predictor.load(speech_bundle, options=LoadOptions(task_options={"words": ["ac"]}))


SPOKEN = (LOW, tone(1600, 0.3), tone(400, 0.9))
GAP = np.zeros(RATE // 2, np.float32)


def recording() -> np.ndarray:
    """Three tones with half a second between them, over a faint background."""
    parts = [GAP, *(part for spoken in SPOKEN for part in (spoken, GAP))]
    background = np.random.default_rng(1).normal(0, 0.002, sum(map(len, parts)))
    return (np.concatenate(parts) + background).astype(np.float32)


@pytest.mark.parametrize("size", [1, 37, 80, 801, 8000, 1_000_000])
def test_a_stream_gives_the_same_commands_whatever_the_size_of_its_chunks(sounds: Predictor, size: int) -> None:
    whole = recording()
    if size == 1:
        whole = whole[: RATE * 3 // 2]
    expected = list(sounds.stream([whole]))
    found = list(sounds.stream(whole[start : start + size] for start in range(0, len(whole), size)))
    assert [heard.to_dict() for heard in found] == [heard.to_dict() for heard in expected]
    assert [heard.result.label for heard in expected] == ["low", "high", "low"][: 1 if size == 1 else 3]


def test_an_utterance_is_answered_when_it_ends_and_says_when_it_was(sounds: Predictor) -> None:
    taken: list[float] = []

    def microphone() -> Iterator[Any]:
        whole = recording()
        for start in range(0, len(whole), 160):
            taken.append((start + 160) / RATE)
            yield {"array": whole[start : start + 160], "sampling_rate": RATE}

    stream = sounds.stream(microphone())
    first = next(stream)
    assert isinstance(first, Heard)
    assert (first.start, first.end) == pytest.approx((0.5, 1.0), abs=0.12)
    assert taken[-1] < 1.5
    assert len(list(stream)) == 2


def test_a_stream_of_44_khz_is_cut_at_the_same_times(sounds: Predictor) -> None:
    parts = [np.zeros(22050), tone(1600, 0.4, 44100), np.zeros(22050)]
    chunk = {"array": np.concatenate(parts).astype(np.float32), "sampling_rate": 44100}
    (heard,) = sounds.stream([chunk])
    assert (heard.start, heard.end, heard.result.label) == (
        pytest.approx(0.5, abs=0.1), pytest.approx(0.9, abs=0.12), "high",
    )  # fmt: skip


def test_one_who_never_stops_is_answered_in_pieces_of_bounded_length(sounds: Predictor) -> None:
    swelling = tone(400, 14.0) * (1 + np.sin(2 * np.pi * 4 * np.arange(14 * RATE) / RATE)).astype(np.float32)
    found = list(sounds.stream([swelling]))
    assert len(found) == 3
    assert all(heard.end - heard.start <= 5 for heard in found)
    assert [one.end for one in found[:-1]] == [other.start for other in found[1:]]


def test_a_click_is_no_command(sounds: Predictor) -> None:
    chunk = np.zeros(RATE * 2, np.float32)
    chunk[8000:8040] = 0.9
    assert list(sounds.stream([chunk])) == []


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([LOW, {"array": LOW, "sampling_rate": 16000}], "chunk 1: expected 8000 samples a second as before, got 16000"),
        ([LOW, np.array([np.nan], np.float32)], "chunk 1: expected finite"),
        ([b"RIFF"], "chunk 0: expected a WAV"),
        (["a", "b"], "chunk 0"),
    ],
)
def test_a_wrong_chunk_is_named(sounds: Predictor, chunks: Sequence[Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        list(sounds.stream(chunks))


def test_what_is_heard_goes_on_after_a_wrong_chunk_that_is_returned(sounds: Predictor) -> None:
    whole = recording()
    parts = [whole[start : start + 4000] for start in range(0, len(whole), 4000)]
    wrong: list[Any] = [b"RIFF", {"array": LOW, "sampling_rate": 16000}]
    found = list(sounds.stream([wrong[0], *parts[:2], wrong[1], *parts[2:]], on_error="return"))
    heard = [one for one in found if not isinstance(one, InputError)]
    assert [one.to_dict() for one in heard] == [one.to_dict() for one in sounds.stream(parts)]
    errors = [str(one) for one in found if isinstance(one, InputError)]
    assert [error.split(" ")[:2] for error in errors] == [["chunk", "0:"], ["chunk", "3:"]]
    with pytest.raises(UsageError, match="raise or return"):
        list(sounds.stream(parts, on_error="ignore"))


def test_an_explanation_points_at_the_sound(sounds: Predictor) -> None:
    told = sounds.explain(np.concatenate([GAP, HIGH, GAP]))
    assert told.label == "high"
    assert len(told.segments) == 30
    best = max(told.segments, key=lambda segment: segment.weight)
    assert 0.5 <= best.start < best.end <= 1.0
    assert told.to_dict()["segments"][0] == {"start": 0.0, "end": 0.05, "weight": pytest.approx(0, abs=1e-3)}


def test_silencing_the_highest_ranked_segments_costs_more_than_silencing_any(sounds: Predictor) -> None:
    items = [np.concatenate([GAP, LOW, GAP]), np.concatenate([HIGH, GAP, GAP])]

    found = sounds.faithfulness(items)
    assert found.ranked > found.shuffled + 0.05


def test_a_transcript_is_explained_by_the_segments_that_say_it(speech: Predictor) -> None:
    item = np.concatenate([GAP, LOW, GAP, HIGH])
    told, heard = speech.explain(item), speech.predict(item)
    assert (told.label, told.score) == (heard.text, pytest.approx(heard.score, abs=0.05))
    silent, loud = ([s for s in told.segments if (s.start % 1 >= 0.49) is is_loud] for is_loud in (False, True))
    assert max(abs(segment.weight) for segment in silent) < 0.01
    assert min(segment.weight for segment in loud) > 0.01


def test_a_word_that_was_heard_is_explained_where_it_was_said(speech: Predictor) -> None:
    options = LoadOptions(task_options={"tokens": ["", "a", "|"], "delimiter": "|"})
    item = np.concatenate([GAP, LOW, HIGH, LOW, GAP])
    with Predictor.load(speech.bundle.folder, options=options) as loaded:
        heard = loaded.predict(item)
        assert [word.text for word in heard.words] == ["a", "a"]
        for place, label in enumerate(("a", "a#2")):
            told, word = loaded.explain(item, label=label), heard.words[place]
            assert (told.label, told.score) == (label, pytest.approx(word.score, abs=0.05))
            costly = [segment for segment in told.segments if segment.weight > 0.01]
            assert len(costly) > 5
            assert all(word.start - 0.06 <= s.start and s.end <= word.end + 0.06 for s in costly)
        with pytest.raises(InputError, match=r"a word that was heard \(a, a#2\), got 'milk'"):
            loaded.explain(item, label="milk")


def test_where_nothing_was_said_silence_is_explained(speech: Predictor) -> None:
    told = speech.explain(GAP)
    assert (told.label, told.score) == ("silence", pytest.approx(speech.predict(GAP).score))
    with pytest.raises(InputError, match="a word that was heard"):
        speech.explain(GAP, label="a")


def test_silencing_the_segments_that_say_it_costs_more_than_silencing_any(speech: Predictor) -> None:
    found = speech.faithfulness([np.concatenate([GAP, LOW, GAP]), np.concatenate([HIGH, GAP, GAP])])
    assert found.ranked > found.shuffled + 0.05


@pytest.mark.parametrize(
    ("change", "said"), [({"rate": 0}, "no model reads"), ({"max_seconds": 0.0}, "no model reads")]
)
def test_options_that_no_sound_has_are_refused(sound_bundle: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        Predictor.load(sound_bundle, options=LoadOptions(task_options=change))
