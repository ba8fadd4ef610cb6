"""The terminal, or what stands in its place: one way to print for every report."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.table import Table as Grid

from fullframe.printable import printable

__all__ = ["console_for", "print_grid", "printable"]

#: Wide enough for any line: what is piped is never wrapped or cut.
_PIPE_WIDTH = 1_000_000


class _Console(Console):
    """A console that leaves a reader that went away (``| head``) to the command line."""

    def on_broken_pipe(self) -> None:
        """Raise what rich would turn into an exit with code 1."""
        raise BrokenPipeError


def console_for(file: IO[str]) -> Console:
    """Make a console that keeps to the terminal's width, and has none where there is none."""
    console = _Console(file=file, highlight=False, emoji=False, markup=False)
    if console.is_terminal:
        return console
    return _Console(file=file, highlight=False, emoji=False, markup=False, width=_PIPE_WIDTH)


def print_grid(console: Console, grid: Grid) -> None:
    """Print a table; without the blanks behind its last column where it is piped."""
    if console.is_terminal:
        console.print(grid)
        return
    with console.capture() as capture:
        console.print(grid)
    for line in capture.get().splitlines():
        console.file.write(line.rstrip() + "\n")
