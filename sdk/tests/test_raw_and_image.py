"""Tasks on arrays and on pictures."""

import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from doorstep.errors import FormatError, InputError, UsageError
from doorstep.predictor import LoadOptions, Predictor
from doorstep.results import Tensors
from doorstep.tasks.pictures import PictureOptions, Pictures
from doorstep.tasks.raw import RawTensors
from doorstep.tensors import TensorSpec

RED = np.full((8, 6, 3), (200, 10, 20), np.uint8)


@pytest.fixture
def tensors(tensor_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(tensor_bundle) as loaded:
        yield loaded


@pytest.fixture
def pictures(picture_bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(picture_bundle) as loaded:
        yield loaded


@pytest.mark.parametrize("item", [{"values": [1, 2, 3]}, [1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3], np.int8)])
def test_an_item_is_a_dict_of_arrays_or_the_only_array(tensors: Predictor, item: Any) -> None:
    assert tensors.predict(item) == Tensors({"sums": 6.0})
    assert tensors.predict(item).to_dict() == {"sums": 6.0}


def test_items_of_one_shape_share_a_batch(tensors: Predictor) -> None:
    assert tensors.predict_many([[1, 2], [3, 4], [5, 6]]) == [Tensors({"sums": total}) for total in (3.0, 7.0, 11.0)]


def test_items_of_several_shapes_are_answered_one_by_one(tensors: Predictor) -> None:
    results = tensors.predict_many([[1, 2, 3], [4]], batch_size=1)
    assert results == [Tensors({"sums": 6.0}), Tensors({"sums": 4.0})]
    with pytest.raises(InputError, match="different shapes cannot share a batch; use batch_size=1"):
        tensors.predict_many([[1, 2, 3], [4]])


@pytest.mark.parametrize(
    "item, message",
    [
        (None, "no array of float32"),
        ("abc", "no array of float32"),
        (["a"], "no array of float32"),
        ([None], "no array of float32"),
        ([[1], [2, 3]], "no array of float32"),
        ([1j], "no array of float32"),
        (object(), "no array of float32"),
        (3, "expects shape"),
        ([[1, 2]], "expects shape"),
        ({}, "expected a dict of values, got"),
        ({"other": [1]}, "expected a dict of values, got other"),
        ({"values": [1], "other": [1]}, "expected a dict of values, got values, other"),
    ],
    ids=str,
)
def test_what_is_no_such_array_is_refused_by_its_place(tensors: Predictor, item: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"item 1: .*{message}"):
        tensors.predict_many([[1, 2], item])


def row(dtype: str, value: Any) -> np.ndarray:
    return RawTensors([TensorSpec("x", dtype, ("batch", 2))]).prepare([value])[0]["x"]


@pytest.mark.parametrize(
    "dtype, value",
    [
        ("int64", [1, 2]),
        ("uint8", [0, 255]),
        ("int8", np.array([-128, 127])),
        ("float32", [1, 2.5]),
        ("float16", np.array([1.0, 2.5])),
        ("int32", [True, False]),
        ("bool", [True, False]),
    ],
)
def test_numbers_that_fit_become_the_declared_dtype(dtype: str, value: Any) -> None:
    array = row(dtype, value)
    assert array.dtype.name == dtype
    assert array.tolist() == list(value)


@pytest.mark.parametrize(
    "dtype, value",
    [
        ("uint8", [0, 256]),
        ("uint8", [-1, 0]),
        ("int8", np.array([300, 0])),
        ("int64", [1.5, 2.0]),
        ("int64", [1 << 70, 0]),
        ("int64", [float("nan"), 0]),
        ("bool", [1, 0]),
        ("bool", ["True", ""]),
        ("float32", ["1", "2"]),
        ("float32", np.array(["2020-01-01", "2020-01-02"], "datetime64[D]")),
    ],
)
def test_numbers_that_would_change_their_meaning_are_refused(dtype: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"no array of {dtype}"):
        row(dtype, value)


def test_raw_tensors_take_no_options(tensor_bundle: Path) -> None:
    with pytest.raises(UsageError, match="expected some of none, got top_k"):
        Predictor.load(tensor_bundle, options=LoadOptions(task_options={"top_k": 3}))


def encoded(kind: str, picture: np.ndarray = RED, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "红.png"
    path.write_bytes(encoded("PNG"))
    return path


FORMS: dict[str, Callable[[Path], Any]] = {
    "a path": lambda path: path,
    "a path as text": str,
    "bytes": Path.read_bytes,
    "a picture": lambda path: Image.open(path),
    "an array": lambda path: RED,
    "a mirrored view": lambda path: RED[:, ::-1],
    "JPEG": lambda path: encoded("JPEG"),
    "WebP": lambda path: encoded("WEBP"),
    "with alpha": lambda path: Image.fromarray(RED).convert("RGBA"),
    "with a palette": lambda path: Image.fromarray(RED).convert("P"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_picture_may_come_in_many_forms(pictures: Predictor, path: Path, form: Callable[[Path], Any]) -> None:
    result = pictures.predict(form(path))
    assert result.label == "red"
    expected = np.exp(np.array([200, 10, 20]) / 255)
    assert result.score == pytest.approx(float(expected[0] / expected.sum()), abs=0.02)


def test_a_picture_is_turned_as_its_camera_says(pictures: Predictor, picture_bundle: Path) -> None:
    half = np.zeros((4, 8, 3), np.uint8)
    half[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    task, plain = pictures._task, Image.fromarray(half)
    turned = Image.open(io.BytesIO(encoded("PNG", half, exif=exif.tobytes())))
    rows = task.prepare([turned, plain.transpose(Image.Transpose.ROTATE_270), plain])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("high", "wide", "bound"), [(4, 4, 0), (16, 28, 1)])  # as the model takes it, and resized
def test_every_orientation_of_a_camera_is_turned_as_pillow_turns_it(
    pictures: Predictor, orientation: int, high: int, wide: int, bound: int
) -> None:
    pixels = np.random.default_rng(orientation).integers(0, 256, (high, wide, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded("PNG", pixels, exif=exif.tobytes())
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    seen, expected = pictures._task.prepare([data, upright])
    assert np.abs(seen.astype(int) - expected).max() <= bound
    assert np.array_equal(upright, pixels) == (orientation == 1)


@pytest.mark.parametrize(
    "item, message",
    [
        (None, "expected a path, bytes, a PIL picture or an array, got NoneType"),
        (3, "got int"),
        ([RED], "got list"),
        (b"", "cannot be read as a picture"),
        (b"no picture", "cannot be read as a picture"),
        (encoded("PNG")[:45], "cannot be read as a picture"),
        (encoded("JPEG")[:200], "cannot be read as a picture"),
        ("/nowhere/x.png", "cannot be read as a picture"),
        ("a\0b", "cannot be read as a picture"),
        ("", "cannot be read as a picture"),
        (Path("/"), "cannot be read as a picture"),
        (RED.astype(np.float32), "expected .*uint8, got"),
        (RED[..., :1], "expected .*uint8, got"),
        (RED[0], "expected .*uint8, got"),
        (RED[:0], "expected .*uint8, got"),
    ],
    ids=range(15),
)
def test_what_is_no_picture_is_refused_by_its_place(pictures: Predictor, item: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"item 1: .*{message}"):
        pictures.predict_many([RED, item])


def test_a_picture_of_too_many_pixels_is_refused_unread(pictures: Predictor) -> None:
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 100_000
    with pytest.raises(InputError, match="at most 64000000 pixels"):
        pictures.predict(bomb.getvalue())


def test_a_file_of_too_many_bytes_is_refused(pictures: Predictor, path: Path) -> None:
    os.truncate(path, (64 << 20) + 1)
    with pytest.raises(InputError, match="at most 67108864 bytes"):
        pictures.predict(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_no_damaged_picture_ends_in_another_error(pictures: Predictor, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data, chance = encoded(kind, exif=exif.tobytes()), random.Random(4)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(chance.choice([1, 2, 8])):
            damaged[chance.randrange(len(data))] = chance.randrange(256)
        try:
            count = len(pictures.predict(bytes(damaged)).scores)
        except InputError:
            count = 3
        assert count == 3


def tensor(options: PictureOptions, dtype: str = "float32") -> np.ndarray:
    size = (options.height, options.width)
    shape = (3, *size) if options.layout == "NCHW" else (*size, 3)
    pictures = Pictures(options, [TensorSpec("pixels", dtype, ("batch", *shape))])
    return pictures.collate([pictures.see(RED, 0).pixels])["pixels"][0]


@pytest.mark.parametrize(
    "options, pixel",
    [
        ({"scale": 1.0}, (200, 10, 20)),
        ({"scale": 0.5}, (100, 5, 10)),
        ({"scale": 1.0, "mean": (100.0, 10.0, 0.0)}, (100, 0, 20)),
        ({"scale": 1.0, "mean": (0.0,), "std": (10.0,)}, (20, 1, 2)),
        ({"scale": 1.0, "std": (1.0, 2.0, 4.0)}, (200, 5, 5)),
    ],
)
def test_pixels_are_scaled_then_centred(options: dict[str, Any], pixel: tuple[float, ...]) -> None:
    array = tensor(PictureOptions(2, 2, **options))
    assert array.shape == (2, 2, 3)
    assert array[0, 0].tolist() == pytest.approx(pixel)


def test_the_channels_come_first_where_the_model_wants_them_so() -> None:
    array = tensor(PictureOptions(3, 2, layout="NCHW", scale=1.0))
    assert array.shape == (3, 2, 3)
    assert array[:, 0, 0].tolist() == [200, 10, 20]


def test_a_model_of_bytes_gets_the_pixels_as_they_are() -> None:
    array = tensor(PictureOptions(2, 2, mean=(5.0, 5.0, 5.0)), "uint8")
    assert (array.dtype.name, array[0, 0].tolist()) == ("uint8", [200, 10, 20])


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "HWC"},
        {"resample": "lanczos9"},
        {"width": 0},
        {"width": -2, "height": -2},
        {"width": 100_000, "height": 100_000},
        {"mean": (1.0, 2.0)},
        {"std": ()},
        {"std": (1.0, 0.0, 1.0)},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="options: "):
        tensor(PictureOptions(**{"width": 2, "height": 2, **options}))
