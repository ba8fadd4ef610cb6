"""A progress bar on stderr for long work, when stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def file_progress(paths: Sequence[str], verb: str) -> Iterator[Callable[[Any, int], None] | None]:
    """Show progress over files, weighted by their size.

    Args:
        paths: the files.
        verb: what is done to them.

    Yields:
        A function to call with (result, size in bytes) after each file, or None where nothing
        is shown.
    """
    if len(paths) < 2 or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    total = sum(map(_size, paths))
    with _bars(
        TextColumn(verb),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[files]}/{task.fields[count]} files"),
        TimeElapsedColumn(),
    ) as progress:
        task = progress.add_task(verb, total=total, files=0, count=len(paths))

        def advance(result: Any, size_bytes: int) -> None:
            files = progress.tasks[0].fields["files"] + 1
            progress.update(task, advance=size_bytes, files=files)

        yield advance


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0  # it is reported as not read


@contextmanager
def step_progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """Show progress over a few long steps.

    Yields:
        A function to call with (what is being done, steps done, steps in all), or None where
        nothing is shown.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    with _bars(
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    ) as progress:
        task = progress.add_task("starting", total=1)
        yield lambda doing, done, total: progress.update(
            task, description=doing, completed=done, total=total
        )


@contextmanager
def run_progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar for each of several runs, as they come.

    Yields:
        A function to call with (name of the run, how much there is, how much is done), or None
        where nothing is shown.
    """
    if not sys.stderr.isatty():
        yield None
        return
    with _bars() as progress:
        tasks: dict[str, Any] = {}

        def advance(name: str, total: int, done: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done)

        yield advance


def _bars(*columns: Any) -> Any:
    """Make rich's progress display, on stderr, gone when the work is done."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), transient=True)
