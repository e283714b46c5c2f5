"""One line on stderr that says what is being done, where somebody is looking."""

import sys


class Progress:
    """A counter; used as a context, it wipes its line at the end."""

    def __init__(self) -> None:
        self._count = 0
        self._is_shown = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *ended: object) -> None:
        if self._is_shown and self._count:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __call__(self, text: str) -> None:
        """Say that the next step begins."""
        self._count += 1
        if self._is_shown:
            print(f"\r\x1b[K{self._count}  {text} …", end="", file=sys.stderr, flush=True)
