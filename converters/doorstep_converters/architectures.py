"""Our own architectures, made known to transformers before a checkpoint of one is loaded."""

from doorstep_converters import prune, students
from doorstep_converters.finetune import tuned
from doorstep_converters.students import audio_cnn


def register_architectures() -> None:
    """Register pruned encoders, students, and encoders tuned with prompts or adapters; a second call does nothing."""
    prune.register()
    students.register()
    audio_cnn.register()
    tuned.register()
