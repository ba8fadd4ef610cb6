"""Where in a source the directives for an address go, and what directives stand there already."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fullframe.cfi.write.directives import Directive, parse_directive
from fullframe.cfi.write.source import Assembled, strip_comments

_LABEL = re.compile(r"\s*(?:[A-Za-z_.$][\w.$@]*|\d+)\s*:")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was not done.

    Attributes:
        line: of the source, from 1; None where it concerns no line of it.
        message: why, and what to do.
    """

    line: int | None
    message: str


class RefusedError(Exception):
    """What cannot be written at a line of the source."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.message)


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place between two lines of the source.

    Attributes:
        line: a line of the source, from 1.
        after: right after that line; otherwise right before it.
    """

    line: int
    after: bool


@dataclass(frozen=True, slots=True)
class DirectiveLine:
    """A preprocessed line with CFI directives.

    Attributes:
        index: of the preprocessed line, from 0.
        address: of the code that follows; None where the line is in no section of code.
        line: line of the source it comes from; None if from an included file.
        directives: those on the line.
        pure: nothing but CFI directives is on the line, so that it can be deleted.
    """

    index: int
    address: int | None
    line: int | None
    directives: tuple[Directive, ...]
    pure: bool


def anchor_before(assembled: Assembled, address: int) -> Anchor:
    """Return the place right before the line whose first byte is at ``address``.

    Raises:
        RefusedError: no line of the source begins there.
    """
    span = assembled.span_at(address)
    if span is None:
        text = f"no line of the source is at {assembled.image.place(address)}"
        raise RefusedError(Refusal(None, text))
    line = own_line(assembled, span.line)
    if span.begin != address:
        raise RefusedError(Refusal(line, _several(assembled, address)))
    return Anchor(line, after=False)


def anchor_after(assembled: Assembled, address: int) -> Anchor:
    """Return the place right after the line whose last byte is before ``address``.

    Raises:
        RefusedError: no line of the source ends there.
    """
    span = assembled.span_at(address - 1)
    if span is None:
        text = f"no line of the source ends at {assembled.image.place(address)}"
        raise RefusedError(Refusal(None, text))
    line = own_line(assembled, span.line)
    if span.end != address:
        raise RefusedError(Refusal(line, _several(assembled, address)))
    return Anchor(line, after=True)


def _several(assembled: Assembled, address: int) -> str:
    return (
        f"the rules change within this line, at {assembled.image.place(address)}: where it "
        "expands to several instructions, put the directive into the macro, or write the "
        "instructions on lines of their own"
    )


def own_line(assembled: Assembled, index: int) -> int:
    """Return the line of the source that a preprocessed line comes from.

    Raises:
        RefusedError: it comes from an included file, which is not ours to edit.
    """
    origin = assembled.origins[index]
    if not origin.own:
        text = f"the code here is in an included file ({origin.path}:{origin.line}): fix that file"
        raise RefusedError(Refusal(None, text))
    return origin.line


def statements_of(line: str) -> list[str]:
    """Return the statements of one line of GNU x86 assembly, labels of their own, comments gone."""
    code, _ = strip_comments(line)
    statements = []
    for part in code.split(";"):
        while match := _LABEL.match(part):
            statements.append(match[0].strip())
            part = part[match.end() :]
        if part.strip():
            statements.append(part.strip())
    return statements


def directive_lines(assembled: Assembled) -> list[DirectiveLine]:
    """Return the lines with CFI directives, in order; those within macros' bodies are left out."""
    found = []
    for index, line in enumerate(assembled.clean):
        if ".cfi_" not in line or assembled.sections[index] is None:
            continue
        statements = statements_of(line)
        parsed = [parse_directive(statement) for statement in statements]
        directives = tuple(item for item in parsed if item is not None)
        if directives:
            origin = assembled.origins[index]
            found.append(
                DirectiveLine(
                    index,
                    assembled.addresses[index],
                    origin.line if origin.own else None,
                    directives,
                    len(directives) == len(statements),
                )
            )
    return found


def register_prefix(assembled: Assembled, index: int) -> str:
    """Return what stands before register names at a line: ``%``, or nothing in Intel syntax."""
    prefix = "%"
    for at, has_prefix in assembled.syntax_changes:
        if at > index:
            break
        prefix = "%" if has_prefix else ""
    return prefix
