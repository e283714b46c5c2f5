"""A model somebody already exported becomes a bundle; what its file does not say is asked for by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from doorstep import Predictor
from doorstep.bundle import Bundle
from doorstep.cli.main import main
from doorstep.errors import ConversionError, DataError, DoorstepError, UsageError
from doorstep.golden import load_golden
from doorstep_converters.adopt import Adoption, adopt
from doorstep_converters.export.classifier import load_classifier
from doorstep_converters.export.onnx import export_graph
from doorstep_converters.export.pictures import export_pictures

SCALE = {"scale": 1 / 255}


class _Colours(torch.nn.Module):
    """A picture model: mean colour to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean(dim=(1, 2)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one picture model [1, 32, 24, 3] as .onnx, .tflite and OpenVINO IR."""
    import litert_torch

    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(3)
    model = _Colours().eval()
    sample = torch.zeros(1, 32, 24, 3)
    torch.onnx.export(model, (sample,), folder / "colours.onnx", dynamo=True, external_data=False, verbose=False)
    litert_torch.convert(model, (sample,)).export(str(folder / "colours.tflite"))
    ov.save_model(ov.convert_model(folder / "colours.onnx"), folder / "colours.xml")
    (folder / "labels.txt").write_text("红色\ngreen\nblue\n", encoding="utf-8")
    return {ending: folder / f"colours.{ending}" for ending in ("onnx", "tflite", "xml")}


@pytest.mark.parametrize("ending", ["onnx", "tflite", "xml"])
def test_a_picture_model_is_adopted_from_each_format(pictures: dict[str, Path], tmp_path: Path, ending: str) -> None:
    model = pictures[ending]
    labels = model.parent / "labels.txt"
    manifest = adopt(Adoption(model, tmp_path, "image-classification", labels=labels, options=SCALE))
    assert manifest.options["layout"] == "NHWC"
    assert (manifest.options["height"], manifest.options["width"]) == (32, 24)
    red = np.zeros((50, 60, 3), np.uint8)
    with Predictor.load(tmp_path / "colours.bundle") as predictor:
        one = predictor.predict(red)
        assert {label.label for label in one.scores} == {"红色", "green", "blue"}
        assert predictor.predict_many([red] * 3) == [one] * 3


class _Shape(torch.nn.Module):
    """Pictures [batch, 3, height, width] to a vector of five numbers; in training it would drop half of them."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = torch.nn.Conv2d(3, 5, 3, stride=2)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(torch.relu(self.filters(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("is_normalized", [True, False])
def test_a_module_of_ones_own_gives_vectors_of_pictures(is_normalized: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    module = _Shape()
    model = export_pictures(module, tmp_path / "shape.onnx", 32, 24)
    assert module.training
    options = {**SCALE, "is_normalized": is_normalized}
    manifest = adopt(Adoption(model, tmp_path, "image-feature-extraction", options=options))
    assert (manifest.options["height"], manifest.options["width"], manifest.options["layout"]) == (32, 24, "NCHW")
    pixels = np.random.default_rng(7).integers(0, 256, (2, 32, 24, 3), np.uint8)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(255))).numpy()
    if is_normalized:
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    with Predictor.load(tmp_path / "shape.bundle", strict=True) as predictor:
        found = [vector.values for vector in predictor.predict_many(list(pixels))]
        assert len(load_golden(predictor.bundle).examples[0].expected) == 5
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_module_of_ones_own_that_gives_no_vector_is_refused(tmp_path: Path) -> None:
    model = export_pictures(torch.nn.Conv2d(3, 5, 3), tmp_path / "maps.onnx", 32, 24)
    with pytest.raises(ConversionError, match=r"expected one vector a picture .* export the model with its pooling"):
        adopt(Adoption(model, tmp_path, "image-feature-extraction", options=SCALE))
    with pytest.raises(UsageError, match="expected NCHW or NHWC, got 'CHW'"):
        export_pictures(torch.nn.Conv2d(3, 5, 3), tmp_path / "maps.onnx", 32, 24, "CHW")


def test_a_size_that_the_file_leaves_open_is_taken_from_the_options(tmp_path: Path) -> None:
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [axes],
    )
    path = tmp_path / "open.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(UsageError, match="image-feature-extraction: the file leaves the size open"):
        adopt(Adoption(path, tmp_path, "image-feature-extraction", options=SCALE))
    manifest = adopt(Adoption(path, tmp_path, "image-feature-extraction", options={**SCALE, "width": 16, "height": 8}))
    assert (manifest.options["height"], manifest.options["width"]) == (8, 16)


def test_the_command_adopts_vectors_and_reads_options_that_are_true_or_false(tmp_path: Path) -> None:
    model = export_pictures(_Shape(), tmp_path / "shape.onnx", 32, 24)
    command = ["adopt", str(model), "--task", "image-feature-extraction", "--out", str(tmp_path)]
    assert main([*command, "--option", "scale=0.00392157", "is_normalized=false"]) == 0
    assert Bundle.open(tmp_path / "shape.bundle").manifest.options["is_normalized"] is False


def test_a_text_model_is_adopted_with_its_tokenizer(make_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    checkpoint = make_checkpoint("bert")
    export_graph(load_classifier(checkpoint), tmp_path / "reviews.onnx")
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    adoption = Adoption(tmp_path / "reviews.onnx", tmp_path, "text-classification", labels=labels, tokenizer=checkpoint)
    adopt(adoption)
    with Predictor.load(tmp_path / "reviews.bundle") as predictor:
        assert predictor.predict("质量很好").label in "abcd"


def test_a_model_of_no_known_task_is_adopted_as_tensors(tmp_path: Path) -> None:
    path = _doubler(tmp_path)
    adopt(Adoption(path, tmp_path))
    with Predictor.load(tmp_path / "doubler.bundle") as predictor:
        assert predictor.predict({"x": [1.0, 2.0]}).outputs == {"y": [2.0, 4.0]}


def _doubler(folder: Path) -> Path:
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        "doubler",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [two],
    )
    path = folder / "doubler.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model": Path("no.onnx")}, ConversionError, "no such file"),
        ({"task": "poetry"}, UsageError, "expected one of text-classification"),
        ({"labels": None}, UsageError, "--labels"),
        ({"labels": Path("two.txt")}, DataError, "expected 3 labels .* got 2"),
        ({"options": {}}, UsageError, "scale="),
        ({"task": "text-classification"}, ConversionError, "is none of them"),
    ],
)
def test_what_is_missing_is_asked_for_by_name(
    pictures: dict[str, Path], tmp_path: Path, change: dict[str, object], kind: type[DoorstepError], message: str
) -> None:
    model = pictures["onnx"]
    (tmp_path / "two.txt").write_text("a\nb\n")
    given = {**change, **({"labels": tmp_path / "two.txt"} if change.get("labels") == Path("two.txt") else {})}
    good = Adoption(model, tmp_path, "image-classification", labels=model.parent / "labels.txt", options=SCALE)
    with pytest.raises(kind, match=message):
        adopt(replace(good, **given))
    assert not list(tmp_path.glob("*.bundle"))


@pytest.mark.parametrize("ending", ["onnx", "tflite", "xml"])
def test_a_file_that_is_no_model_is_named(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"junk.{ending}").write_bytes(b"junk" * 100)
    (tmp_path / "junk.bin").write_bytes(b"")
    with pytest.raises(ConversionError, match="cannot open it"):
        adopt(Adoption(tmp_path / f"junk.{ending}", tmp_path))


def test_an_openvino_file_needs_its_weights(pictures: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "lonely.xml").write_bytes(pictures["xml"].read_bytes())
    with pytest.raises(ConversionError, match=r"lonely\.bin"):
        adopt(Adoption(tmp_path / "lonely.xml", tmp_path))
