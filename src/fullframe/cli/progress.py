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
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    total = sum(Path(path).stat().st_size for path in paths)
    progress = Progress(
        TextColumn(verb),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[files]}/{task.fields[count]} files"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task(verb, total=total, files=0, count=len(paths))

        def advance(result: Any, size_bytes: int) -> None:
            files = progress.tasks[0].fields["files"] + 1
            progress.update(task, advance=size_bytes, files=files)

        yield advance
