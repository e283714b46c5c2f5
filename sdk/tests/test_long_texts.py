"""Long texts and many of them are read in bounded memory, whatever their number of windows."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from doorstep.errors import InputError
from doorstep.manifest import Variant
from doorstep.predictor import Predictor
from doorstep.tasks.token_classification import MOST_WINDOWS
from doorstep.tensors import Feeds, TensorSpec

INPUTS = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
OUTPUTS = (TensorSpec("logits", "float32", ("batch", "sequence", 2)),)
LENGTH, STRIDE = 64, 16
WIDTH = 2048  # floats a token takes inside the engine: 8 KiB
LONG = "配送很快，包装也很好。" * 18_000


@pytest.fixture(scope="module")
def tagger(
    make_bundle: Callable[..., Path],
    make_variant: Callable[..., Variant],
    tokenizer: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle that finds every 包, by way of numbers that take much memory."""
    table = np.zeros((tokenizer.get_vocab_size(), WIDTH), np.float32)
    table[tokenizer.token_to_id("包")] = 1
    head = np.full((WIDTH, 2), (-1, 1), np.float32) / WIDTH * 10
    constants = {"table": table, "head": head, "bias": np.array([5, -5], np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "head"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
    ]
    places = [
        [helper.make_tensor_value_info(spec.name, kind, list(spec.shape)) for spec in specs]
        for specs, kind in ((INPUTS, TensorProto.INT64), (OUTPUTS, TensorProto.FLOAT))
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", *places, weights)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return make_bundle(
        tmp_path_factory.mktemp("tagger"),
        files={"variants/onnx-fp32/model.onnx": model.SerializeToString()},
        task="token-classification",
        options={"labels": ["O", "thing"], "max_length": LENGTH, "stride": STRIDE},
        variants=(make_variant("onnx-fp32", inputs=INPUTS, outputs=OUTPUTS),),
    )


CHILD = """
import resource, sys
from doorstep.predictor import Predictor
text = "配送很快，包装也很好。"
with Predictor.load(sys.argv[1], threads=1) as predictor:
    predictor.predict_many([text * 30] * 40)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
    print([len(found.spans) for found in predictor.predict_many([text * 18_000, text * 3000])])
"""


def test_a_text_of_thousands_of_windows_takes_no_memory_in_the_engine(tagger: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tagger), str(300 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [str([18_000, 3000])], done.stderr[-2000:]


@pytest.fixture
def runs(tagger: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a predictor and the number of windows of each of its runs."""
    predictor, sizes = Predictor.load(tagger, threads=1), []
    run = predictor._session.run

    def counted(feeds: Feeds) -> Any:
        sizes.append(len(feeds["input_ids"]))
        return run(feeds)

    monkeypatch.setattr(predictor._session, "run", counted)
    return predictor, sizes


def test_the_engine_is_given_a_bounded_number_of_windows(runs: Any) -> None:
    predictor, sizes = runs
    texts = ["包", LONG[:12_000], "", LONG[:3000], "love it"] * 2
    found = predictor.predict_many(texts)
    assert max(sizes) == MOST_WINDOWS
    sizes.clear()
    assert found == [predictor.predict(text) for text in texts]
    assert max(sizes) == MOST_WINDOWS


def test_short_texts_still_share_a_run(runs: Any) -> None:
    predictor, sizes = runs
    predictor.predict_many(["包", "love it", "oat milk"] * 10)
    assert sizes == [30]


def test_windows_are_not_kept_of_a_long_text_while_it_waits(runs: Any) -> None:
    predictor, _ = runs
    long, short = predictor.prepare([LONG[:22_000], LONG[:50]])
    assert (len(long.windows), len(short.windows)) == (0, 1)
    assert long.size > 400
    assert predictor.length(long) > 22_000
    assert [len(found.spans) for found in predictor.answer([long, short])] == [2000, 5]


def test_a_wrong_text_behind_long_ones_is_named_by_its_place(runs: Any) -> None:
    for wrong in ("\ud800", 3, LONG * 2):
        with pytest.raises(InputError, match="item 3: "):
            runs[0].prepare([LONG[:40_000], LONG[:40_000], "fine", wrong])
