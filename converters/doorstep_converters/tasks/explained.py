"""What the model card says of explanations: whether deleting what they rank highest costs more than deleting any."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import UsageError
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
    bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"], parts: str
) -> dict[str, str]:
    """Play the deletion game with the first variant; returns what came of it, nothing where no test item is at hand.

    Args:
        parts: what is deleted, for the reader: `words`, `tiles`.
    """
    plan, evaluation = survivors[0].plan, trial.evaluation
    items = thin(evaluation.items[evaluation.final :], _ITEMS)
    if not items:
        return {}
    arguments = {"bundle": str(bench.provisional(trial, plan)), "variant": plan.name, "items": items}
    inputs = (trial.artifacts[plan.name].digest, evaluation.digest, str(trial.options))
    found = bench.run(Stage("explain", "doorstep_converters.tasks.explained:play", arguments, inputs), 1).result
    if not found:
        return {}
    return {
        "explanations": f"on {len(items)} items, {plan.name}: deleting the {parts} that `explain` ranks highest costs "
        f"the best label {found['ranked']:.3f} of its score on average, deleting random ones "
        f"{found['shuffled']:.3f}"
    }


def play(out: Path, channel: Channel, bundle: str, variant: str, items: list[Any]) -> dict[str, Any]:
    """Delete ranked and random parts of items; returns the mean losses, nothing where no item has two parts."""
    with Predictor.load(bundle, variant=variant, strict=True) as predictor:
        try:
            read = [Path(item["file"]) if is_file_item(item) else item for item in items]
            return predictor.faithfulness(read, max_parts=_PARTS)._asdict()
        except UsageError:
            return {}
