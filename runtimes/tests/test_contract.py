"""One contract, every engine."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doorstep.errors import EngineError
from doorstep.session import RUNTIMES, Graph, Session, SessionOptions, open_session
from doorstep.tensors import TensorSpec
from doorstep.testing import GraphCase, check_session

GraphOf = Callable[[str], Graph]
CaseOf = Callable[..., GraphCase]

ONE_ROW = (1, 12)
MANY = ((1, 5), (1, 16), (3, 7), (4, 16), (6, 3), (5, 20), (1, 1))


def open_first(case: GraphCase, runtime: str, **options: Any) -> Session:
    return open_session(runtime, case.graph, SessionOptions(**options))


@pytest.mark.parametrize("runtime, longest", [("onnx", 500), ("openvino", 500), ("tflite", 32), ("numpy", 500)])
def test_an_adapter_keeps_the_contract(runtime: str, longest: int, case_of: CaseOf) -> None:
    check_session(partial(open_session, runtime), [case_of(runtime, *MANY, (1, longest))])


def test_tflite_keeps_the_contract_where_every_batch_is_filled_up(case_of: CaseOf) -> None:
    check_session(partial(open_session, "tflite"), [case_of("batched_tflite", (1, 16), (3, 5), (6, 16), (4, 9))])


def test_every_runtime_is_under_the_contract() -> None:
    assert set(RUNTIMES) == {"onnx", "openvino", "tflite", "numpy"}


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "numpy"])
def test_a_model_of_one_fixed_batch_takes_any_batch(runtime: str, case_of: CaseOf) -> None:
    case = case_of(f"fixed_{runtime}", (4, 16), (1, 16), (3, 16), (9, 16))
    with_any_batch = [replace(spec, shape=("batch", *spec.shape[1:])) for spec in case.graph.inputs]
    session = open_first(case, runtime)
    assert list(session.inputs) == with_any_batch
    for feeds, expected in zip(case.feeds, case.expected, strict=True):
        np.testing.assert_allclose(session.run(feeds)["logits"], expected["logits"], atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "numpy"])
@pytest.mark.parametrize("missing", [("input_ids",), ("attention_mask",), ("input_ids", "attention_mask")])
def test_a_fixed_batch_refuses_feeds_without_an_input(runtime: str, missing: tuple[str, ...], case_of: CaseOf) -> None:
    case = case_of(f"fixed_{runtime}", (4, 16))
    feeds = {name: array for name, array in case.feeds[0].items() if name not in missing}
    with pytest.raises(EngineError):
        open_first(case, runtime).run(feeds)


WRONG_FEEDS = {
    "no axes": lambda feeds: {name: array[0, 0] for name, array in feeds.items()},
    "one axis too few": lambda feeds: {name: array[0] for name, array in feeds.items()},
    "one axis too many": lambda feeds: {name: array[None] for name, array in feeds.items()},
    "a mask of another length": lambda feeds: {**feeds, "attention_mask": feeds["attention_mask"][:, :-1]},
    "text instead of numbers": lambda feeds: {name: array.astype(str) for name, array in feeds.items()},
    "nothing": lambda feeds: {},
    "no rows": lambda feeds: {name: array[:0, :0] for name, array in feeds.items()},
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("wrong", [key for key in WRONG_FEEDS if key != "no rows"])
def test_feeds_of_a_wrong_form_are_an_engine_error(runtime: str, wrong: str, case_of: CaseOf) -> None:
    case = case_of(runtime, (2, 12))
    with pytest.raises(EngineError):
        open_first(case, runtime).run(WRONG_FEEDS[wrong](case.feeds[0]))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_session_answers_after_a_failed_run(runtime: str, case_of: CaseOf) -> None:
    case = case_of(runtime, ONE_ROW)
    session = open_first(case, runtime)
    for _ in range(10):
        with pytest.raises(EngineError):
            session.run({})
    np.testing.assert_allclose(session.run(case.feeds[0])["logits"], case.expected[0]["logits"], atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_declared_name_that_the_file_lacks_is_an_engine_error(runtime: str, side: str, case_of: CaseOf) -> None:
    case = case_of(runtime, ONE_ROW)
    specs = tuple(replace(spec, name=f"no_{spec.name}") for spec in getattr(case.graph, side))
    feeds = {spec.name: array for spec, array in zip(specs, case.feeds[0].values(), strict=False)}
    with pytest.raises(EngineError):
        open_session(runtime, replace(case.graph, **{side: specs})).run({**case.feeds[0], **feeds})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_tensor_may_have_another_name_in_the_file(runtime: str, case_of: CaseOf) -> None:
    case = case_of(runtime, ONE_ROW)
    outputs = (TensorSpec("scores", "float32", case.graph.outputs[0].shape, source="logits"),)
    fetches = open_session(runtime, replace(case.graph, outputs=outputs)).run(case.feeds[0])
    np.testing.assert_allclose(fetches["scores"], case.expected[0]["logits"], atol=1e-5)


def test_tflite_refuses_a_text_longer_than_its_longest_shape(case_of: CaseOf) -> None:
    case = case_of("tflite", (1, 33))
    with pytest.raises(EngineError, match="at most"):
        open_first(case, "tflite").run(case.feeds[0])


@pytest.mark.parametrize(
    "options, answer",
    [
        ({"graph_optimization_level": "no level"}, "graph_optimization_level"),
        ({"config": "no table"}, "config"),
        ({"providers": ["NoSuchProvider"]}, "NoSuchProvider"),
        ({"add_session_config_entry": 1}, "add_session_config_entry"),
    ],
)
def test_onnx_runtime_refuses_an_option_of_the_wrong_type(
    options: dict[str, Any], answer: str, case_of: CaseOf
) -> None:
    with pytest.raises(EngineError, match=answer):
        open_first(case_of("onnx", ONE_ROW), "onnx", engine_options=options)


@pytest.mark.parametrize(
    "runtime, options",
    [
        ("onnx", {"enable_mem_pattern": False, "config": {"session.intra_op.allow_spinning": "0"}}),
        ("openvino", {"NUM_STREAMS": "1"}),
        ("tflite", {"num_threads": 2}),
        ("numpy", {"is_unpacked": True}),
    ],
)
def test_raw_engine_options_are_passed_through(runtime: str, options: dict[str, Any], case_of: CaseOf) -> None:
    case = case_of(runtime, ONE_ROW)
    fetches = open_first(case, runtime, engine_options=options).run(case.feeds[0])
    np.testing.assert_allclose(fetches["logits"], case.expected[0]["logits"], atol=1e-5)


def test_openvino_keeps_its_compiled_model_in_the_cache_folder(case_of: CaseOf, tmp_path: Path) -> None:
    open_first(case_of("openvino", ONE_ROW), "openvino", cache_dir=tmp_path).close()
    assert list((tmp_path / "openvino").iterdir())


def runs_until_refused(session: Session, case: GraphCase) -> int:
    """Run until the session is closed and return the number of wrong answers."""
    wrong = 0
    while True:
        try:
            fetches = session.run(case.feeds[0])
        except EngineError:
            return wrong
        wrong += not np.allclose(fetches["logits"], case.expected[0]["logits"], atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_closing_while_threads_run_ends_every_one_of_them(runtime: str, case_of: CaseOf) -> None:
    case = case_of(runtime, ONE_ROW)
    for _ in range(5):
        session = open_first(case, runtime)
        with ThreadPoolExecutor(12) as pool:
            running = [pool.submit(runs_until_refused, session, case) for _ in range(12)]
            session.run(case.feeds[0])
            session.close()
            assert [future.result(timeout=60) for future in running] == [0] * 12
