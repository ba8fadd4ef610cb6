"""``fullframe cfi show`` as text and JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TextIO

from fullframe.cfi.show import ShownFunction, ShownInstruction
from fullframe.printable import printable

SHOW_SCHEMA = 1

_MARKS = {"proved": " ", "wrong": "!", "assumed": "~", "cannot tell": "?", "padding": "."}


def show_json(path: str, functions: Iterable[ShownFunction]) -> dict[str, Any]:
    """Return the object of ``fullframe cfi show --json``."""
    return {
        "schema": SHOW_SCHEMA,
        "path": path,
        "functions": [asdict(function) for function in functions],
    }


def write_shown(out: TextIO, function: ShownFunction) -> None:
    """Write a function: address, instruction, the CFI's words, and what is so.

    Registers are named only where their whereabouts change: everything else is as above.
    """
    out.write(printable(f"{function.name}  {function.place}") + "\n")
    out.write("  (! wrong, ~ assumed, ? cannot tell, . padding; unmarked lines are proved)\n")
    if function.left_out:
        out.write(f"  (not followed: {function.left_out})\n")
    width = max([11, *(len(printable(one.text)) for one in function.instructions)])
    width = min(width, 48)
    place_width = max([7, *(len(printable(one.place)) for one in function.instructions)])
    out.write(
        f"  {'address':{place_width}}  {'instruction':{width}}  "
        f"{'CFA claimed':14} {'CFA in fact':14} registers, where that changes\n"
    )
    rules: dict[str, str] = {}
    places: dict[str, str] = {}
    for one in function.instructions:
        line = (
            f"{_MARKS[one.answer]} {printable(one.place):{place_width}}  "
            f"{printable(one.text):{width}}  "
            f"{one.cfa_claimed:14} {one.cfa_actual or '?':14} {_changes(one, rules, places)}"
        )
        out.write(line.rstrip() + "\n")
        for note in one.notes:
            out.write(f"  {'':{place_width}}  ^ {printable(note)}\n")
        rules = one.rules
        places = one.registers or places


def _changes(one: ShownInstruction, rules: dict[str, str], places: dict[str, str]) -> str:
    parts = []
    for name, where in one.registers.items():
        claimed, claimed_before = one.rules.get(name), rules.get(name)
        if where == places.get(name) and claimed == claimed_before:
            continue
        if not places and where == "itself" and claimed is None:
            continue
        text = f"{name}: {where}"
        if claimed != claimed_before:
            text += f" (claimed: {claimed or 'unchanged'})"
        parts.append(text)
    return "; ".join(parts)
