"""One line from a bundle to an answer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep import predictor as module
from doorstep.bundle import Bundle, seal
from doorstep.device import Device
from doorstep.errors import (
    BundleError,
    EngineError,
    FormatError,
    IncompatibleError,
    InputError,
    IntegrityError,
    UsageError,
)
from doorstep.manifest import Variant
from doorstep.predictor import LoadOptions, Predictor
from doorstep.race import race
from doorstep.selection import rank
from doorstep.session import Graph, SessionOptions

MakeBundle = Callable[..., Path]
MakeVariant = Callable[..., Variant]
TEXTS = ["love it", "配送很快，包装也很好", "", "arrived in two days, love it " * 20, "nobody answered", "👍"]
BEST, SECOND = "onnx-fp32", "onnx-int8"


@pytest.fixture
def predictor(bundle: Path) -> Iterator[Predictor]:
    with Predictor.load(bundle) as loaded:
        yield loaded


@pytest.fixture(autouse=True)
def _plain_device(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    """Choose as on a CPU without int8 units, whatever this one has: `onnx-fp32` first."""
    monkeypatch.setattr(Device, "detect", lambda: device)


def break_variant(bundle: Path, name: str) -> None:
    """Make a variant that verifies and no engine opens."""
    manifest = Bundle.open(bundle).manifest
    (bundle / f"variants/{name}/model.onnx").write_bytes(b"this is no model")
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.sig.json").unlink(missing_ok=True)
    seal(bundle, manifest)


def test_one_item_gives_one_result(predictor: Predictor) -> None:
    result = predictor.predict("love it")
    assert result.label in ("negative", "neutral", "positive")
    assert sum(score.score for score in result.scores) == pytest.approx(1)


def test_the_answer_is_the_models(bundle: Path, predictor: Predictor) -> None:
    golden = json.loads((bundle / "golden.json").read_bytes())
    for example in golden["examples"]:
        scores = {score.label: score.score for score in predictor.predict(example["item"]).scores}
        assert scores == pytest.approx(example["expected"], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_many_items_are_answered_in_their_order(predictor: Predictor, batch_size: int) -> None:
    alone = [predictor.predict(text) for text in TEXTS]
    together = predictor.predict_many(TEXTS, batch_size=batch_size)
    assert [result.label for result in together] == [result.label for result in alone]
    assert [result.score for result in together] == pytest.approx([result.score for result in alone], abs=1e-5)


@pytest.mark.parametrize("items", [[], (), np.array([])])
def test_no_items_give_no_results(predictor: Predictor, items: Any) -> None:
    assert predictor.predict_many(items) == []


def test_items_may_come_from_a_tuple_or_a_generator(predictor: Predictor) -> None:
    assert predictor.predict_many(tuple(TEXTS)) == predictor.predict_many(text for text in TEXTS)  # type: ignore[arg-type]


def test_items_of_like_length_share_a_batch(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    run = predictor._session.run

    def spy(feeds: Any) -> Any:
        shapes.append(feeds["input_ids"].shape)
        return run(feeds)

    monkeypatch.setattr(predictor, "_session", type("Spy", (), {"run": staticmethod(spy), "close": lambda: None}))
    predictor.predict_many(["love it " * 10, "love", "love it " * 10, "it"], batch_size=2)
    assert [rows for rows, _ in shapes] == [2, 2]
    assert shapes[0][1] < shapes[1][1]


@pytest.mark.parametrize("batch_size, taken", [(1, 1), (3, 3)])
def test_a_stream_takes_no_more_than_a_batch_ahead(predictor: Predictor, batch_size: int, taken: int) -> None:
    given: list[str] = []

    def items() -> Iterator[str]:
        for text in TEXTS:
            given.append(text)
            yield text

    answers = predictor.stream(items(), batch_size=batch_size)
    assert given == []
    first = next(answers)
    assert len(given) == taken
    assert first.label == predictor.predict(TEXTS[0]).label
    assert len(list(answers)) == len(TEXTS) - 1


def test_a_stream_keeps_the_order(predictor: Predictor) -> None:
    expected = [result.label for result in predictor.predict_many(TEXTS)]
    assert [result.label for result in predictor.stream(TEXTS, batch_size=4)] == expected


WRONG_ITEMS: dict[str, tuple[Any, str]] = {
    "None": (None, "expected a text"),
    "bytes": (b"love it", "decode it"),
    "an int": (3, "got int"),
    "a list": (["love it"], "got list"),
    "1 MB": ("x" * (1 << 20), "cut it"),
    "a lone surrogate": ("\ud83d", "half of a surrogate pair"),
}


@pytest.mark.parametrize("item, message", WRONG_ITEMS.values(), ids=WRONG_ITEMS)
def test_a_wrong_item_is_refused_and_the_next_is_answered(predictor: Predictor, item: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor.predict(item)
    assert predictor.predict("love it").label


@pytest.mark.parametrize("item, message", WRONG_ITEMS.values(), ids=WRONG_ITEMS)
def test_a_wrong_item_among_many_is_named(predictor: Predictor, item: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"item 1: .*{message}"):
        predictor.predict_many(["fine", item, "fine"])


@pytest.mark.parametrize("items", ["love it", b"love it", None, 3])
def test_many_wants_a_list(predictor: Predictor, items: Any) -> None:
    with pytest.raises(InputError, match="expected a list of items"):
        predictor.predict_many(items)


@pytest.mark.parametrize("text", ["", "x" * 10_000, "配" * 10_000, "\x00", "½ \u200b &amp;"])
def test_an_odd_text_is_answered(predictor: Predictor, text: str) -> None:
    assert len(predictor.predict(text).scores) == 3


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(predictor: Predictor, batch_size: int) -> None:
    with pytest.raises(UsageError, match="batch_size"):
        predictor.predict_many(TEXTS, batch_size=batch_size)
    with pytest.raises(UsageError, match="batch_size"):
        list(predictor.stream(TEXTS, batch_size=batch_size))


def test_a_closed_predictor_is_an_engine_error(bundle: Path) -> None:
    with Predictor.load(bundle) as predictor:
        predictor.close()
    with pytest.raises(EngineError, match="closed"):
        predictor.predict("love it")


def test_several_threads_get_their_own_answers(predictor: Predictor) -> None:
    expected = [predictor.predict(text) for text in TEXTS]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(predictor.predict, TEXTS * 50)) == expected * 50


def test_why_names_the_variant_the_engine_and_the_others(predictor: Predictor) -> None:
    assert predictor.why.chosen == predictor.variant.name == BEST
    assert predictor.why.engine.startswith("onnxruntime ")
    assert [verdict.variant for verdict in predictor.why.verdicts] == [BEST, SECOND]
    assert predictor.why.fallbacks == ()


@pytest.mark.parametrize("wanted, chosen", [(SECOND, SECOND), ("onnx", BEST), (BEST, BEST)])
def test_a_variant_can_be_asked_for(bundle: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, chosen: str) -> None:
    assert Predictor.load(bundle, variant=wanted).variant.name == chosen
    monkeypatch.setenv("DOORSTEP_VARIANT", wanted)
    assert Predictor.load(bundle).variant.name == chosen


def test_the_argument_is_taken_before_the_variable(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOORSTEP_VARIANT", BEST)
    assert Predictor.load(bundle, variant=SECOND).variant.name == SECOND


def test_an_unknown_variant_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected one of onnx, onnx-fp32, onnx-int8, got 'onnx-int9'"):
        Predictor.load(bundle, variant="onnx-int9")
    monkeypatch.setenv("DOORSTEP_VARIANT", "onnx-int9")
    with pytest.raises(UsageError, match="onnx-int9"):
        Predictor.load(bundle)


def test_a_variant_that_an_engine_refuses_gives_way_to_the_next_and_why_says_so(bundle: Path) -> None:
    break_variant(bundle, BEST)
    predictor = Predictor.load(bundle)
    assert predictor.variant.name == SECOND
    assert len(predictor.why.fallbacks) == 1
    assert "onnx-fp32 failed" in str(predictor.why)


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_strict_turns_a_fallback_into_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    break_variant(bundle, BEST)
    monkeypatch.setenv("DOORSTEP_STRICT", "1" if by == "variable" else "")
    with pytest.raises(IncompatibleError, match="onnx-fp32 failed and strict forbids a fallback"):
        Predictor.load(bundle, strict=by == "argument")


def test_when_every_variant_fails_every_reason_is_told(bundle: Path) -> None:
    for name in (BEST, SECOND):
        break_variant(bundle, name)
    with pytest.raises(IncompatibleError, match=r"every variant failed: onnx-fp32 failed: .*onnx-int8 failed: "):
        Predictor.load(bundle)


def test_an_altered_variant_is_refused_and_never_replaced_by_another(bundle: Path) -> None:
    path = bundle / f"variants/{BEST}/model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError):
        Predictor.load(bundle)


def test_a_device_with_the_files_of_one_variant_uses_it(bundle: Path) -> None:
    shutil.rmtree(bundle / f"variants/{BEST}")
    predictor = Predictor.load(bundle)
    assert predictor.variant.name == SECOND
    assert "its files are not on this device" in str(predictor.why)


@pytest.fixture
def opened_with(monkeypatch: pytest.MonkeyPatch) -> list[SessionOptions]:
    """The options every session is opened with from now on."""
    seen = []
    open_session = module.open_session

    def spy(runtime: str, graph: Graph, options: SessionOptions) -> Any:
        seen.append(options)
        return open_session(runtime, graph, options)

    monkeypatch.setattr(module, "open_session", spy)
    return seen


@pytest.mark.parametrize(
    "argument, variable, threads", [(None, "", 2), (None, "3", 3), (1, "3", 1), (5, "", 5)], ids=str
)
def test_threads_come_from_the_argument_the_variable_or_the_granted_cores(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened_with: list[SessionOptions],
    argument: int | None,
    variable: str,
    threads: int,
) -> None:
    monkeypatch.setenv("DOORSTEP_THREADS", variable)
    Predictor.load(bundle, threads=argument).close()
    assert [options.threads for options in opened_with] == [threads]


@pytest.mark.parametrize("threads", [0, -1, 1025, 1.5, "2"])
def test_an_impossible_number_of_threads_is_refused(bundle: Path, threads: Any) -> None:
    with pytest.raises(UsageError, match="threads: expected 1 to 1024"):
        Predictor.load(bundle, threads=threads)


@pytest.mark.parametrize("text", ["0", "1025", "-1", "two", "1.5", "²", " "])
def test_a_variable_that_says_no_number_of_threads_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("DOORSTEP_THREADS", text)
    with pytest.raises(UsageError, match=r"(?i)threads: expected"):
        Predictor.load(bundle)


def test_raw_engine_options_reach_the_engine(bundle: Path) -> None:
    options = LoadOptions(engine_options={"no_such_option": 1})
    with pytest.raises(IncompatibleError, match="no_such_option"):
        Predictor.load(bundle, options=options)


def test_task_options_replace_those_of_the_bundle(bundle: Path) -> None:
    options = LoadOptions(task_options={"top_k": 1, "abstain_below": 1.0})
    result = Predictor.load(bundle, options=options).predict("love it")
    assert (len(result.scores), result.is_abstained) == (1, True)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"topk": 3}, UsageError, "got topk"),
        ({"top_k": 0}, FormatError, "top_k"),
        ({"top_k": "3"}, FormatError, "top_k"),
        ({"max_length": 1}, FormatError, "max_length"),
        ({"labels": ["a"]}, FormatError, "expected 1 logits"),
        ({"tokenizer": "nowhere.json"}, IntegrityError, "not listed"),
        ({"tokenizer": "../../etc/passwd"}, IntegrityError, "not listed"),
    ],
)
def test_task_options_that_make_no_sense_are_refused(
    bundle: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Predictor.load(bundle, options=LoadOptions(task_options=options)).predict("love it")


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"task": "telepathy"}, IncompatibleError, "knows no task 'telepathy'"),
        ({"options": {}}, FormatError, "max_length|labels"),
        ({"options": {"labels": ["a", "b", "c"], "max_length": True}}, FormatError, "max_length"),
        ({"options": {"labels": "abc", "max_length": 8}}, FormatError, "labels"),
        ({"options": {"labels": [1, 2, 3], "max_length": 8}}, FormatError, "labels"),
    ],
)
def test_a_bundle_whose_task_makes_no_sense_is_refused(
    tmp_path: Path, make_bundle: MakeBundle, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Predictor.load(make_bundle(tmp_path, **changes))


@pytest.mark.parametrize("source", ["nowhere", "."])
def test_what_is_no_bundle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="bundle"):
        Predictor.load(source)


WITHOUT_ENGINE = """
import importlib.util, sys
from doorstep import IncompatibleError, MissingExtraError, Predictor
from doorstep.session import RUNTIMES, import_adapter
for runtime in RUNTIMES.values():
    for name in runtime.distributions.values():
        if runtime.extra:  # doorstep itself needs the others
            sys.modules[name] = None
wanted = [name for name, runtime in RUNTIMES.items() if runtime.extra]
for call in (*[lambda name=name: import_adapter(name) for name in wanted], lambda: Predictor.load(sys.argv[1])):
    try:
        call()
    except (MissingExtraError, IncompatibleError) as error:
        print(error)
"""


def test_a_runtime_that_is_not_installed_is_an_error_with_the_command_that_installs_it(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ENGINE, str(bundle)], capture_output=True, text=True, check=True
    )
    *adapters, load = done.stdout.splitlines()
    assert adapters == [
        "onnxruntime is not installed; run: pip install 'doorstep[onnx]'",
        "openvino is not installed; run: pip install 'doorstep[openvino]'",
        "ai-edge-litert is not installed; run: pip install 'doorstep[tflite]'",
    ]
    assert load.startswith("no variant fits this device")
    assert "onnx-fp32: onnxruntime is not installed; run: pip install 'doorstep[onnx]'" in load


BROKEN_ENGINE = """
import sys
sys.path.insert(0, sys.argv[2])
from doorstep import IncompatibleError, Predictor
try:
    Predictor.load(sys.argv[1])
except IncompatibleError as error:
    print(error)
"""


def test_an_engine_that_is_installed_and_broken_is_explained(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "site/onnxruntime").mkdir(parents=True)
    (tmp_path / "site/onnxruntime/__init__.py").write_text("raise ImportError('libgomp.so.1: no such file')")
    (tmp_path / "site/onnxruntime-9.9.dist-info").mkdir()
    command = [sys.executable, "-c", BROKEN_ENGINE, str(bundle), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "onnx-fp32 failed: onnx: installed, but cannot be imported (libgomp.so.1: no such file)" in done.stdout


def raced(cache_dir: Path | None = None) -> LoadOptions:
    return LoadOptions(is_raced=True, cache_dir=cache_dir)


@pytest.fixture
def races(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants timed from now on; the first one timed always wins."""
    timed: list[str] = []

    def time(variant: Variant, *_: Any) -> float:
        timed.append(variant.name)
        return 1.0 + len(timed)

    monkeypatch.setattr("doorstep.race._time", time)
    return timed


def test_a_race_on_this_device_decides(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {BEST: 9.0, SECOND: 2.5}
    monkeypatch.setattr("doorstep.race._time", lambda variant, *_: figures[variant.name])
    predictor = Predictor.load(bundle, options=raced())
    assert predictor.variant.name == SECOND
    assert predictor.why.rule == "lowest p50 in a race on this device"
    assert "p50 2.50 ms here" in str(predictor.why)


@pytest.mark.parametrize(
    "figures, order",
    [
        ({"numpy-fp16": 0.9, BEST: 1.0, SECOND: 2.0}, [BEST, SECOND, "numpy-fp16"]),
        ({"numpy-fp16": 0.5, BEST: 1.0, SECOND: 2.0}, ["numpy-fp16", BEST, SECOND]),
        ({"numpy-fp16": 0.9, BEST: float("inf"), SECOND: float("inf")}, ["numpy-fp16", BEST, SECOND]),
    ],
    ids=["a narrow win of the last resort", "a clear one", "engines that fail"],
)
def test_a_last_resort_must_win_a_race_clearly(
    bundle: Path, figures: dict[str, float], order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doorstep.race._time", lambda variant, *_: figures[variant.name])
    opened = Bundle.open(bundle)
    resort = replace(opened.manifest.variants[0], name="numpy-fp16", runtime="numpy", requires={"numpy": "1"})
    device = Device("x86_64", "a CPU", frozenset(), 1, None, {"numpy": "2", "onnxruntime": "1.20"})
    ranking = rank((*opened.manifest.variants, resort), device, None, lambda _: True)
    assert [variant.name for variant in race(ranking, opened, device, Predictor, None).usable] == order


def test_a_real_race_ends_with_a_predictor(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOORSTEP_RACE", "1")
    predictor = Predictor.load(bundle)
    assert str(predictor.why).count(" ms here") == 2
    assert predictor.predict("love it").label


def test_a_race_is_remembered_on_disk(bundle: Path, tmp_path: Path, races: list[str]) -> None:
    for _ in range(3):
        assert Predictor.load(bundle, options=raced(tmp_path / "cache")).variant.name == BEST
    assert races == [BEST, SECOND]


def test_a_race_that_a_variant_failed_is_remembered_too(bundle: Path, tmp_path: Path) -> None:
    break_variant(bundle, BEST)
    for _ in range(2):
        predictor = Predictor.load(bundle, options=raced(tmp_path / "cache"))
    (remembered,) = (tmp_path / "cache/races").iterdir()
    assert json.loads(remembered.read_text())[BEST] is None
    assert predictor.variant.name == SECOND
    assert "failed in the race" in str(predictor.why)
    before = remembered.stat().st_ino
    Predictor.load(bundle, options=raced(tmp_path / "cache")).close()
    assert remembered.stat().st_ino == before


@pytest.mark.parametrize(
    "damage", [b"", b"\xff", b"[]", b"{}", b'{"onnx-fp32": "x"}', b'{"onnx-fp32": []}', b"9" * 99999]
)
def test_a_damaged_memory_of_a_race_means_another_race(
    bundle: Path, tmp_path: Path, races: list[str], damage: bytes
) -> None:
    Predictor.load(bundle, options=raced(tmp_path / "cache")).close()
    (remembered,) = (tmp_path / "cache/races").iterdir()
    remembered.write_bytes(damage)
    Predictor.load(bundle, options=raced(tmp_path / "cache")).close()
    assert len(races) == 4


def test_another_bundle_means_another_race(bundle: Path, tmp_path: Path, races: list[str]) -> None:
    Predictor.load(bundle, options=raced(tmp_path / "cache")).close()
    break_variant(bundle, SECOND)
    Predictor.load(bundle, options=raced(tmp_path / "cache")).close()
    assert len(races) == 4


def test_a_race_that_cannot_be_remembered_is_no_error(bundle: Path, tmp_path: Path, races: list[str]) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert Predictor.load(bundle, options=raced(tmp_path / "cache")).variant.name == BEST


def test_a_race_without_golden_examples_leaves_the_order(tmp_path: Path, make_bundle: MakeBundle) -> None:
    predictor = Predictor.load(make_bundle(tmp_path), options=raced())
    assert predictor.variant.name == BEST
    assert "race" not in predictor.why.rule


def test_the_cache_folder_can_be_named_by_a_variable(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, races: list[str]
) -> None:
    monkeypatch.setenv("DOORSTEP_CACHE", str(tmp_path / "elsewhere"))
    Predictor.load(bundle, options=raced()).close()
    assert os.listdir(tmp_path / "elsewhere") == ["races"]


def test_without_a_cache_folder_nothing_is_written(bundle: Path, races: list[str], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    Predictor.load(bundle, options=raced()).close()
    assert sorted(tmp_path.rglob("*")) == before
    assert list(Path("~").expanduser().rglob("*")) == []


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_wrong_items_can_be_returned_while_the_others_are_answered(predictor: Predictor, batch_size: int) -> None:
    items: list[Any] = ["love it", None, "never came", 7]
    answers = predictor.predict_many(items, batch_size=batch_size, on_error="return")
    assert [type(answer).__name__ for answer in answers] == ["Classification", "InputError"] * 2
    assert answers[0] == predictor.predict("love it")
    assert "item 3" in str(answers[3])


def test_wrong_items_alone_are_all_returned(predictor: Predictor) -> None:
    assert all(isinstance(answer, InputError) for answer in predictor.predict_many([None, 3], on_error="return"))


def test_another_word_for_on_error_is_refused(predictor: Predictor) -> None:
    with pytest.raises(UsageError, match="raise or return"):
        predictor.predict_many(["a"], on_error="ignore")


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_stream_can_return_wrong_items_and_go_on(predictor: Predictor, batch_size: int) -> None:
    items: list[Any] = ["love it", None, "never came", 7, "oat milk"]
    answers = list(predictor.stream(iter(items), batch_size=batch_size, on_error="return"))
    assert [type(answer).__name__ for answer in answers] == ["Classification", "InputError"] * 2 + ["Classification"]
    assert [answers[0], answers[2], answers[4]] == [predictor.predict(items[place]) for place in (0, 2, 4)]
    assert [str(answers[place])[:8] for place in (1, 3)] == ["item 1: ", "item 3: "]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_stream_that_raises_names_the_items_place_in_it(predictor: Predictor, batch_size: int) -> None:
    answers = predictor.stream(["a", "b", "c", None, "d"], batch_size=batch_size)
    with pytest.raises(InputError, match=r"^item 3: "):
        list(answers)


def test_a_stream_refuses_another_word_for_on_error(predictor: Predictor) -> None:
    with pytest.raises(UsageError, match="raise or return"):
        next(predictor.stream(["a"], on_error="ignore"))
