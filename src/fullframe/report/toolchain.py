"""Reports of the toolchain: what each assembler makes of each directive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

from rich.table import Table as Grid

from fullframe.report.console import console_for, print_grid, printable
from fullframe.toolchain.probe import TRIALS, Probed

PROBE_SCHEMA = 1


def probe_json(found: Sequence[Probed]) -> dict[str, Any]:
    """Return the JSON object of ``toolchain probe``.

    ``directives`` has ``right``, ``wrong`` (taken, but the rows are not what the manual says) or
    ``refused`` by the directive's name; two names carry an operand by which assemblers differ.
    """
    return {
        "schema": PROBE_SCHEMA,
        "tools": [
            {
                "path": item.tool.path,
                "kind": item.tool.kind,
                "version": item.tool.version,
                "directives": dict(item.directives),
            }
            for item in found
        ],
    }


def write_probe(out: IO[str], found: Sequence[Probed]) -> None:
    """Write the tools, and a table of directives by tool."""
    console = console_for(out)
    for number, item in enumerate(found, 1):
        tool = item.tool
        out.write(f"{number}  {tool.kind:<5} {printable(tool.path)}: {printable(tool.version)}\n")
    if not found:
        return
    out.write("\n")
    grid = Grid(box=None, pad_edge=False)
    grid.add_column("directive")
    for number in range(1, len(found) + 1):
        grid.add_column(str(number))
    for trial in TRIALS:
        grid.add_row(trial.name, *(item.directives.get(trial.name, "-") for item in found))
    print_grid(console, grid)
