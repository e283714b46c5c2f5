"""A user's own classifier over fields: as it was fitted, so it answers in a bundle."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from doorstep import Predictor
from doorstep.errors import CheckpointError
from doorstep.tasks.tabular_classification import TabularEncoder
from doorstep_converters.data import Columns, read_records
from doorstep_converters.job import Job
from doorstep_converters.parity import Bound
from doorstep_converters.pipeline import convert
from doorstep_converters.progress import Lines
from doorstep_converters.tasks.tabular_classification import TabularData, read_table, save_estimator

LABELS = ("leaves", "buys")


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return visits that buy when their value is high, more so in December; some fields are missing."""
    generator = np.random.default_rng(7)
    path = tmp_path_factory.mktemp("visits") / "visits.csv"
    lines = ["value,pages,month,ends"]
    for _ in range(600):
        value, month = generator.uniform(0, 100), generator.choice(["May", "Dec", "五月"])
        ends = LABELS[int(value + 20 * (month == "Dec") + generator.normal(0, 5) > 60)]
        shown = "" if generator.random() < 0.05 else f"{value:.3f}"
        lines.append(f"{shown},{generator.uniform(1, 30):.2f},{'' if generator.random() < 0.05 else month},{ends}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _pipeline(last: Any) -> Pipeline:
    """Return what shops have: gaps filled, numbers scaled, categories one-hot, and a classifier behind."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    categories = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-2.0), OneHotEncoder(handle_unknown="ignore")
    )
    return make_pipeline(ColumnTransformer([("numbers", numbers, [0, 1]), ("categories", categories, [2])]), last)


def _rows(table: TabularData, part: str = "train") -> tuple[np.ndarray, np.ndarray]:
    encoder = TabularEncoder(table.fields)
    rows = getattr(table, part)
    features = np.array([encoder.encode(item, place)["features"] for place, (item, _) in enumerate(rows)])
    return features, np.array([table.labels.index(label) for _, label in rows])


def _saved(estimator: Any, data: Path, folder: Path) -> TabularData:
    table = read_table(read_records(data), "ends")
    features, truth = _rows(table)
    save_estimator(estimator.fit(features, truth), table.fields, table.labels, features[:200], folder)
    return table


def _boosted(package: str, kind: str) -> Any:
    pytest.importorskip("onnxmltools", reason="the extra `boosted` is not installed")
    found = pytest.importorskip(package, reason=f"{package} is not installed")
    return getattr(found, kind)(n_estimators=20)


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "a pipeline of columns and a logistic regression": lambda: _pipeline(LogisticRegression()),
    "histogram gradient boosting": lambda: HistGradientBoostingClassifier(max_iter=40),
    "LightGBM": lambda: _boosted("lightgbm", "LGBMClassifier"),
    "LightGBM in a pipeline": lambda: _pipeline(_boosted("lightgbm", "LGBMClassifier")),
    "XGBoost": lambda: _boosted("xgboost", "XGBClassifier"),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_users_own_classifier_becomes_a_checkpoint_that_answers_as_it_does(
    name: str, visits: Path, tmp_path: Path
) -> None:
    import onnxruntime

    estimator = ESTIMATORS[name]()
    table = _saved(estimator, visits, tmp_path / "mine")
    features, _ = _rows(table, "test")
    unseen = features.copy()
    unseen[:, 2] = -1.0
    gaps = np.full_like(features[:1], np.nan)
    rows = np.concatenate([features, unseen, gaps]).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "mine/model.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(["probabilities"], {"features": rows})[0]
    np.testing.assert_allclose(found, estimator.predict_proba(rows), atol=1e-4)
    assert not [path for path in (tmp_path / "mine").iterdir() if path.suffix in (".pkl", ".joblib")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ESTIMATORS][:2])
def test_a_users_own_classifier_goes_the_whole_way(name: str, visits: Path, tmp_path: Path) -> None:
    estimator = ESTIMATORS[name]()
    table = _saved(estimator, visits, tmp_path / "mine")
    job = Job(
        str(tmp_path / "mine"), "x86-64", tmp_path, task="tabular-classification", data=visits,
        columns=Columns(label="ends"), variants=("onnx-fp32",), cache=tmp_path / "cache", bound=Bound(),
    )  # fmt: skip
    report = convert(job, Lines())
    assert {c.plan.name: c.failure for c in report.candidates} == {"onnx-fp32": ""}
    items = [{"value": 95.0, "month": "Dec"}, {"pages": 3.5}, {"value": 10.0, "pages": 2.0, "month": "never seen"}]
    encoder = TabularEncoder(table.fields)
    wanted = estimator.predict_proba(np.array([encoder.encode(item, 0)["features"] for item in items]))
    with Predictor.load(report.bundle or "", strict=True) as predictor:
        found = [dict(answer.scores) for answer in predictor.predict_many(items)]
    expected = [dict(zip(table.labels, row, strict=True)) for row in wanted.tolist()]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert max(found[0], key=lambda label: found[0][label]) == "buys"


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (LinearSVC(), "predict_proba.*CalibratedClassifierCV"),
        (
            HistGradientBoostingClassifier(max_iter=30, categorical_features=[2]),
            "its graph differs by .* OneHotEncoder",
        ),
        (RandomForestClassifier(10, random_state=1), "its graph differs by .* SimpleImputer"),
    ],
    ids=["no probabilities", "categories in the trees", "gaps in a forest"],
)
def test_a_classifier_whose_graph_would_answer_otherwise_is_refused(
    estimator: Any, said: str, visits: Path, tmp_path: Path
) -> None:
    if isinstance(estimator, LinearSVC):
        estimator = make_pipeline(SimpleImputer(), estimator)
    with pytest.raises(CheckpointError, match=said):
        _saved(estimator, visits, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_classifier_of_other_classes_than_the_labels_is_refused(visits: Path, tmp_path: Path) -> None:
    table = read_table(read_records(visits), "ends")
    features, truth = _rows(table)
    estimator = HistGradientBoostingClassifier(max_iter=5).fit(features, np.array(table.labels)[truth])
    with pytest.raises(CheckpointError, match=r"expected classes 0 to 1 .* got buys, leaves; fit it on labels\.index"):
        save_estimator(estimator, table.fields, table.labels, features[:20], tmp_path / "mine")


def test_a_boosted_classifier_without_its_converter_names_what_to_install(visits: Path, tmp_path: Path) -> None:
    """In a process of its own, where onnxmltools cannot be imported, whether or not it is installed."""
    code = f"""
import sys
sys.modules["onnxmltools"] = None
from pathlib import Path
from sklearn.base import BaseEstimator, ClassifierMixin
from doorstep.errors import CheckpointError
from converters_test import _saved

class Boosted(ClassifierMixin, BaseEstimator):
    def fit(self, rows, truth):
        self.classes_ = [0, 1]
        return self
    def predict_proba(self, rows):
        return None

try:
    _saved(Boosted(), Path({str(visits)!r}), Path({str(tmp_path / "mine")!r}))
except CheckpointError as error:
    print(error)
"""
    (tmp_path / "converters_test.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "pip install 'doorstep-converters[boosted]'" in done.stdout
