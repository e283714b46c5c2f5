"""Sound, the whole way on small checkpoints: features, padding, every engine, training, bad data."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    HubertConfig,
    HubertForSequenceClassification,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForSequenceClassification,
)
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from doorstep import Predictor
from doorstep.errors import CheckpointError, DataError
from doorstep.golden import compare, load_golden
from doorstep.sound.wave import write_wave
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert, workbench
from doorstep_converters.progress import Lines
from doorstep_converters.students.audio_cnn import (
    AudioCnnConfig,
    AudioCnnForCTC,
    AudioCnnForSequenceClassification,
    LogMel,
)
from doorstep_converters.tasks import find_craft, guess_task
from doorstep_converters.tasks.automatic_speech_recognition import word_error_rate
from doorstep_converters.tasks.sound_graph import graph_of
from doorstep_converters.tasks.sound_spec import SoundSpec
from doorstep_converters.tasks.sound_train import Augmenter, distance, frame_of

RATE = 8000
VARIANTS = ("onnx-fp32", "onnx-int8", "openvino-fp16", "tflite-fp16", "numpy-fp16")
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": (16,) * 3,
    "conv_kernel": (10, 8, 4), "conv_stride": (5, 4, 4), "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16, "initializer_range": 0.3,
}  # fmt: skip
LAYERED = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


def _tone(hertz: float, seconds: float, generator: np.random.Generator) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * hertz * time) + generator.normal(0, 0.005, len(time))


def _word(name: str, generator: np.random.Generator) -> np.ndarray:
    """Return a made-up word: `a` is a low tone, `b` a high one, each 0.12 s or a little more."""
    parts = [np.zeros(400)]
    for letter in name:
        hertz = (400 if letter == "a" else 1600) * generator.uniform(0.95, 1.05)
        parts += [_tone(hertz, generator.uniform(0.12, 0.16), generator), np.zeros(400)]
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return made-up recordings of three words in ZIP archives, with labels and texts."""
    folder, generator = tmp_path_factory.mktemp("words"), np.random.default_rng(7)
    lines = ["split,file,label,text"]
    for split, count in (("train", 16), ("dev", 6), ("test", 6)):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for number in range(count):
                for name in ("a", "b", "ab"):
                    archive.writestr(f"{name}/{number}.wav", write_wave(_word(name, generator), RATE))
                    lines.append(f"{split},{name}/{number}.wav,{name},{name[0]}{' ' if number % 2 else ''}{name[1:]}")
    (folder / "index.csv").write_text("\n".join(lines).replace(" ", "") + "\n")
    return folder


def _convert(checkpoint: str, task: str, out: Path, cache: Path, **changes: Any) -> Report:
    job = Job(
        checkpoint, "x86-64-vnni", out, task=task, cache=cache, **{"variants": VARIANTS, "bound": Bound(), **changes}
    )
    return convert(job, Lines())


def _all_pass(report: Report, variants: tuple[str, ...] = VARIANTS) -> None:
    assert {c.plan.name: c.failure for c in report.candidates} == dict.fromkeys(variants, "")
    for variant in variants:
        with Predictor.load(report.bundle or "", variant=variant, strict=True) as predictor:
            golden = load_golden(predictor.bundle)
            assert len(golden.examples) > 3
            assert compare(predictor, golden) == [], variant


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_features_are_those_of_transformers(rate: int) -> None:
    window, hop, points = frame_of(rate)
    config = AudioCnnConfig(rate=rate, window=window, hop=hop, fft=points)
    samples = np.random.default_rng(3).normal(0, 0.1, rate) * np.linspace(0, 1, rate) ** 3
    expected = spectrogram(
        samples, window_function(window, "hann"), window, hop, points, power=2.0, center=False, log_mel="log",
        mel_filters=mel_filter_bank(points // 2 + 1, 40, 20.0, rate / 2, rate, mel_scale="htk"), mel_floor=1e-6,
    )  # fmt: skip
    found = LogMel(config)(torch.from_numpy(samples.astype(np.float32))[None])[0].numpy().T
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-3


def _graphs() -> Iterator[tuple[str, Any]]:
    torch.manual_seed(5)
    own = AudioCnnConfig(width=16, layers=2, num_labels=4)
    yield "own", AudioCnnForSequenceClassification(own)
    yield "own with a recurrent layer", AudioCnnForSequenceClassification(AudioCnnConfig(width=16, layers=1, states=8))
    yield "own CTC", AudioCnnForCTC(AudioCnnConfig(width=16, layers=1, vocab_size=6))
    yield "group norm", Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SMALL))
    yield "layer norm CTC", Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=9, **LAYERED, **SMALL))
    yield "HuBERT", HubertForSequenceClassification(HubertConfig(use_weighted_layer_sum=True, **SMALL))


@pytest.mark.parametrize("place", range(6), ids=[name for name, _ in _graphs()])
def test_padding_changes_no_answer(place: int, tmp_path: Path) -> None:
    model = list(_graphs())[place][1].eval()
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": 16000, "do_normalize": true}')
    graph = graph_of(model, tmp_path)
    if hasattr(model, "set_attn_implementation") and "doorstep" not in model.config.model_type:
        model.set_attn_implementation("eager")
    waveform = 0.1 * torch.randn(2, 6000, generator=torch.Generator().manual_seed(1))
    waveform[0, 3000:] = 0
    with torch.no_grad():
        both = graph(waveform, torch.tensor([3000, 6000]))[0]
        alone = graph(waveform[:1, :3000], torch.tensor([3000]))[0]
        noisy = graph(torch.cat([waveform[:1, :3000], torch.ones(1, 500)], dim=1), torch.tensor([3000]))[0]
    length = len(alone)
    torch.testing.assert_close(both[:length], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(noisy[:length], alone, atol=1e-4, rtol=0)
    assert (both[length:].reshape(-1, both.shape[-1]).argmax(-1) == 0).all()  # frames of padding are blank


def _save_processor(folder: Path, is_normalized: bool, letters: str = "") -> None:
    Wav2Vec2FeatureExtractor(sampling_rate=16_000, do_normalize=is_normalized).save_pretrained(folder)
    if letters:
        places = {token: place for place, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *letters])}
        (folder / "vocab.json").write_text(json.dumps(places))
        Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav2vec2", "hubert"])
def test_checkpoints_of_transformers_answer_alike_in_every_engine(kind: str, cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    head = {"id2label": {0: "yes", 1: "no", 2: "stop"}, "label2id": {"yes": 0, "no": 1, "stop": 2}}
    if kind == "wav2vec2":
        Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**head, **SMALL)).save_pretrained(tmp_path / kind)
    else:
        config = HubertConfig(use_weighted_layer_sum=True, **head, **SMALL)
        HubertForSequenceClassification(config).save_pretrained(tmp_path / kind)
    _save_processor(tmp_path / kind, is_normalized=kind == "wav2vec2")
    assert guess_task(str(tmp_path / kind)) == "audio-classification"
    report = _convert(str(tmp_path / kind), "audio-classification", tmp_path, cache, max_length=2)
    _all_pass(report)
    exact = report.candidates[0].parity
    assert exact is not None
    assert exact.max_abs_error < 1e-4


@pytest.mark.slow
def test_a_ctc_checkpoint_writes_the_same_in_every_engine(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(8)
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=8, pad_token_id=0, **LAYERED, **SMALL)).save_pretrained(tmp_path / "ctc")
    _save_processor(tmp_path / "ctc", is_normalized=True, letters="abc")
    assert guess_task(str(tmp_path / "ctc")) == "automatic-speech-recognition"
    variants = ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")
    report = _convert(
        str(tmp_path / "ctc"), "automatic-speech-recognition", tmp_path, cache, variants=variants, max_length=2
    )
    _all_pass(report, variants)
    for candidate in report.candidates:
        assert candidate.parity is not None
        assert candidate.parity.agreement == 1.0, candidate.plan.name
        assert candidate.parity.max_abs_error < (1e-4 if candidate.plan.name == "onnx-fp32" else 0.02)
    noise = np.random.default_rng(1).normal(0, 0.1, 16000)
    texts = set()
    for variant in variants:
        with Predictor.load(report.bundle or "", variant=variant, strict=True) as predictor:
            texts.add(predictor.predict(noise).text)
    assert len(texts) == 1
    assert len(texts.pop()) > 1


@pytest.mark.slow
def test_words_are_learnt_from_recordings_and_answered_in_every_engine(
    words: Path, cache: Path, tmp_path: Path
) -> None:
    job = {"data": words, "training": Training(epochs=60, teacher="new:cnn-2l-32w")}
    report = _convert("new:cnn-1l-16w", "audio-classification", tmp_path, cache, **job)
    _all_pass(report)
    assert report.manifest is not None
    assert report.manifest.options["rate"] == RATE
    assert {c.plan.name: (c.measured.accuracy or 0) > 0.9 for c in report.candidates if c.measured} == dict.fromkeys(
        VARIANTS, True
    )
    generator = np.random.default_rng(99)
    gap = np.zeros(RATE // 2, np.float32)
    with Predictor.load(report.bundle or "") as predictor:
        spoken = ["ab", "b", "a", "ab"]
        heard = predictor.stream([gap, *(part for name in spoken for part in (_word(name, generator), gap))])
        assert [one.result.label for one in heard] == spoken


@pytest.mark.slow
def test_the_cards_of_recordings_say_that_explanations_tell_the_truth(words: Path, cache: Path, tmp_path: Path) -> None:
    for task, epochs, whose in (
        ("audio-classification", 60, "the best label"),
        ("automatic-speech-recognition", 120, "the transcript"),
    ):
        job = {"data": words, "training": Training(epochs=epochs), "variants": ("onnx-fp32",), "bound": Bound(0.0)}
        report = _convert("new:cnn-2l-32w", task, tmp_path / task, cache, **job)
        card = (Path(report.bundle or "") / "README.md").read_text(encoding="utf-8")
        found = re.search(rf"segments .* highest costs {whose} (\d\.\d+) of its .* random ones (\d\.\d+)", card)
        assert found is not None, task
        assert float(found[1]) > float(found[2]), task


@pytest.mark.slow
def test_letters_are_learnt_from_recordings(words: Path, cache: Path, tmp_path: Path) -> None:
    job = {"data": words, "training": Training(epochs=120), "variants": ("onnx-fp32", "onnx-int8")}
    report = _convert("new:cnn-2l-32w", "automatic-speech-recognition", tmp_path, cache, **job)
    _all_pass(report, ("onnx-fp32", "onnx-int8"))
    with Predictor.load(report.bundle or "") as predictor:
        found = predictor.predict({"array": _word("ab", np.random.default_rng(5)), "sampling_rate": RATE})
        assert found.text == "ab"
        assert 0.0 <= found.words[0].start < found.words[0].end < 0.5


def _wave_folder(kind: str, folder: Path) -> Path:
    """Write a small checkpoint with a head that knows other labels or letters than the data."""
    torch.manual_seed(9)
    head = {"id2label": {0: "yes", 1: "no"}, "label2id": {"yes": 0, "no": 1}}
    if kind == "hubert":
        HubertForSequenceClassification(HubertConfig(**head, **SMALL)).save_pretrained(folder)
    elif kind == "wav2vec2":
        Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**head, **SMALL)).save_pretrained(folder)
    else:
        Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=8, pad_token_id=0, **SMALL)).save_pretrained(folder)
    _save_processor(folder, is_normalized=True, letters="xyz" if kind == "CTC" else "")
    return folder


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("wav2vec2", "audio-classification"),
        ("hubert", "audio-classification"),
        ("CTC", "automatic-speech-recognition"),
    ],
)
def test_a_new_head_keeps_what_its_checkpoint_says_of_sound(
    kind: str, task: str, words: Path, cache: Path, tmp_path: Path
) -> None:
    folder = _wave_folder(kind, tmp_path / kind)
    before = (folder / "preprocessor_config.json").read_bytes()
    training = Training(is_forced=True, epochs=1, learning_rate=1e-3)
    trained = _learn(str(folder), task, words, cache, tmp_path, training)
    assert trained.labels == ("a", "ab", "b") if kind != "CTC" else ("<pad>", "|", "a", "b", "<unk>")
    assert (trained.folder / "preprocessor_config.json").read_bytes() == before
    model = find_craft(task).load(trained.folder, False)
    feeds = model.example(2, 8000, is_narrow=False)
    with torch.no_grad():
        assert model.module(*feeds.values()).shape[-1] == len(trained.labels)


def _learn(checkpoint: str, task: str, data: Path, cache: Path, out: Path, training: Training) -> Any:
    """Train as a convert does, without what follows."""
    job = Job(checkpoint, "x86-64", out, task=task, data=data, cache=cache, training=training)
    craft = find_craft(task)
    with workbench(job, "words", Lines()) as bench:
        return craft.learn(job, craft.find(job), craft.read(job), bench)


def test_a_student_of_letters_comes_nearer_to_its_teacher(words: Path, cache: Path, tmp_path: Path) -> None:
    task = "automatic-speech-recognition"
    teacher = _learn("new:cnn-1l-16w", task, words, cache, tmp_path, Training(epochs=20))
    training = Training(epochs=20, teacher=str(teacher.folder), seed=5)
    taught = _learn("new:cnn-1l-16w", task, words, cache, tmp_path, training)
    alone = _learn("new:cnn-1l-16w", task, words, cache, tmp_path, Training(epochs=20, seed=5))
    spoken = _word("ab", np.random.default_rng(3))
    feeds = (torch.from_numpy(spoken)[None], torch.tensor([len(spoken)]))
    craft = find_craft(task)
    with torch.no_grad():
        wanted, near, far = (craft.load(one.folder, False).module(*feeds) for one in (teacher, taught, alone))
    assert distance(near, wanted) < 0.7 * distance(far, wanted)


@pytest.mark.parametrize(
    ("task", "kind", "letters", "said"),
    [
        ("audio-classification", "wav2vec2", "", "reads 8000 samples a second, as the student does, got 16000"),
        ("automatic-speech-recognition", "CTC", "", "reads 8000 samples a second, as the student does, got 16000"),
        ("automatic-speech-recognition", "CTC", "xyz", "does not know the data's labels alone"),
    ],
)
def test_a_teacher_that_hears_otherwise_than_its_student_is_refused(
    task: str, kind: str, letters: str, said: str, words: Path, cache: Path, tmp_path: Path
) -> None:
    folder = _wave_folder(kind, tmp_path / kind)
    if not letters:  # the data's own classes, so that the rate alone is amiss
        training = Training(is_forced=True, epochs=1)
        folder = _learn(str(folder), task, words, cache, tmp_path, training).folder
    with pytest.raises(CheckpointError, match=said):
        _learn("new:cnn-1l-16w", task, words, cache, tmp_path, Training(epochs=1, teacher=str(folder)))


def test_a_teacher_whose_frames_stand_at_other_times_is_refused(words: Path, cache: Path, tmp_path: Path) -> None:
    task = "automatic-speech-recognition"
    teacher = _learn("new:cnn-1l-16w", task, words, cache, tmp_path, Training(epochs=1))
    folder = tmp_path / "slow"
    shutil.copytree(teacher.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hop": 160}))
    with pytest.raises(CheckpointError, match=r"a frame every 0\.02 s, as the student has, got 0\.04 s"):
        _learn("new:cnn-1l-16w", task, words, cache, tmp_path, Training(epochs=1, teacher=str(folder)))


def test_frames_that_only_one_of_two_networks_has_are_not_compared() -> None:
    logits = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(1))
    assert distance(logits, logits[:, :8]) == pytest.approx(0, abs=1e-6)


def _table(folder: Path, text: str, files: dict[str, bytes]) -> Path:
    (folder / "index.csv").write_text(text)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


WAV = write_wave(np.zeros(800, np.float32), RATE)


@pytest.mark.parametrize(
    ("text", "files", "said"),
    [
        ("file,label\na.wav,x\n", {}, "no recording 'a.wav'"),
        ("file,label\na.wav,x\n", {"a.wav": b"no sound"}, "row 1: expected a WAV"),
        ("file,label\na.wav,\n", {"a.wav": WAV}, "its label is empty"),
        ("file,word\na.wav,x\n", {"a.wav": WAV}, "--label-column"),
        ("name,label\na.wav,x\n", {"a.wav": WAV}, "expected a column 'file'"),
        ("file,label\na.wav,x\n", {"a.zip": b"no archive"}, "a.zip: cannot be read"),
        ("file,label\n/etc/passwd,x\n", {"a.zip": b"PK\5\6" + bytes(18)}, "no recording '/etc/passwd'"),
    ],
)
def test_data_that_holds_no_sound_is_refused_by_row(
    tmp_path: Path, text: str, files: dict[str, bytes], said: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(DataError, match=said):
        find_craft("audio-classification").read(
            Job("x", "x86-64", tmp_path, data=_table(folder, text, files), cache=tmp_path)
        )


def test_names_in_an_archive_never_become_paths(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("../../outside.wav", WAV)
    _table(folder, "split,file,label\ntrain,../../outside.wav,x\n", {})
    data = find_craft("audio-classification").read(Job("x", "x86-64", tmp_path, data=folder, cache=tmp_path / "cache"))
    assert Path(data.train[0]["file"]).is_relative_to(tmp_path / "cache")
    assert not (tmp_path / "outside.wav").exists()


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        ({"model_type": "bert"}, {}, "none for sound"),
        ({"model_type": "wav2vec2", "add_adapter": True}, {}, "add_adapter"),
        ({"model_type": "wav2vec2"}, {}, "no weights"),
        ({"model_type": "wav2vec2"}, {"pytorch_model.bin": b""}, "pickle"),
        (
            {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "vocab_size": 3},
            {"model.safetensors": b"", "vocab.json": b'{"a": 3}'},
            "numbers below 3",
        ),
    ],
)
def test_checkpoints_that_hear_nothing_are_refused(
    tmp_path: Path, config: dict[str, Any], files: dict[str, bytes], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=said):
        find_craft("automatic-speech-recognition").find(Job(str(tmp_path), "x86-64", tmp_path))


def test_names_of_networks_say_their_sizes() -> None:
    assert SoundSpec.from_name("new:cnn-2l-48w-32r") == SoundSpec(2, 48, 32)
    for wrong in ("new:gru", "new:cnn-48w-2l", "new:cnn-2l-6w", "new:cnn-9999999w"):
        with pytest.raises(CheckpointError, match="expected"):
            SoundSpec.from_name(wrong)


def test_a_seed_changes_recordings_in_one_way() -> None:
    samples = _word("ab", np.random.default_rng(1))
    changed = [Augmenter(RATE, seed)(samples) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(changed[0], changed[1])
    assert len(changed[0]) != len(changed[2])


def test_word_errors_are_counted() -> None:
    assert word_error_rate(["one two", "three", ""], ["one two", "tree", "four five"]) == 3 / 5
    assert word_error_rate(["a b c"], ["b"]) == 2.0
