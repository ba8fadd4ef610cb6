"""Reports of writing call-frame information: JSON for tools, lines for people."""

from __future__ import annotations

from typing import IO, Any

from fullframe.cfi.write.attach import Attached, LeftOut
from fullframe.cfi.write.compare import Difference
from fullframe.cfi.write.conversion import Conversion
from fullframe.printable import printable, printable_lines

CONVERSION_SCHEMA = 1
ATTACH_SCHEMA = 1


def conversion_json(result: Conversion) -> dict[str, Any]:
    """Return the JSON object of ``cfi decode``, ``cfi encode`` and ``cfi fix``.

    ``differences`` has one object for each boundary whose rules are not those that were meant:
    ``place``, ``expected`` and ``got``, the rules in words or null.
    """
    return {
        "schema": CONVERSION_SCHEMA,
        "path": result.path,
        "changed": result.changed,
        "boundaries_compared": result.boundaries_compared,
        "differences": [_difference(item) for item in result.differences],
        "refused": [{"line": item.line, "message": item.message} for item in result.refused],
        "diff": result.diff.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
    }


def _difference(item: Difference) -> dict[str, Any]:
    return {"place": item.place, "expected": item.expected, "got": item.got}


def attached_json(result: Attached, output: str) -> dict[str, Any]:
    """Return the JSON object of ``cfi attach``.

    ``left_out`` and ``remarks`` have ``name``, ``place`` and ``reason``.
    """
    return {
        "schema": ATTACH_SCHEMA,
        "path": result.path,
        "output": output if result.functions else None,
        "functions": result.functions,
        "boundaries": result.boundaries,
        "left_out": [_left_out(item) for item in result.left_out],
        "remarks": [_left_out(item) for item in result.remarks],
    }


def _left_out(item: LeftOut) -> dict[str, str]:
    return {"name": item.name, "place": item.place, "reason": item.reason}


def write_attached(out: IO[str], result: Attached, output: str) -> None:
    """Write what was attached, and to what not and why."""
    for title, items in (("left out", result.left_out), ("remark", result.remarks)):
        for item in items:
            name = printable(item.name)
            where = printable(f"{result.path}: {item.place}")
            out.write(f"{where}: {name}: {title}: {printable_lines(item.reason)}\n")
    total = len(result.functions) + len(result.left_out)
    done = f"{len(result.functions)} of {total} functions, {result.boundaries} boundaries"
    where = f"written to {printable(output)}" if result.functions else "nothing written"
    out.write(f"{done}; {where}\n")


def write_conversion(
    out: IO[str], log: IO[str], result: Conversion, *, show_diff: bool, target: str | None
) -> None:
    """Write the diff to ``out``, and what was not done and a summary to ``log``."""
    if show_diff:
        out.write(result.diff.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        out.flush()
    for item in result.refused:
        where = result.path if item.line is None else f"{result.path}:{item.line}"
        log.write(f"{printable(where)}: {printable_lines(item.message)}\n")
    for difference in result.differences[:10]:
        log.write(
            f"{printable(f'{result.path}: {difference.place}')}: "
            f"expected {difference.expected or 'no rules'}, got {difference.got or 'no rules'}\n"
        )
    share = ""
    if result.functions:
        share = (
            f"{result.functions_done} of {result.functions} functions "
            f"({100 * result.functions_done / result.functions:.1f} %), "
        )
    what = f"written to {printable(target)}" if target else "no change"
    if show_diff and result.changed:
        what = "not written"
    log.write(
        f"{share}{result.boundaries_compared} boundaries compared, "
        f"{len(result.differences)} differences; {what}\n"
    )
