"""Options of augmentation, the same wherever texts are made."""

import argparse

from doorstep.errors import UsageError
from doorstep_converters.augment.plan import CHANGES, MAKERS, AugmentPlan, check_plan
from doorstep_converters.cli.given import given_options


def add_augment_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `plan_of` reads; `--teacher` is there already."""
    names = ", ".join((*CHANGES, *MAKERS))
    parser.add_argument("--augment", default="", metavar="NAMES", help=f"comma-separated, chained with +: {names}")
    parser.add_argument(
        "--copies", type=float, default=1.0, help="texts each makes, a multiple of the data (default 1)"
    )
    parser.add_argument("--lexicon", help="for lexicon: a WordNet folder, a Cilin file, or a file of synonyms")
    parser.add_argument("--brands", help="for brand: a file with a brand a line")
    parser.add_argument("--generator", help="for generate: a causal language model, folder or hub id")
    parser.add_argument("--translators", nargs=2, metavar=("THERE", "BACK"), help="for translate: two checkpoints")


def plan_of(arguments: argparse.Namespace) -> AugmentPlan | None:
    """Return what the user wants made; None where nothing.

    Raises:
        UsageError: misspelt, or something it needs is missing; or options of texts that nobody wants made.
    """
    names = tuple(name for name in arguments.augment.split(",") if name)
    if not names:
        if given := given_options(arguments, add_augment_arguments):
            raise UsageError(f"{given[0]}: --augment alone reads it; add --augment NAMES, or leave it out")
        return None
    # the students of a search learn from its teacher, which is this checkpoint or what is trained of it
    teacher = arguments.teacher or (arguments.checkpoint if getattr(arguments, "budget", "") else None)
    there, back = arguments.translators or (None, None)
    plan = AugmentPlan(
        transforms=names,
        copies=arguments.copies,
        lexicon=arguments.lexicon,
        brands=arguments.brands,
        generator=arguments.generator,
        there=there,
        back=back,
        teacher=teacher,
        precision=getattr(arguments, "precision", "auto"),
    )
    check_plan(plan)
    return plan
