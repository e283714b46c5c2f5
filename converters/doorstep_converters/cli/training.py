"""Options of training, the same wherever something is trained."""

import argparse

from doorstep.cli.arguments import count
from doorstep_converters.job import PRECISIONS, Training

FINETUNE = ("full", "lora", "adalora", "adapter", "prefix", "prompt", "head")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `training_of` reads."""
    parser.add_argument("--finetune", default="full", metavar="METHOD", help=f"{', '.join(FINETUNE)} (default: full)")
    parser.add_argument("--teacher", help="checkpoint whose probabilities (or vectors) are learnt in place of labels")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--learning-rate", type=float, help="default: the method's own")
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument(
        "--processes", type=count, default=1, help="that train together, each on a GPU or a share of the cores (1)"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto",
        help="of matrix products while a large model learns (auto: bf16 where GPU or CPU has units for it)",
    )  # fmt: skip
    parser.add_argument("--mixup", type=float, default=0.0, metavar="ALPHA", help="mix embeddings, for example 0.2")


def training_of(arguments: argparse.Namespace, is_forced: bool) -> Training:
    """Return how the user wants a checkpoint to be trained."""
    return Training(
        is_forced,
        arguments.epochs,
        arguments.learning_rate,
        arguments.seed,
        arguments.finetune,
        arguments.teacher,
        arguments.processes,
        arguments.mixup,
        arguments.precision,
    )
