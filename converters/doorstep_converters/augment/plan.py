"""What to make of a data set: plain values, as the command line or a recipe states them."""

from dataclasses import dataclass
from pathlib import Path

from doorstep.errors import UsageError
from doorstep_converters.augment.noise import NOISE

CHANGES = (*NOISE, "lexicon", "neighbours", "vocabulary")
"""Transforms of one text into another; they can be chained: `typo+case`."""
MAKERS = ("splice", "generate", "translate")
"""Transforms that look at more than one text, or at a batch of them."""
_IN_TEACHERS_SPACE = ("neighbours", "vocabulary")


@dataclass(frozen=True, slots=True)
class AugmentPlan:
    """Which transforms, how much of each, and what they need.

    Attributes:
        transforms: names of `CHANGES` and `MAKERS`, chains joined by `+`.
        copies: texts each transform makes, as a multiple of the texts at hand.
        lexicon: file or folder for `lexicon`; see `augment.lexicon`.
        brands: file with a brand a line for `brand`; without it capitalised words are swapped for coined ones.
        generator: causal language model (folder or hub id) for `generate`; without it a small one learns the corpus.
        there, back: pair of translation checkpoints for `translate`.
        teacher: folder of the checkpoint that knows what is near, and drops what it is unsure of.
        near: Jaccard overlap from which a text leaks a held-out one.
        sure: least probability of the teacher's best class.
        precision: of its matrix products, as of `job.Training`.
    """

    transforms: tuple[str, ...] = ()
    copies: float = 1.0
    lexicon: str | None = None
    brands: str | None = None
    generator: str | None = None
    there: str | None = None
    back: str | None = None
    teacher: str | None = None
    near: float = 0.8
    sure: float = 0.5
    precision: str = "auto"


def check_plan(plan: AugmentPlan) -> None:
    """See that every name is known and has what it needs, before anything is computed.

    Raises:
        UsageError: misspelt, or a lexicon, teacher or pair of translators is missing.
    """
    known = (*CHANGES, *MAKERS)
    for chain in plan.transforms:
        parts = chain.split("+")
        for name in parts:
            if name not in known:
                raise UsageError(f"augment: expected some of {', '.join(known)}, got {name!r}")
            if len(parts) > 1 and name not in CHANGES:
                raise UsageError(f"augment: {name} makes texts of several and cannot stand in a chain ({chain})")
        if "lexicon" in parts and plan.lexicon is None:
            raise UsageError(
                "augment: lexicon needs a file of synonyms: --lexicon FILE; or use neighbours, without one"
            )
        for name in _IN_TEACHERS_SPACE:
            if name in parts and plan.teacher is None:
                raise UsageError(f"augment: {name} needs a checkpoint whose embedding space it looks into: --teacher")
        if "translate" in parts and not (plan.there and plan.back):
            raise UsageError("augment: translate needs two checkpoints, there and back: --translators en-de de-en")
    if not 0 < plan.copies <= 100:
        raise UsageError(f"augment: copies: expected more than 0 and at most 100, got {plan.copies:g}")
    for name, path in (("lexicon", plan.lexicon), ("brands", plan.brands)):
        if path is not None and not Path(path).exists():
            raise UsageError(f"augment: {name}: {path}: no such file or folder")
