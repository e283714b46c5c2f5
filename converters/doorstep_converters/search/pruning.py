"""A teacher pruned as a name says, stage by stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from doorstep_converters.search.space import PruneSpec
from doorstep_converters.stages import Output, Stage, file_digest

_ROOM = "doorstep_converters.prune"


def prune(
    spec: PruneSpec, teacher: Path, digests: tuple[str, ...], pairs: Path, texts: Path, length: int,
    run: Callable[[Stage], Output],
) -> Output:  # fmt: skip
    """Prune layers, heads, width and vocabulary, in this order: what is gone need not be weighed.

    Args:
        spec: how much stays.
        teacher: folder of the checkpoint; `digests`, its own first, tell it apart.
        pairs: file of labelled texts by split, which importance is weighed on.
        texts: file of the texts whose tokens stay.
        length: tokens that are read of a text.
        run: what runs a stage.
    """
    planned: list[tuple[str, dict[str, Any]]] = []
    weighed = {"data": str(pairs), "max_length": length}
    if spec.layers:
        planned.append(("layers", {**weighed, "keep": spec.layers}))
    if spec.heads < 100:
        planned.append(("heads", {**weighed, "keep": spec.heads / 100}))
    if spec.width < 100:
        planned.append(("width", {**weighed, "keep": spec.width / 100}))
    planned.append(("vocabulary", {"texts": str(texts), "size": spec.vocabulary}))
    read = (*digests[1:], file_digest(pairs), file_digest(texts))
    folder, digest, output = teacher, digests[0], None
    for part, arguments in planned:
        arguments["checkpoint"] = str(folder.resolve())
        output = run(Stage(f"prune-{part}", f"{_ROOM}.{part}:prune", arguments, (digest, *read)))
        folder, digest = output.folder / "checkpoint", output.digest
    assert output is not None  # noqa: S101 -- the vocabulary is always pruned
    return output
