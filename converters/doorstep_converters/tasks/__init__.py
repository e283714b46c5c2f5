"""What the workshop knows of each task: data, checkpoint, answers, judgement. One file a task."""

import importlib
import json
from pathlib import Path

from doorstep.errors import UsageError
from doorstep_converters.checkpoint import SOUND
from doorstep_converters.tasks.craft import Craft

TASKS: dict[str, str] = {
    "text-classification": "doorstep_converters.tasks.text_classification",
    "token-classification": "doorstep_converters.tasks.token_classification",
    "sentence-similarity": "doorstep_converters.tasks.sentence_similarity",
    "search": "doorstep_converters.tasks.search",
    "text-ranking": "doorstep_converters.tasks.text_ranking",
    "next-item": "doorstep_converters.tasks.next_item",
    "tabular-classification": "doorstep_converters.tasks.tabular_classification",
    "image-classification": "doorstep_converters.tasks.image_classification",
    "image-feature-extraction": "doorstep_converters.tasks.image_feature_extraction",
    "audio-classification": "doorstep_converters.tasks.audio_classification",
    "automatic-speech-recognition": "doorstep_converters.tasks.automatic_speech_recognition",
}
"""Task name to the module whose `CRAFT` is the task's `Craft`."""

_BY_HEAD = {
    "ForTokenClassification": "token-classification",
    "ForCTC": "automatic-speech-recognition",
    "ForImageClassification": "image-classification",
    "ForImageClassificationWithTeacher": "image-classification",
}


def find_craft(task: str) -> Craft:
    """Return the craft of `task`.

    Raises:
        UsageError: no such task; the message lists the known.
    """
    if task not in TASKS:
        raise UsageError(f"task: expected one of {', '.join(TASKS)}, got {task!r}")
    craft: Craft = importlib.import_module(TASKS[task]).CRAFT
    return craft


def guess_task(checkpoint: str) -> str:
    """Return the task that a checkpoint folder's own files name; text-classification where they name none."""
    try:
        config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
        heads = [str(name) for name in config.get("architectures") or ()]
    except (OSError, ValueError, AttributeError, TypeError):
        return "text-classification"  # what is wrong with it is said by whoever reads it
    if config.get("doorstep_task") in TASKS:
        return str(config["doorstep_task"])
    if config.get("model_type") in SOUND and not any(head.endswith("ForCTC") for head in heads):
        return "audio-classification"
    if any(head.endswith("ForSequenceClassification") for head in heads) and len(config.get("id2label") or ()) == 1:
        return "text-ranking"
    found = (task for head in heads for ending, task in _BY_HEAD.items() if head.endswith(ending))
    return next(found, "text-classification")
