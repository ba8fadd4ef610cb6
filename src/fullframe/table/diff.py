"""Compare two tables by what processes of each ABI see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fullframe.table.model import Table, TableEntry

#: The ABIs that processes have; ``common`` entries belong to the first two.
_PROCESS_ABIS = ("64", "x32", "i386")


@dataclass(frozen=True, slots=True)
class Difference:
    """One call that differs between two tables.

    Attributes:
        abis: the processes' ABIs for which it does: of ``64``, ``x32`` and ``i386``.
        name: the call's name.
        what: ``only in the first``, ``only in the second``, or the name of the attribute of
            :class:`TableEntry` that differs.
        first: what the first table has there, as text.
        second: what the second table has there, as text.
        first_line: the entry's line in the first table, or None.
        second_line: the entry's line in the second table, or None.
    """

    abis: tuple[str, ...]
    name: str
    what: str
    first: str
    second: str
    first_line: int | None
    second_line: int | None


def diff_tables(first: Table, second: Table) -> list[Difference]:
    """List the calls that differ between two tables.

    Calls are matched by name within an ABI, so that an entry that went from ``64`` to
    ``common`` is new for x32 and nothing else. The order of lines, comments, alignment and the
    spelling of annotations make no difference.

    Args:
        first: a table.
        second: the table to compare it with.

    Returns:
        The differences, in the order of the calls' numbers.
    """
    found: dict[tuple[int, Difference], list[str]] = {}
    for abi in _PROCESS_ABIS:
        ours = {entry.name: entry for entry in first.entries_for(abi)}
        theirs = {entry.name: entry for entry in second.entries_for(abi)}
        for name in ours | theirs:
            one, other = ours.get(name), theirs.get(name)
            number = min(entry.number for entry in (one, other) if entry is not None)
            for what, left, right in _differences(one, other):
                lines = (one.line if one else None, other.line if other else None)
                difference = Difference((), name, what, left, right, *lines)
                found.setdefault((number, difference), []).append(abi)
    return [
        replace(difference, abis=tuple(abis))
        for (_, difference), abis in sorted(found.items(), key=lambda item: item[0][0])
    ]


def _differences(
    one: TableEntry | None, other: TableEntry | None
) -> Iterator[tuple[str, str, str]]:
    """Yield what differs between two entries, and both sides of it."""
    if one is None or other is None:
        what = "only in the second" if one is None else "only in the first"
        yield what, _summary(one), _summary(other)
        return
    left, right = _comparable(one), _comparable(other)
    for what in left:
        if left[what] != right[what]:
            yield what, left[what], right[what]


def _summary(entry: TableEntry | None) -> str:
    if entry is None:
        return ""
    return f"{entry.number} {entry.entry_point or '-'}"


def _comparable(entry: TableEntry) -> dict[str, str]:
    return {
        "number": str(entry.number),
        "entry_point": entry.entry_point or "-",
        "compat_entry_point": entry.compat_entry_point or "-",
        "needs_full_frame": "annotated" if entry.needs_full_frame else "not annotated",
        "later_columns": " ".join(entry.later_columns) or "-",
    }
