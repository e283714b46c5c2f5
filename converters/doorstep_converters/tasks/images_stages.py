"""The stage that asks whether explanations of pictures are faithful."""

from pathlib import Path
from typing import Any

from doorstep.explain_pictures import faithfulness as play
from doorstep.predictor import LoadOptions, Predictor
from doorstep_converters.worker import Channel

_EVERY = 1 << 20


def faithfulness(out: Path, channel: Channel, bundle: str, variant: str, paths: list[str]) -> dict[str, Any]:
    """Delete ranked and random tiles of pictures; returns the mean losses of probability."""
    options = LoadOptions(task_options={"top_k": _EVERY})
    with Predictor.load(bundle, variant=variant, strict=True, options=options) as predictor:
        task: Any = predictor.task
        found = play(predictor.answer, task.seen, [Path(path) for path in paths])
    return found._asdict()
