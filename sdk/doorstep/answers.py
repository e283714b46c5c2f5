"""Does a variant answer here as the checkpoint did, from the same tokens? Asked in a fresh process.

An engine that meets an instruction its CPU lacks takes its process with it; the one that asks lives on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from doorstep.fresh import Call, call_fresh
from doorstep.golden import Difference, Example, compare, item_of, load_golden
from doorstep.predictor import Predictor
from doorstep.tasks import Task, load_task


@dataclass(frozen=True, slots=True)
class Answers:
    """What the golden examples showed.

    Attributes:
        examples: how many there are.
        tolerance: largest difference of a value that the variant may show.
        differences: those with another label or outside the tolerance.
        tokenized: how many tell their tokens.
        retokenized: places of those whose tokens are others here.
    """

    examples: int
    tolerance: float
    differences: tuple[Difference, ...]
    tokenized: int
    retokenized: tuple[int, ...]


def ask(bundle: str, variant: str, threads: int, limit: int | None = None) -> Answers:
    """Answer the golden examples of `bundle` in a fresh process; at most `limit` of them, evenly spread.

    Raises:
        EngineError: the process failed, or was killed.
    """
    plan = {"bundle": bundle, "variant": variant, "threads": threads, "limit": limit}
    found = call_fresh(Call("doorstep.answers:answer", plan), variant)
    return Answers(
        examples=found["examples"],
        tolerance=found["tolerance"],
        differences=tuple(Difference(**difference) for difference in found["differences"]),
        tokenized=found["tokenized"],
        retokenized=tuple(found["retokenized"]),
    )


def answer(plan: dict[str, Any]) -> dict[str, Any]:
    """Be the fresh process."""
    with Predictor.load(plan["bundle"], variant=plan["variant"], threads=plan["threads"], strict=True) as predictor:
        bundle = predictor.bundle
        golden = load_golden(bundle)
        golden = replace(golden, examples=spread(golden.examples, plan["limit"]))
        task = load_task(bundle, predictor.variant.inputs, {})
        told = [place for place, example in enumerate(golden.examples) if example.token_digest]
        retokenized = [
            place
            for place in told
            if not _is_tokenized_alike(task, item_of(bundle, golden.examples[place]), golden.examples[place])
        ]
        found = Answers(
            examples=len(golden.examples),
            tolerance=golden.tolerances.get(predictor.variant.name, 0.0),
            differences=tuple(compare(predictor, golden)),
            tokenized=len(told),
            retokenized=tuple(retokenized),
        )
    return asdict(found)


def spread(examples: Sequence[Example], limit: int | None) -> tuple[Example, ...]:
    """Return `limit` examples from evenly spread places; all of them where there are no more, or for None."""
    count = len(examples)
    if limit is None or limit >= count:
        return tuple(examples)
    return tuple(examples[place * count // limit] for place in range(limit))


def _is_tokenized_alike(task: Task, item: Any, example: Example) -> bool:
    """Compare ids with the digest; a task that gives no ids has not tokenized as the server did."""
    ids = getattr(task.prepare((item,))[0], "ids", None)
    if ids is None:
        return False
    digest = hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
    return len(ids) == example.tokens and digest == example.token_digest
