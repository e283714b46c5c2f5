"""FastEmbed on the encoder that sentence-transformers exported, registered as a custom model; a linear head behind it.

FastEmbed fetches its own models from a hub and cannot be pointed at another checkpoint there.
"""

import shutil
from pathlib import Path
from typing import Any

from report import BATCH, Answers, Job, main  # type: ignore[import-not-found]  # isort: skip

_NAME = "bench/encoder"


def make(job: Job) -> None:
    import head  # type: ignore[import-not-found]

    exported, made = Path(job.options["after"]), Path(job.made)
    shutil.copyfile(exported / "onnx/model.onnx", made / "model.onnx")
    for path in exported.glob("*.json"):
        shutil.copyfile(path, made / path.name)
    head.fit(job, _embed(job))


def load(job: Job) -> Answers:
    import head

    return head.answers(job, _embed(job))


def _embed(job: Job) -> Any:
    from fastembed import TextEmbedding  # type: ignore[import-not-found]
    from fastembed.common.model_description import ModelSource, PoolingType  # type: ignore[import-not-found]

    TextEmbedding.add_custom_model(
        _NAME, PoolingType.MEAN, normalization=True, sources=ModelSource(hf=_NAME), dim=384, model_file="model.onnx"
    )
    encoder = TextEmbedding(_NAME, specific_model_path=job.made, threads=1)
    return lambda texts: list(encoder.embed(texts, batch_size=BATCH))


if __name__ == "__main__":
    main(load, make)
