"""Rows spelled as directives in a source."""

from __future__ import annotations

from fullframe.cfi.write.directives import DirectiveWriter, Unwind
from fullframe.cfi.write.lines import Anchor
from fullframe.cfi.write.patch import Patch, indentation


def insert(patch: Patch, anchor: Anchor, lines: list[str], text: list[str]) -> None:
    """Insert directives at an anchor, indented like the line there."""
    space = indentation(lines[anchor.line - 1])
    indented = [space + item for item in text]
    if anchor.after:
        patch.insert_after(anchor.line, indented)
    else:
        patch.insert_before(anchor.line, indented)


def spelled(
    writer: DirectiveWriter, rows: list[tuple[int, Unwind]], after_transfer: set[int]
) -> list[tuple[int, list[str]]]:
    """Spell rows as directives, with remember and restore around early ways out.

    Args:
        writer: for the machine.
        rows: (address, rules), ascending, equal neighbours allowed.
        after_transfer: addresses that the instruction before does not lead to.

    Returns:
        (address, directives) where the rules change.
    """
    changes: list[tuple[int, Unwind]] = []
    now = writer.initial
    for address, rules in rows:
        if not rules.same_as(now):
            changes.append((address, rules))
            now = rules
    if changes and changes[0][0] == rows[0][0]:
        given = changes[0][1].registers
        writer.early = frozenset(
            number for number in given if given[number] != writer.initial.registers.get(number)
        )
    befores = [writer.initial, *(rules for _, rules in changes)]
    result: list[list[str]] = []
    spans: list[tuple[int, int]] = []
    for number, (address, rules) in enumerate(changes):
        text = writer.change(befores[number], rules)
        if len(text) > 1 and address in after_transfer:
            left = next((at for at in range(number - 1, 0, -1) if befores[at].same_as(rules)), None)
            if left is not None and all(end < left or left <= begin for begin, end in spans):
                result[left].insert(0, ".cfi_remember_state")
                spans.append((left, number))
                text = [".cfi_restore_state"]
        result.append(text)
    return [(address, text) for (address, _), text in zip(changes, result, strict=True)]
