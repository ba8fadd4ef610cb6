"""Show system-call tables and what lint and diff found in them: as text for people, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import IO, Any

from rich.table import Table as Grid
from rich.text import Text

from fullframe.report.console import console_for, print_grid, printable
from fullframe.table.diff import Difference
from fullframe.table.lint import Finding
from fullframe.table.model import Table, TableEntry
from fullframe.table.needs import full_frame_need

#: The version of the JSON that the ``table`` commands print.
SCHEMA = 1


def print_table(table: Table, entries: Sequence[TableEntry], file: IO[str]) -> None:
    """Print a table's entries in columns, with what each annotated one does to the frame.

    Args:
        table: the table.
        entries: those of its entries to print.
        file: a text stream.
    """
    console = console_for(file)
    console.print(Text(summary_line(table, entries)))
    if not entries:
        return
    later = any(entry.later_columns for entry in entries)
    compat = any(entry.compat_entry_point for entry in entries)
    grid = _grid(
        ["number", "abi", "name", "entry point"]
        + ["compat entry point"] * compat
        + ["later"] * later
        + ["frame"],
        right={"number"},
    )
    for entry in entries:
        cells = [str(entry.number), entry.abi, entry.name]
        cells.append(f"{entry.entry_point or '-'}{entry.spelling or ''}")
        if compat:
            cells.append(f"{entry.compat_entry_point or '-'}{entry.compat_spelling or ''}")
        if later:
            cells.append(" ".join(entry.later_columns))
        cells.append(_frame(entry))
        grid.add_row(*map(_text, cells), style="bold" if entry.needs_full_frame else "")
    print_grid(console, grid)


def summary_line(table: Table, entries: Collection[TableEntry], name: str = "") -> str:
    """Say how many entries there are, of which ABIs, and how many of them are annotated.

    Args:
        table: the table.
        entries: those of its entries that are meant.
        name: what to call the table; "": its path.
    """
    counts = [
        f"{number} {abi}"
        for abi in table.abis
        if (number := sum(entry.abi == abi for entry in entries))
    ]
    annotated = sum(entry.needs_full_frame for entry in entries)
    return printable(
        f"{name or table.path}: {_count(len(entries), 'entry', 'entries')}"
        + (f" ({', '.join(counts)})" if counts else "")
        + f", {annotated} annotated as needing the full register frame"
    )


def table_json(table: Table, entries: Sequence[TableEntry]) -> dict[str, Any]:
    """Make the JSON object of one table (see ``fullframe table show --json``)."""
    present = {entry.abi for entry in entries}
    return {
        "path": table.path,
        "abis": [abi for abi in table.abis if abi in present],
        "annotated": list(dict.fromkeys(entry.name for entry in entries if entry.needs_full_frame)),
        "entries": [_entry_json(entry) for entry in entries],
    }


def print_findings(findings: Sequence[Finding], tables: Sequence[Table], file: IO[str]) -> None:
    """Print findings, one a line, and a line that sums up.

    Args:
        findings: what lint found, in all tables.
        tables: the tables that were looked at.
        file: a text stream.
    """
    console = console_for(file)
    for finding in findings:
        line = Text(printable(str(finding)), overflow="fold")
        line.highlight_words(
            [f" {finding.severity}: "], "red" if finding.severity == "error" else "yellow"
        )
        console.print(line)
    errors = sum(finding.severity == "error" for finding in findings)
    entries = sum(len(table.entries) for table in tables)
    console.print(
        Text(
            f"{_count(len(tables), 'table', 'tables')}, {_count(entries, 'entry', 'entries')}: "
            f"{_count(errors, 'error', 'errors')}, "
            f"{_count(len(findings) - errors, 'warning', 'warnings')}"
        )
    )


def findings_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """Make the JSON object of ``fullframe table lint --json``."""
    return {"schema": SCHEMA, "findings": [dataclasses.asdict(finding) for finding in findings]}


def print_differences(differences: Sequence[Difference], file: IO[str]) -> None:
    """Print how two tables differ, one call a line."""
    console = console_for(file)
    if differences:
        grid = _grid(["abi", "name", "what", "first", "second"])
        for difference in differences:
            cells = (",".join(difference.abis), difference.name, difference.what.replace("_", " "))
            grid.add_row(*map(_text, (*cells, difference.first, difference.second)))
        print_grid(console, grid)
    console.print(Text(_count(len(differences), "difference", "differences")))


def differences_json(differences: Iterable[Difference], first: Table, second: Table) -> Any:
    """Make the JSON object of ``fullframe table diff --json``."""
    return {
        "schema": SCHEMA,
        "first": first.path,
        "second": second.path,
        "differences": [dataclasses.asdict(difference) for difference in differences],
    }


def _entry_json(entry: TableEntry) -> dict[str, Any]:
    need = full_frame_need(entry)
    return {
        "number": entry.number,
        "abi": entry.abi,
        "name": entry.name,
        "entry_point": entry.entry_point,
        "compat_entry_point": entry.compat_entry_point,
        "annotated": entry.needs_full_frame,
        "spelling": entry.spelling,
        "compat_spelling": entry.compat_spelling,
        "later_columns": list(entry.later_columns),
        "frame_use": None if need is None else str(need.use),
        "line": entry.line,
    }


def _frame(entry: TableEntry) -> str:
    """Say in a word or two what the call does to the frame."""
    need = full_frame_need(entry)
    if entry.entry_point is None and entry.compat_entry_point is None:
        return "not implemented"
    if need is None:
        return "full" if entry.needs_full_frame else ""
    return f"full: {need.use}" if entry.needs_full_frame else f"NOT ANNOTATED: {need.use}"


def _grid(headings: Sequence[str], right: Collection[str] = ()) -> Grid:
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        grid.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return grid


def _text(cell: str) -> Text:
    return Text(printable(cell), overflow="fold")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
