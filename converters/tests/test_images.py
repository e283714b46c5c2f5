"""Tasks on pictures: processors, data, converts of small checkpoints, and what is refused."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    MobileNetV1Config,
    MobileNetV1ImageProcessorPil,
    MobileNetV2Config,
    MobileNetV2ImageProcessorPil,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessorPil,
)

from doorstep import Predictor
from doorstep.bundle import Bundle
from doorstep.errors import CheckpointError, ConversionError, DataError
from doorstep.golden import compare, load_golden
from doorstep_converters.data import Columns
from doorstep_converters.job import Job, Report, Training
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.tasks import find_craft, guess_task
from doorstep_converters.tasks.images_data import read_pictures
from doorstep_converters.tasks.images_probes import draw_probes
from doorstep_converters.tasks.images_processor import load_processor, open_upright, pictures_of, prove, read_processor
from doorstep_converters.tasks.images_training import Learner, Rows, forget_rather_than_keep

LABELS = ("milk", "leek", "苹果")
SIDE = 32
EXACT = ("onnx-fp32", "openvino-fp16", "tflite-fp16", "numpy-fp16")
NAMES = {"id2label": dict(enumerate(LABELS)), "label2id": {label: n for n, label in enumerate(LABELS)}}
CONFIGS: dict[str, Callable[[], Any]] = {
    "vit": lambda: ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=SIDE, patch_size=8,
        initializer_range=0.3, **NAMES,
    ),
    "convnext": lambda: ConvNextConfig(
        hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], image_size=SIDE, initializer_range=0.3, **NAMES
    ),
    "resnet": lambda: ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], layer_type="basic", **NAMES
    ),
    "mobilenet_v1": lambda: MobileNetV1Config(depth_multiplier=0.25, image_size=SIDE, initializer_range=0.3, **NAMES),
    "mobilenet_v2": lambda: MobileNetV2Config(depth_multiplier=0.35, image_size=SIDE, initializer_range=0.3, **NAMES),
}  # fmt: skip
CROPPED = {"size": {"shortest_edge": 40}, "crop_size": {"height": SIDE, "width": SIDE}}
OF_MODEL = {
    "vit": ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": SIDE}),
    "resnet": ConvNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_pct=0.8),
    "mobilenet_v1": MobileNetV1ImageProcessorPil(**CROPPED),
    "mobilenet_v2": MobileNetV2ImageProcessorPil(**CROPPED),
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS = {
    "ViT": ViTImageProcessorPil(),
    "ViT, ImageNet's means": ViTImageProcessorPil(resample=3, **IMAGENET),
    "ViT, wide": ViTImageProcessorPil(size={"height": 96, "width": 160}),
    "ViT, raw": ViTImageProcessorPil(do_rescale=False, do_normalize=False),
    "ConvNeXt below 384": ConvNextImageProcessorPil(size={"shortest_edge": 224}, **IMAGENET),
    "ConvNeXt at 384": ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    "ResNet": ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875, resample=3, **IMAGENET),
    "MobileNetV1": MobileNetV1ImageProcessorPil(),
    "MobileNetV2, odd": MobileNetV2ImageProcessorPil(
        size={"shortest_edge": 101}, crop_size={"height": 95, "width": 88}
    ),
    "MobileNetV2, a margin": MobileNetV2ImageProcessorPil(
        size={"shortest_edge": 90}, crop_size={"height": 95, "width": 120}
    ),
    "DeiT": DeiTImageProcessorPil(),
}


def make_checkpoint(kind: str, folder: Path) -> Path:
    torch.manual_seed(7)
    model = AutoModelForImageClassification.from_config(CONFIGS[kind]())
    with torch.no_grad():  # a head that tells pictures apart
        logits = model.eval()(torch.rand(8, 3, SIDE, SIDE)).logits
        head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        head.weight.mul_(2 / logits.std())
    model.save_pretrained(folder)
    OF_MODEL[kind].save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures in a ZIP and a table of them: synthetic, a colour a class."""
    folder = tmp_path_factory.mktemp("shelf")
    generator = np.random.default_rng(7)
    lines = ["file,split,class"]
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for split, count in (("train", 24), ("dev", 9), ("test", 9)):
            for number in range(count):
                name = f"{split}/{number}.jpg"
                color = np.eye(3)[number % 3] * 200 + 20
                pixels = (color + generator.normal(0, 20, (44, 50, 3))).clip(0, 255).astype(np.uint8)
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "JPEG")
                archive.writestr(name, data.getvalue())
                lines.append(f"{name},{split},{LABELS[number % 3]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _convert(checkpoint: Path, out: Path, cache: Path, *variants: str, **changes: Any) -> Report:
    job = Job(str(checkpoint), "x86-64-vnni", out, cache=cache, variants=variants, **{"bound": Bound(0.0), **changes})
    return convert(job, Lines())


def _proven(report: Report) -> None:
    """Every variant was packed and gives its golden answers."""
    assert {c.plan.name: c.failure for c in report.candidates if c.failure} == {}
    assert report.bundle is not None
    for candidate in report.candidates:
        with Predictor.load(report.bundle, variant=candidate.plan.name, strict=True, threads=1) as predictor:
            golden = load_golden(predictor.bundle)
            assert len(golden.examples) > 5
            assert compare(predictor, golden) == [], candidate.plan.name


def _differ_by_rounding(report: Report) -> None:
    """Every engine gives the checkpoint's answers, but for the 16 bits that weights have in most, and for pixels."""
    assert [candidate.plan.name for candidate in report.candidates] == list(EXACT)
    for candidate in report.candidates:
        assert candidate.parity is not None
        assert candidate.parity.agreement > 0.99, candidate.plan.name
        assert candidate.parity.max_abs_error < 0.05  # a device's pixels may differ by 1 of 255 from the processor's


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_a_device_sees_the_pixels_that_transformers_sees(processor: Any, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    probes = [path.read_bytes() for path in draw_probes(tmp_path / "probes")]
    prove(tmp_path, read_processor(tmp_path), probes)


def test_a_large_photo_is_decoded_smaller_within_its_bound(tmp_path: Path) -> None:
    MobileNetV1ImageProcessorPil().save_pretrained(tmp_path)
    pixels = np.asarray(Image.open(draw_probes(tmp_path / "probes")[6]).resize((2400, 1800), Image.Resampling.BICUBIC))
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=90)
    options = read_processor(tmp_path)
    device = pictures_of(options)
    got = device.collate([device.see(data.getvalue(), 0).pixels])["pixel_values"][0]
    expected = load_processor(tmp_path)(open_upright(data.getvalue()))
    levels = np.abs(got - expected) * 255 * 0.5
    assert levels.max() > 0.5  # it was
    assert levels.max() < 6.5  # the hard edges of what is drawn; a photograph has none
    assert levels.mean() < 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "no preprocessor_config.json"),
        (
            {"image_processor_type": "OwlViTImageProcessor"},
            "processor of ViT, .* got 'OwlViTImageProcessor'",
        ),
        ({"image_processor_type": None}, "got 'none'"),
        ({"do_resize": False}, "do_resize is off"),
        ({"do_pad": True}, "do_pad is set"),
        ({"size": {"longest_edge": 8}}, "expected sizes"),
        ({"size": {"shortest_edge": 8}}, "a height and a width, or a centre crop"),
        ({"size": "large"}, "expected sizes"),
        ({"image_mean": 3}, "expected sizes and lists"),
        ({"resample": 99}, "expected sizes"),
    ],
    ids=str,
)
def test_a_processor_that_a_device_cannot_follow_is_refused(
    tmp_path: Path, change: dict[str, Any] | None, message: str
) -> None:
    if change is not None:
        ViTImageProcessorPil().save_pretrained(tmp_path)
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        read_processor(tmp_path)


def test_a_processor_that_does_otherwise_than_it_says_is_found_out(tmp_path: Path) -> None:
    MobileNetV1ImageProcessorPil().save_pretrained(tmp_path)
    probes = [path.read_bytes() for path in draw_probes(tmp_path / "probes")[:2]]
    with pytest.raises(CheckpointError, match="differ from transformers'"):
        prove(tmp_path, {**read_processor(tmp_path), "resample": "bicubic"}, probes)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture_gives_the_same_logits_in_onnx(kind: str, tmp_path: Path) -> None:
    import onnxruntime

    from doorstep_converters.export.onnx import export_any

    folder = make_checkpoint(kind, tmp_path / kind)
    assert guess_task(str(folder)) == "image-classification"
    model = find_craft("image-classification").load(folder, False)
    export_any(model, tmp_path / "model.onnx")
    feeds = model.example(3, 1, is_narrow=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    got = session.run(["logits"], {name: tensor.numpy() for name, tensor in feeds.items()})[0]
    with torch.no_grad():
        expected = model.module(*feeds.values()).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_a_transformer_over_pictures_goes_the_whole_way(shelf: Path, tmp_path: Path, cache: Path) -> None:
    folder = make_checkpoint("vit", tmp_path / "vit")
    columns = Columns(label="class")
    variants = ("onnx-fp32", "onnx-int8", "openvino-fp16", "tflite-fp16", "numpy-fp16")
    report = _convert(folder, tmp_path, cache, *variants, data=shelf, columns=columns)
    _proven(report)
    assert report.bundle is not None
    assert report.manifest is not None
    examples = load_golden(Bundle.open(report.bundle)).examples
    files = {f"golden/{path.name}" for path in (report.bundle / "golden").iterdir()}
    assert {example.item["file"] for example in examples} == files
    assert {label for example in examples for label in example.expected} == set(LABELS)
    assert len({max(example.expected, key=example.expected.__getitem__) for example in examples}) > 1
    assert report.manifest.variants[0].measured is not None
    assert report.manifest.variants[0].measured.agreement == 1.0
    assert "deleting random ones" in (report.bundle / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_convolutions_are_quantized_with_calibration_in_three_engines(shelf: Path, tmp_path: Path, cache: Path) -> None:
    folder = make_checkpoint("mobilenet_v2", tmp_path / "mobilenet")
    variants = ("onnx-int8-static", "openvino-int8-static", "tflite-int8-static")
    report = _convert(folder, tmp_path, cache, *variants, data=shelf, columns=Columns(label="class"))
    _proven(report)
    sizes = {c.plan.name: c.measured.bytes for c in report.candidates if c.measured}
    weights = (folder / "model.safetensors").stat().st_size
    assert max(sizes.values()) < 0.75 * weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["convnext", "mobilenet_v1"])
def test_convolutions_answer_alike_in_every_engine(kind: str, tmp_path: Path, cache: Path) -> None:
    folder = make_checkpoint(kind, tmp_path / kind)
    report = _convert(folder, tmp_path, cache, *EXACT, bound=Bound())
    _proven(report)
    _differ_by_rounding(report)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "width"), [("resnet", 24), ("vit", 32), ("convnext", 24)])
def test_vectors_of_pictures_agree_by_cosine(kind: str, width: int, tmp_path: Path, cache: Path) -> None:
    folder = make_checkpoint(kind, tmp_path / kind)
    report = _convert(folder, tmp_path, cache, *EXACT, task="image-feature-extraction", bound=Bound())
    _proven(report)
    _differ_by_rounding(report)
    assert report.bundle is not None
    with Predictor.load(report.bundle) as predictor:
        vector = predictor.predict(np.zeros((50, 60, 3), np.uint8))
        assert len(vector.values) == width
        assert sum(value * value for value in vector.values) == pytest.approx(1, abs=1e-5)
        assert len(predictor.predict_many([np.zeros((9, 9, 3), np.uint8)] * 3)) == 3


@pytest.mark.slow
def test_a_head_is_trained_and_a_new_network_learns_from_it(shelf: Path, tmp_path: Path, cache: Path) -> None:
    shown = {"data": shelf, "columns": Columns(label="class")}
    folder = make_checkpoint("mobilenet_v2", tmp_path / "mobilenet")
    training = Training(is_forced=True, method="head", epochs=100)
    teacher = _convert(folder, tmp_path / "t", cache, "onnx-fp32", training=training, **shown)
    assert teacher.manifest is not None
    assert teacher.manifest.variants[0].measured is not None
    assert (teacher.manifest.variants[0].measured.accuracy or 0) > 0.9
    checkpoint = max(cache.glob("stages/train-*/checkpoint"), key=lambda path: path.stat().st_mtime)
    training = Training(teacher=str(checkpoint), epochs=12)
    student = _convert(
        Path("new:resnet-8w-32px"), tmp_path / "s", cache, "onnx-int8-static", task="image-classification",
        training=training, **shown,
    )  # fmt: skip
    _proven(student)
    assert student.manifest is not None
    assert student.manifest.options["width"] == 32


def test_a_norm_that_knew_its_last_batch_alone_learns_from_more() -> None:
    config = AutoConfig.for_model("efficientnet", num_labels=3, image_size=32, width_coefficient=0.1)
    model = AutoModelForImageClassification.from_config(config)
    forget_rather_than_keep(model)
    assert {one.momentum for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize(("kind", "dropped"), [("mobilenet_v1", 0.001), ("mobilenet_v2", 0.2)])
def test_what_transformers_keeps_for_dropout_is_dropped_no_more(kind: str, dropped: float) -> None:
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model(kind, num_labels=3))
    before = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert before[0].momentum > 0.9  # as transformers has it
    forget_rather_than_keep(model)
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == [dropped]
    assert model.config.classifier_dropout_prob == dropped
    assert {module.momentum for module in before} == {0.1}
    forget_rather_than_keep(model)  # a checkpoint that was trained here
    assert model.config.classifier_dropout_prob == dropped


def test_other_networks_learn_with_their_own_numbers() -> None:
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model("resnet", num_labels=3))
    before = [module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    forget_rather_than_keep(model)
    assert before == [module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["new:resnet", "new:vit-8w-32px", "new:resnet-1w-32px", "new:resnet-8w-16px"])
def test_a_new_network_that_cannot_be_built_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="for example new:resnet-32w-64px"):
        find_craft("image-classification").find(Job(name, "arm64", tmp_path))


def _drawn(seed: int, shelf: Path, cache: Path) -> np.ndarray:
    data = read_pictures(shelf, Columns(label="class"), cache)
    shown = {"layout": "NCHW", "width": 32, "height": 32, "resize": [40], "resample": "bilinear"}
    rows = {"train": Rows(data.train, data.labels, shown, is_roomy=True)}
    return Learner(torch.nn.Linear(1, 1), rows, None, shown, np.random.default_rng(seed)).batch(range(8)).numpy()


def test_pictures_are_changed_as_the_seed_says(shelf: Path, tmp_path: Path) -> None:
    one, again, other = (_drawn(seed, shelf, tmp_path) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    assert one.shape == (8, 3, 32, 32)


def test_variants_that_do_not_pay_for_convolutions_are_not_tried(tmp_path: Path) -> None:
    from doorstep_converters.recipe import VariantPlan

    craft = find_craft("image-classification")
    checkpoint = craft.find(Job(str(make_checkpoint("resnet", tmp_path / "r")), "arm64", tmp_path))
    assert "slower than fp32" in craft.refusal(VariantPlan("onnx", "dynamic_wi8_afp32"), checkpoint)
    assert "dense layers" in craft.refusal(VariantPlan("onnx", "weight_only_wi4_afp32"), checkpoint)
    assert craft.refusal(VariantPlan("onnx", "static_wi8_ai8"), checkpoint) == ""


def test_pictures_in_a_zip_beside_their_table_are_read(shelf: Path, tmp_path: Path) -> None:
    data = read_pictures(shelf, Columns(label="class"), tmp_path)
    assert (len(data.train), len(data.dev), len(data.test)) == (24, 9, 9)
    assert data.labels == tuple(sorted(LABELS))
    assert data == read_pictures(shelf / "labels.csv", Columns(label="class"), tmp_path).__class__(
        data.name, data.source, data.labels, data.train, data.dev, data.test, data.digest
    )
    assert all(Path(path).is_file() for path, _ in data.train)


def _png(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, value // 2, 7)).save(path)


def test_a_folder_a_class_is_read_and_repeated_pictures_stay_in_one_split(tmp_path: Path) -> None:
    for split, values in (("train", (1, 2, 3)), ("val", (4,)), ("test", (3, 5))):
        for label, shift in (("milk", 0), ("leek", 100)):
            for value in values:
                _png(tmp_path / "shop" / split / label / f"{value}.png", value + shift)
    data = read_pictures(tmp_path / "shop", Columns(), tmp_path)
    assert (len(data.train), len(data.dev), len(data.test)) == (4, 2, 4)
    assert {label for _, label in data.train} == {"milk", "leek"}


def test_pictures_without_splits_are_split_by_their_bytes(tmp_path: Path) -> None:
    for value in range(120):
        _png(tmp_path / "shop" / ("milk" if value % 2 else "leek") / f"{value}.png", value)
    before = read_pictures(tmp_path / "shop", Columns(), tmp_path)
    assert min(len(before.dev), len(before.test)) > 3
    _png(tmp_path / "shop/milk/new.png", 255)
    after = read_pictures(tmp_path / "shop", Columns(), tmp_path)
    assert set(before.dev) <= set(after.dev)
    assert set(before.test) <= set(after.test)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,label\nnot-there.jpg,milk\n", "cannot be unpacked|cannot be read"),
        ("file,label\n../../etc/hostname,milk\n", "expected a path inside|cannot be"),
        ("file,label\na.jpg,\n", "row 1: expected a file, a label"),
        ("file,label,split\na.jpg,milk,later\n", "row 1: expected a file, a label"),
        ("picture of it,label\na.jpg,milk\n", "expected a column 'file', got picture of it, label; .*--file-column"),
        ("file,label\n", "expected 1 to"),
        ("file,label\na.jpg,milk\n", "two or more classes, got 1 of milk"),
    ],
    ids=str,
)
def test_a_table_that_names_no_pictures_is_refused(tmp_path: Path, table: str, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.jpg", b"x")
        archive.writestr("../../etc/hostname", b"x")
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        read_pictures(tmp_path, Columns(), tmp_path / "cache")


def test_a_zip_that_lacks_a_picture_leaves_nothing_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.jpg", b"x")
    (tmp_path / "labels.csv").write_text("file,label\nb.jpg,milk\na.jpg,leek\n")
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_pictures(tmp_path, Columns(), tmp_path / "cache")
    assert list(tmp_path.glob("cache/pictures/*")) == []


@pytest.mark.slow
def test_a_picture_that_is_none_is_named(tmp_path: Path, cache: Path) -> None:
    folder = make_checkpoint("vit", tmp_path / "vit")
    for value in range(6):
        _png(tmp_path / "shop/test" / LABELS[value % 2] / f"{value}.png", value)
        _png(tmp_path / "shop/train" / LABELS[value % 2] / f"{value}.png", 50 + value)
    (tmp_path / "shop/test/milk/bad.png").write_bytes(b"#!/bin/sh")
    with pytest.raises(ConversionError, match="cannot be read as a picture"):
        _convert(folder, tmp_path / "out", cache, "onnx-fp32", data=tmp_path / "shop")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "architecture 'bert' reads no pictures; what works: convnext"),
        ({"model_type": None}, "reads no pictures"),
        ("weights", "no weights in it"),
    ],
    ids=str,
)
def test_a_folder_that_reads_no_pictures_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    folder = make_checkpoint("vit", tmp_path / "vit")
    if change == "weights":
        (folder / "model.safetensors").unlink()
    else:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        find_craft("image-classification").find(Job(str(folder), "arm64", tmp_path))
