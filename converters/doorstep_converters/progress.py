"""What people see while a convert runs: bars on a terminal, lines elsewhere. All of it on stderr."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from doorstep_converters.stages import Report


class Watch(Protocol):
    """Sees stages begin, move and end; called from several threads."""

    def stage(self, name: str) -> AbstractContextManager[Report]:
        """Return a context that yields a `Report`."""

    def done(self, name: str, is_cached: bool) -> None:
        """Take note that a stage ended well."""

    def note(self, name: str, text: str) -> None:
        """Show what a stage has to say."""


class Bars:
    """A bar a stage, with the time left."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        task: TaskID = self._progress.add_task(name, total=1.0)
        try:
            yield lambda share: self._progress.update(task, completed=share)
        except BaseException:
            self._progress.update(task, description=f"{name} [red]failed[/red]")
            self._progress.stop_task(task)
            raise

    def done(self, name: str, is_cached: bool) -> None:
        for task in self._progress.tasks:
            if task.description == name:
                self._progress.update(task.id, completed=1.0, description=f"{name}{' (kept)' if is_cached else ''}")

    def note(self, name: str, text: str) -> None:
        self._progress.console.print(f"{name}: {text}", markup=False, highlight=False)


class Lines:
    """A line a stage, for logs and CI."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        return None

    @contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        self._started[name] = time.monotonic()
        try:
            yield lambda share: None
        except BaseException:
            self._say(name, "failed")
            raise

    def done(self, name: str, is_cached: bool) -> None:
        self._say(name, "kept" if is_cached else "done")

    def note(self, name: str, text: str) -> None:
        print(f"{name}: {text}", file=sys.stderr, flush=True)  # noqa: T201

    def _say(self, name: str, state: str) -> None:
        with self._lock:
            seconds = time.monotonic() - self._started[name]
            print(f"{name:<28} {state:<7} {seconds:6.1f} s", file=sys.stderr, flush=True)  # noqa: T201


def watch_stderr() -> Bars | Lines:
    """Return bars where stderr is a terminal, else lines."""
    return Bars() if sys.stderr.isatty() else Lines()
