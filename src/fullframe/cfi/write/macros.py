"""Directives within the bodies of macros, where every expansion needs the same ones.

A label with the assembler's count of expansions before each line of a macro's body tells what each
line emits in each expansion. A directive that is written in the body is written in all of them; so
it must be wanted in all of them, and the same everywhere.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from fullframe.cfi.write.lines import Anchor
from fullframe.cfi.write.patch import Patch
from fullframe.cfi.write.source import Assembled, InnerLabel
from fullframe.cfi.write.spelling import insert


@dataclass(frozen=True, slots=True)
class InnerSpan:
    """The bytes that one line of a macro's body emits in one expansion.

    Attributes:
        begin: address of the first byte in the image.
        end: address after the last.
        line: index of the preprocessed line in the body, from 0.
        expansion: the assembler's count of it.
    """

    begin: int
    end: int
    line: int
    expansion: int


#: A place beside a line of a macro's body: index of the preprocessed line, and whether behind it.
Spot = tuple[int, bool]


@dataclass(slots=True)
class Expansions:
    """What the lines of macros' bodies emit.

    Attributes:
        spans: by address.
        of_line: index of a preprocessed line in a body to the expansions in which it is assembled.
    """

    spans: list[InnerSpan] = field(default_factory=list)
    of_line: dict[int, set[int]] = field(default_factory=dict)

    def spot(self, address: int, *, after_transfer: bool) -> tuple[Spot, int] | None:
        """Return the place in a body for the directives of a boundary, and the expansion.

        Args:
            address: the boundary.
            after_transfer: the instruction before does not lead to it: they go before the line
                that begins there, else behind the line that ends there.

        Returns:
            None where no line of a body begins, or ends, there.
        """
        if after_transfer:
            position = bisect_left(self.spans, address, key=lambda span: span.begin)
            if position < len(self.spans) and self.spans[position].begin == address:
                span = self.spans[position]
                return (span.line, False), span.expansion
            return None
        position = bisect_right(self.spans, address - 1, key=lambda span: span.begin) - 1
        if position >= 0 and self.spans[position].end == address:
            span = self.spans[position]
            return (span.line, True), span.expansion
        return None


def expansions_of(assembled: Assembled) -> Expansions:
    """Find what the lines of macros' bodies emit in each expansion.

    Lines of included files are left out: those are not ours to edit.

    Args:
        assembled: with the labels of macros' bodies.
    """
    # Of the labels at one address the last is that of the line that emits what is there: the
    # symbol table has them in the order in which they were defined.
    last: dict[int, InnerLabel] = {}
    found = Expansions()
    for label in assembled.inner_labels:
        last[label.address] = label
        if label.line is not None:
            found.of_line.setdefault(label.line, set()).add(label.expansion)
    addresses = sorted(last)
    for begin, end in pairwise(addresses):
        label = last[begin]
        if label.line is not None and assembled.origins[label.line].own:
            found.spans.append(InnerSpan(begin, end, label.line, label.expansion))
    return found


@dataclass(slots=True)
class Wanted:
    """The directives that functions want within macros' bodies.

    Attributes:
        texts: place to the expansion to what it needs there.
    """

    texts: dict[Spot, dict[int, list[str]]] = field(default_factory=dict)

    def add(self, spot: Spot, expansion: int, text: list[str]) -> None:
        """Note what one expansion needs at a place."""
        self.texts.setdefault(spot, {})[expansion] = text

    def merge(self, others: Iterable[Wanted]) -> None:
        """Take over what others want."""
        for other in others:
            for spot, texts in other.texts.items():
                self.texts.setdefault(spot, {}).update(texts)

    def conflicts(self, expansions: Expansions) -> set[Spot]:
        """Return the places where not every expansion needs the same."""
        return {
            spot
            for spot, texts in self.texts.items()
            if set(texts) != expansions.of_line.get(spot[0])
            or len({tuple(text) for text in texts.values()}) > 1
        }

    def patch(self, assembled: Assembled, lines: list[str]) -> Patch:
        """Return the edits that write what all expansions need into the bodies, once.

        Args:
            assembled: the source.
            lines: its lines.
        """
        patch = Patch()
        for (line, after), texts in sorted(self.texts.items()):
            anchor = Anchor(assembled.origins[line].line, after)
            insert(patch, anchor, lines, next(iter(texts.values())))
        return patch


class ConflictError(Exception):
    """Not every expansion needs the same at some places of macros' bodies."""

    def __init__(self, spots: set[Spot]) -> None:
        self.spots = spots
        super().__init__(f"{len(spots)} places in macros")


@dataclass(slots=True)
class Macros:
    """A source's macros, as far as directives may be written into them.

    Attributes:
        expansions: what they emit.
        denied: places where not every expansion needs the same.
    """

    expansions: Expansions
    denied: set[Spot] = field(default_factory=set)

    def spot(self, address: int, *, after_transfer: bool) -> tuple[Spot, int] | None:
        """Return the place in a macro's body for a boundary's directives, if one is allowed."""
        found = self.expansions.spot(address, after_transfer=after_transfer)
        return None if found is None or found[0] in self.denied else found
