"""Lines with several statements, split into lines with one, so that directives fit between."""

from __future__ import annotations

from collections.abc import Iterable

from fullframe.cfi.write.conversion import Conversion
from fullframe.cfi.write.lines import Refusal, statements_of
from fullframe.cfi.write.patch import Patch, indentation
from fullframe.cfi.write.source import Assembled, AssemblySource


def can_be_split(source: AssemblySource, assembled: Assembled, line: int) -> bool:
    """Return whether a line of the source holds several statements that it shows itself.

    What a macro expands to is not shown by the line.
    """
    text = source.lines[line - 1]
    statements = statements_of(text)
    if len(statements) < 2 or "/*" in text.split("*/")[-1]:
        return False
    expanded = [
        statements_of(clean)
        for clean, origin in zip(assembled.clean, assembled.origins, strict=True)
        if origin.own and origin.line == line and clean.strip()
    ]
    return expanded == [statements]


def split_lines(source: AssemblySource, lines: Iterable[int]) -> tuple[AssemblySource, list[int]]:
    """Give each statement of some lines a line of its own.

    Args:
        source: the source.
        lines: line numbers for which :func:`can_be_split`.

    Returns:
        The new source, and for each of its lines the number of the line it comes from.
    """
    patch = Patch()
    chosen = sorted(set(lines))
    for line in chosen:
        text = source.lines[line - 1]
        space = indentation(text) if text[:1].isspace() else "\t"
        new: list[str] = []
        for statement in statements_of_text(text):
            is_label = statement.endswith(":")
            new.append(statement if is_label else space + statement)
        patch.replaced[line] = new
    origins = []
    for number in range(1, len(source.lines) + 1):
        origins += [number] * (len(patch.replaced[number]) if number in patch.replaced else 1)
    return source.with_text(patch.apply(source.text)), origins


def statements_of_text(text: str) -> list[str]:
    """Split a line at its semicolons, strings and comments kept; the comment stays at the end."""
    parts: list[str] = []
    at = begin = 0
    while at < len(text):
        if text[at] == '"':
            at += 1
            while at < len(text) and text[at] != '"':
                at += 2 if text[at] == "\\" else 1
        elif text.startswith("/*", at):
            end = text.find("*/", at + 2)
            at = len(text) if end < 0 else end + 1
        elif text[at] == "#" or text.startswith("//", at):
            break
        elif text[at] == ";":
            parts.append(text[begin:at])
            begin = at + 1
        at += 1
    parts.append(text[begin:])
    result = []
    for part in parts:
        labels = [item for item in statements_of(part) if item.endswith(":")]
        rest = part
        for label in labels:
            result.append(label)
            rest = rest[rest.index(":") + 1 :]
        if rest.strip():
            result.append(rest.strip())
    return result


def renumbered(result: Conversion, original: AssemblySource, origins: list[int]) -> Conversion:
    """Return a conversion of a split source as one of the source that it was split from."""
    result.old_text = original.text
    result.refused = [
        Refusal(None if item.line is None else origins[item.line - 1], item.message)
        for item in result.refused
    ]
    return result
