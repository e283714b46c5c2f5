"""Several runs at the same time."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from doorstep.errors import EngineError
from doorstep.session import RUNTIMES, Graph, Session, SessionOptions, open_session
from doorstep.tensors import Feeds, Fetches, TensorSpec
from doorstep.testing import GraphCase, check_session
from doorstep_runtimes.lanes import Lanes

_PATIENCE_S = 20.0


class _Meeting:
    """A session whose run ends only when `barrier` has gathered its callers."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, barrier: threading.Barrier) -> None:
        self._barrier = barrier
        self.at_once = 0
        self.most = 0

    def run(self, feeds: Feeds) -> Fetches:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self._barrier.wait(_PATIENCE_S)
        self.at_once -= 1
        return {}

    def close(self) -> None:
        self._barrier.abort()


@pytest.mark.parametrize("runtime, longest", [("onnx", 50), ("openvino", 50), ("tflite", 32), ("numpy", 50)])
def test_an_adapter_with_two_lanes_keeps_the_contract(
    runtime: str, longest: int, case_of: Callable[..., GraphCase]
) -> None:
    def open_(graph: Graph, options: SessionOptions) -> Session:
        return open_session(runtime, graph, _with_lanes(options, 2))

    check_session(open_, [case_of(runtime, (1, 5), (3, 7), (1, longest))])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_many_threads_get_their_own_answers_over_two_lanes(runtime: str, case_of: Callable[..., GraphCase]) -> None:
    case = case_of(runtime, (1, 5), (2, 7), (3, 12), (1, 16))
    session = open_session(runtime, case.graph, SessionOptions(lanes=2))
    places = [place % len(case.feeds) for place in range(48)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda place: session.run(case.feeds[place])["logits"], places))
    for place, logits in zip(places, found, strict=True):
        np.testing.assert_allclose(logits, case.expected[place]["logits"], atol=1e-4)


def test_as_many_runs_go_at_the_same_time_as_there_are_sessions() -> None:
    barrier = threading.Barrier(3)
    sessions = [_Meeting(barrier) for _ in range(3)]
    lanes = Lanes(sessions)
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(lanes.run, [{}] * 6)) == [{}] * 6
    assert [session.most for session in sessions] == [1, 1, 1]


def test_a_closed_lane_says_so(case_of: Callable[..., GraphCase]) -> None:
    case = case_of("tflite", (1, 5))
    session = open_session("tflite", case.graph, SessionOptions(lanes=2))
    session.close()
    session.close()
    with pytest.raises(EngineError, match="closed"):
        session.run(case.feeds[0])


def _with_lanes(options: SessionOptions, lanes: int) -> SessionOptions:
    return SessionOptions(options.threads, options.cache_dir, options.engine_options, lanes)
