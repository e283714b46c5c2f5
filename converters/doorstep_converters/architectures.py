"""Our own architectures, made known to transformers before a checkpoint of one is loaded."""

from doorstep_converters import prune, students
from doorstep_converters.finetune import tuned
from doorstep_converters.students import audio_cnn
from doorstep_converters.tasks import next_item_model


def register_architectures() -> None:
    """Register pruned encoders, students, readers of histories, and tuned encoders; a second call does nothing."""
    prune.register()
    students.register()
    audio_cnn.register()
    tuned.register()
    next_item_model.register()
