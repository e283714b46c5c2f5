"""Every example runs, as its page says."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from doorstep import Predictor
from doorstep.bundle import Bundle
from doorstep.golden import compare, load_golden

HERE = Path(__file__).parent
INTENTS = HERE / "shopper_intents"


def test_the_shipped_data_is_what_its_grammar_says() -> None:
    done = subprocess.run([sys.executable, INTENTS / "make_data.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_template_is_in_two_splits() -> None:
    with open(INTENTS / "intents.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["template"], set()).add(row["split"])
    assert len(rows) > 3000
    assert len({row["label"] for row in rows}) >= 8
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.slow
def test_the_example_bundle_holds_three_engines_that_each_give_the_golden_answers(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert {variant.runtime for variant in manifest.variants} == {"onnx", "openvino", "tflite"}
    for variant in manifest.variants:
        with Predictor.load(bundle, variant=variant.name, strict=True) as predictor:
            assert compare(predictor, load_golden(predictor.bundle)) == [], variant.name


@pytest.mark.slow
def test_the_student_of_the_example_beats_counting_words(bundle: Path) -> None:
    accuracies = [v.measured.accuracy for v in Bundle.open(bundle).manifest.variants if v.measured]
    assert min(accuracy or 0.0 for accuracy in accuracies) > 0.794  # TF-IDF, see shopper_intents/README.md


@pytest.mark.slow
@pytest.mark.parametrize(("locale", "name"), [("en", "check_stock"), ("zh", "查")])
def test_the_kiosk_answers(bundle: Path, locale: str, name: str) -> None:
    said = "do you still have any oat milk in stock\nMein Hovercraft ist voller Aale\n"
    command = [sys.executable, HERE / "kiosk/kiosk.py", bundle, "--locale", locale, "--sure", "0.75"]
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert name in first
    assert "rings for staff" in second


@pytest.mark.slow
def test_the_command_line_of_the_readme_answers(bundle: Path) -> None:
    command = [sys.executable, "-m", "doorstep.cli.main", "predict", bundle, "--json", "is the oat milk back in stock"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["label"] == "check_stock"


@pytest.mark.slow
def test_a_visit_is_judged_also_where_fields_are_missing() -> None:
    done = subprocess.run([sys.executable, HERE / "visits/visits.py"], capture_output=True, text=True, check=True)
    sure, unsure, wrong = done.stdout.splitlines()
    assert float(sure.split()[-1]) > 0.8
    assert float(unsure.split()[-1]) < 0.3
    assert "is it 'pages'" in wrong


@pytest.mark.slow
def test_what_a_visitor_takes_next_is_learnt_explained_and_new_things_are_met() -> None:
    done = subprocess.run([sys.executable, HERE / "next_item/shelf.py"], capture_output=True, text=True, check=True)
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert told["next"] in ("kettle", "mug")
    assert set(told["茶"].split()) <= {"茶杯", "茶盘", "红茶", "蜂蜜", "茶巾", "点心"}
    assert told["because of"] == "grinder"
    assert told["the new one is among them"] == "True"
    assert told["also read in a history"].endswith("skipped: gone")


@pytest.mark.slow
def test_spoken_commands_are_heard_in_a_stream() -> None:
    done = subprocess.run([sys.executable, HERE / "voice/voice.py"], capture_output=True, text=True, check=True)
    *heard, told, wrong = done.stdout.splitlines()
    assert [line.rpartition(" → ")[2] for line in heard] == ["next", "next", "back", "help", "pay"]
    assert float(told.split()[-2]) >= 1.0
    assert "expected a WAV file" in wrong


@pytest.mark.slow
def test_drawn_fruit_is_told_apart_and_the_place_it_is_seen_by_is_shown() -> None:
    done = subprocess.run([sys.executable, HERE / "shelf/shelf.py"], capture_output=True, text=True, check=True)
    *fruit, wrong, looked = done.stdout.splitlines()
    assert [line.split()[0] == line.split()[2] for line in fruit] == [True] * 3
    assert "it is none of JPEG" in wrong
    assert looked.startswith("it looked at 0.")


@pytest.mark.slow
def test_a_shop_finds_its_products() -> None:
    done = subprocess.run([sys.executable, HERE / "shop/find.py"], capture_output=True, text=True, check=True)
    found = [line.rpartition(" → ")[2] for line in done.stdout.splitlines()]
    assert found == [
        "Sony WH-1000XM4 wireless headphones", "LG front load washing machine 8 kg", "红色手机壳 iPhone 15 Pro",
        "oat milk, organic, 1 l", "Sony WF-1000XM4 earbuds", "purple umbrella",
    ]  # fmt: skip


@pytest.mark.slow
def test_what_a_search_found_is_read_again_and_put_in_order() -> None:
    done = subprocess.run([sys.executable, HERE / "ranking/ranking.py"], capture_output=True, text=True, check=True)
    found = [line.rpartition(" → ")[2].strip() for line in done.stdout.splitlines()]
    assert found == ["camera", "手机 壳", "kettle cable"]


@pytest.mark.slow
def test_what_is_ordered_how_much_and_which_size_is_found_in_an_order() -> None:
    done = subprocess.run([sys.executable, HERE / "slots/slots.py"], capture_output=True, text=True, check=True)
    first, second, third = (line.rpartition(" → ")[2] for line in done.stdout.splitlines())
    assert first == "amount: three, size: large, product: hiking boots"
    assert second == "size: small, product: rain jacket"
    assert third == "nothing ordered"


@pytest.mark.slow
def test_products_like_a_product_are_found() -> None:
    done = subprocess.run([sys.executable, HERE / "similar/similar.py"], capture_output=True, text=True, check=True)
    pairs = dict(line.split(" → ") for line in done.stdout.splitlines())
    assert len(pairs) == 8
    assert pairs["oat milk, organic"] == "soy drink without sugar"
    assert all(pairs[pairs[name]] == name for name in pairs)


@pytest.mark.slow
def test_products_that_a_network_never_saw_are_found_by_a_photo() -> None:
    done = subprocess.run([sys.executable, HERE / "photo/find_by_photo.py"], capture_output=True, text=True, check=True)
    found = [line.removeprefix("a photo of ").split(" → ") for line in done.stdout.splitlines()]
    assert [one == other for one, other in found] == [True] * 3


@pytest.mark.slow
def test_the_number_that_was_keyed_in_is_written_down() -> None:
    done = subprocess.run([sys.executable, HERE / "keys/keys.py"], capture_output=True, text=True, check=True)
    written = [line.partition(", from ")[0].removeprefix("keyed in ").split(" → ") for line in done.stdout.splitlines()]
    assert [one == other for one, other in written] == [True] * 3
