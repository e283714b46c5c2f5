"""Which options somebody gave."""

import argparse
from collections.abc import Callable, Collection

Add = Callable[[argparse.ArgumentParser], None]


def given_options(arguments: argparse.Namespace, add_arguments: Add, but: Collection[str] = ()) -> list[str]:
    """Return the options whose values are not those they have by default, as they are written: `--max-length`.

    Args:
        add_arguments: adds them to a parser.
        but: names that do not count.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    known, _ = parser.parse_known_args([getattr(arguments, "checkpoint", "")])
    return [
        f"--{name.replace('_', '-')}"
        for name, default in vars(known).items()
        if name not in but and getattr(arguments, name) != default
    ]
