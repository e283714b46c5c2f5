"""`recipe.toml`: everything a convert is told, in a file that is kept in git.

    checkpoint = "./bert"
    data = "reviews.csv"
    target = "arm64"
    budget = "size<=2MB, p95<=2ms, drop<=0.5"

    [search]
    students = ["pruned-3l", "cnn-1l-48w-64f-4096v"]
    trials = 12
    price_per_hour = 0.6

Paths are taken from where the file lies. A table or key that is not known is refused.
"""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from doorstep.errors import UsageError
from doorstep_converters.augment.plan import AugmentPlan, check_plan
from doorstep_converters.budget import parse_budget
from doorstep_converters.data import Columns
from doorstep_converters.display_names import read_names
from doorstep_converters.job import PRECISIONS, Job, Training
from doorstep_converters.parity import Bound
from doorstep_converters.search.order import Order
from doorstep_converters.search.teaching import Teaching

_MAX_BYTES = 1 << 20
_TOP: dict[str, type | tuple[type, ...]] = {
    "checkpoint": str, "data": str, "target": str, "budget": str, "out": str, "name": str, "version": str,
    "variants": list, "max_length": int, "eval_limit": int, "sign": str, "allow_pickle": bool,
    "agreement": (int, float), "drop": (int, float), "task": str, "unlabelled": str, "search": dict, "columns": dict,
    "training": dict, "augment": dict, "distillation": dict, "display_names": dict,
}  # fmt: skip
_SEARCH: dict[str, type | tuple[type, ...]] = {
    "students": list, "augmented": list, "rungs": list, "trials": int, "minutes": (int, float), "prefer": str,
    "price_per_hour": (int, float), "slice_column": str, "seed": int, "workers": int,
    "refined": list, "measure_on": str,
}  # fmt: skip
_COLUMNS: dict[str, type | tuple[type, ...]] = {"text": str, "label": str, "split": str}
_TRAINING: dict[str, type | tuple[type, ...]] = {
    "retrain": bool, "epochs": (int, float), "learning_rate": (int, float), "seed": int, "precision": str,
    "method": str, "teacher": str, "processes": int, "mixup": (int, float),
}  # fmt: skip
_AUGMENT: dict[str, type | tuple[type, ...]] = {
    "transforms": list, "copies": (int, float), "lexicon": str, "brands": str, "generator": str, "there": str,
    "back": str, "near": (int, float), "sure": (int, float),
}  # fmt: skip
_DISTILLATION: dict[str, type | tuple[type, ...]] = {
    "temperature": (int, float), "alpha": (int, float), "vector": (int, float), "relations": (int, float),
    "tables": int, "dense": int, "dropped": (int, float), "counts": bool,
}  # fmt: skip
_ITEMS: dict[str, type] = {
    "students": str, "variants": str, "refined": str, "augmented": bool, "rungs": int, "transforms": str
}  # fmt: skip


def read_recipe(path: Path, cache: Path) -> Order | Job:
    """Read a recipe file: an order to search where it has a budget, a plain job otherwise.

    Raises:
        UsageError: not TOML, a missing, unknown or wrong entry.
    """
    plain = _load(path)
    _check(plain, _TOP, path.name)
    if missing := [name for name in ("checkpoint", "target") if name not in plain]:
        raise UsageError(f"{path.name}: expected {' and '.join(missing)} in it")
    job = _job(plain, path, cache)
    if "budget" not in plain:
        if wanting := [name for name in ("[search]", "[distillation]", "unlabelled") if name.strip("[]") in plain]:
            raise UsageError(
                f"{path.name}: {wanting[0]} needs a budget; add one such as budget = 'size<=2MB, drop<=0.5'"
            )
        return job
    for name in ("agreement", "drop"):
        if name in plain:
            raise UsageError(f"{path.name}: {name}: the budget holds the bounds of a search; write {name} into it")
    table = plain.get("search", {})
    _check(table, _SEARCH, f"{path.name}: [search]")
    options: dict[str, Any] = {name: tuple(value) if name in _ITEMS else value for name, value in table.items()}
    lessons = plain.get("distillation", {})
    _check(lessons, _DISTILLATION, f"{path.name}: [distillation]")
    return Order(job, parse_budget(plain["budget"]), teaching=Teaching(**lessons), **options)


def _job(plain: dict[str, Any], path: Path, cache: Path) -> Job:
    columns, training = plain.get("columns", {}), plain.get("training", {})
    _check(columns, _COLUMNS, f"{path.name}: [columns]")
    _check(training, _TRAINING, f"{path.name}: [training]")
    if (precision := training.get("precision", "auto")) not in PRECISIONS:
        raise UsageError(
            f"{path.name}: [training]: expected precision to be one of {', '.join(PRECISIONS)}, got {precision!r:.40}"
        )
    is_forced = training.pop("retrain", False)
    beside = path.parent
    checkpoint = _beside(beside, plain["checkpoint"])
    if "teacher" in training:
        training["teacher"] = _beside(beside, training["teacher"])
    asked = training.get("teacher") or (checkpoint if "budget" in plain else None)
    return Job(
        checkpoint=checkpoint,
        target=plain["target"],
        out=beside / plain.get("out", "dist"),
        data=beside / plain["data"] if "data" in plain else None,
        task=plain.get("task"),
        name=plain.get("name"),
        version=plain.get("version"),
        columns=Columns(**columns),
        variants=tuple(plain.get("variants", ())),
        bound=Bound(float(plain.get("agreement", 0.99)), float(plain.get("drop", 0.5))),
        training=Training(is_forced, **training),
        max_length=plain.get("max_length"),
        cache=cache,
        key=beside / plain["sign"] if "sign" in plain else None,
        is_pickle_allowed=plain.get("allow_pickle", False),
        eval_limit=plain.get("eval_limit", 1000),
        augment=_augment(plain, path, asked, precision),
        unlabelled=beside / plain["unlabelled"] if "unlabelled" in plain else None,
        display_names={locale: read_names(beside / name) for locale, name in _names(plain, path).items()},
    )


def _augment(plain: dict[str, Any], path: Path, teacher: str | None, precision: str) -> AugmentPlan | None:
    if "augment" not in plain:
        return None
    table = dict(plain["augment"])
    _check(table, _AUGMENT, f"{path.name}: [augment]")
    for name in ("lexicon", "brands"):
        if name in table:
            table[name] = str(path.parent / table[name])
    for name in ("generator", "there", "back"):
        if name in table:
            table[name] = _beside(path.parent, table[name])
    if not table.get("transforms"):
        raise UsageError(f"{path.name}: [augment]: no texts are made; name transforms in it, or leave it out")
    values = {**table, "transforms": tuple(table["transforms"])}
    plan = AugmentPlan(**values, teacher=teacher, precision=precision)
    check_plan(plan)
    return plan


def _names(plain: dict[str, Any], path: Path) -> dict[str, str]:
    """Return locale to file, as `[display_names]` names them: `zh = "labels.zh.json"`."""
    table = plain.get("display_names", {})
    _check(table, dict.fromkeys(table, str), f"{path.name}: [display_names]")
    return table


def _beside(folder: Path, checkpoint: str) -> str:
    """Return a checkpoint's folder as seen from the recipe file; a hub id or `package:NAME` as it is."""
    return str(folder / checkpoint) if (folder / checkpoint).is_dir() else checkpoint


def _load(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{path.name}: expected at most {_MAX_BYTES} bytes, got more")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path.name}: expected TOML ({error!s:.200})") from error


def _check(table: dict[str, Any], known: Mapping[str, type | tuple[type, ...]], place: str) -> None:
    for name, value in table.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"{place}: unknown entry {name!r:.40}; {hint}")
        wanted = known[name]
        is_bool_for_number = isinstance(value, bool) and wanted is not bool
        if not isinstance(value, wanted) or is_bool_for_number:
            names = wanted.__name__ if isinstance(wanted, type) else "number"
            raise UsageError(f"{place}: expected {name} to be of type {names}, got {value!r:.40}")
        item = _ITEMS.get(name)
        if item is not None and isinstance(value, list) and not all(type(part) is item for part in value):
            raise UsageError(f"{place}: expected {name} to be a list of {item.__name__}, got {value!r:.60}")
