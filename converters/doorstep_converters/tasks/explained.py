"""What the model card says of explanations: whether deleting what they rank highest costs more than deleting any."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import InputError, UsageError
from doorstep.explain import Faithfulness
from doorstep.predictor import Predictor
from doorstep_converters.evaluation import thin
from doorstep_converters.stages import Stage
from doorstep_converters.tasks.craft import is_file_item
from doorstep_converters.worker import Channel

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate
    from doorstep_converters.variants import Trial, Workbench

_ITEMS, _PARTS = 12, 32  # of the test split that the game is played on, and of each


def faithfulness_note(
    bench: "Workbench",
    trial: "Trial",
    survivors: Sequence["Candidate"],
    parts: str,
    whose: str = "the best label",
) -> dict[str, str]:
    """Play the deletion game with the first variant; returns what came of it, nothing where no test item is at hand.

    Args:
        parts: what is deleted, for the reader: `words`, `tiles`.
        whose: what has a score.
    """
    plan, evaluation = survivors[0].plan, trial.evaluation
    items = thin(evaluation.items[evaluation.final :], _ITEMS)
    if not items:
        return {}
    arguments = {"bundle": str(bench.provisional(trial, plan)), "variant": plan.name, "items": items}
    inputs = (trial.artifacts[plan.name].digest, evaluation.digest, str(trial.options))
    found = bench.run(
        Stage("explain", "doorstep_converters.tasks.explained:play", arguments, inputs, is_bare=True), 1
    ).result
    if "ranked" not in found:
        return {}
    told = f"{whose} {found['ranked']:.3f} of its score on average, deleting random ones {found['shuffled']:.3f}"
    doubt = "; they are not to be relied on" if warning(found["ranked"], found["shuffled"]) else ""
    return {
        "explanations": f"on {len(items)} items, {plan.name}: deleting the {parts} that `explain` ranks highest costs "
        f"{told}{doubt}"
    }


def warning(ranked: float, shuffled: float) -> list[str]:
    """Return what a convert says of explanations that point no better than chance does; nothing of others."""
    if ranked > shuffled:
        return []
    return [
        f"explanations: expected that deleting what they rank highest costs more than deleting any, got {ranked:.3f} "
        f"against {shuffled:.3f}; do not show them to anybody before you have looked at some, or give more test items"
    ]


def play(out: Path, channel: Channel, bundle: str, variant: str, items: list[Any]) -> dict[str, Any]:
    """Delete ranked and random parts of items; returns the mean losses, nothing where no item has two parts."""
    with Predictor.load(bundle, variant=variant, strict=True) as predictor:
        read = [Path(item["file"]) if is_file_item(item) else item for item in items]
        try:
            found = _game(predictor, read)
        except UsageError:
            return {}
    return {**found._asdict(), "notes": warning(found.ranked, found.shuffled)}


def _game(predictor: Predictor, items: list[Any]) -> Faithfulness:
    """Play with all items, or where one has more parts than can be deleted, with the others."""
    try:
        return predictor.faithfulness(items, max_parts=_PARTS)
    except InputError:
        return predictor.faithfulness([one for one in items if _is_explained(predictor, one)], max_parts=_PARTS)


def _is_explained(predictor: Predictor, item: Any) -> bool:
    try:
        predictor.explain(item, max_parts=_PARTS)
    except InputError:
        return False
    return True
