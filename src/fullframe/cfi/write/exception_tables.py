"""The exception tables of a compiler's assembly, and the functions that they belong to.

In C++ compiled to assembly two directives of a function say nothing of its frame: its personality
routine, and where its language-specific data (LSDA) is. A source that lost its directives still has
the data, under labels that GCC and Clang name alike everywhere, and in it the distances of call
sites from the function's begin. Layout: Itanium C++ ABI, exception handling, level II.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fullframe.cfi.write.functions import Function
from fullframe.cfi.write.source import Assembled

#: GCC's labels (C for a cold part's), and Clang's.
_TABLE = re.compile(r"\s*(\.LLSDAC?\d+|GCC_except_table\d+)\s*:")
_LABEL = re.compile(r"\s*([A-Za-z_.$][\w.$]*)\s*:")
_DISTANCE = re.compile(r"[\w.$]+\s*-\s*([A-Za-z_.$][\w.$]*)")
_PERSONALITY = re.compile(r"(?<![\w.])(DW\.ref\.)?(__\w+_personality_\w+)")

# Encodings of pointers (LSB Core, section 10.5.1): a word; relative to the place, 4 bytes signed;
# likewise, of the word that is there.
_ABSOLUTE = 0x03
_RELATIVE = 0x1B
_INDIRECT = 0x9B


@dataclass(frozen=True, slots=True)
class ExceptionTable:
    """The LSDA of one function.

    Attributes:
        label: its name in the source.
        address: in the image.
        personality: name of the personality routine, or of the word that holds its address.
    """

    label: str
    address: int
    personality: str

    @property
    def directives(self) -> tuple[str, str]:
        """What a function that this belongs to needs behind ``.cfi_startproc``."""
        is_indirect = self.personality.startswith("DW.ref.")
        routine, data = (_INDIRECT, _RELATIVE) if is_indirect else (_ABSOLUTE, _ABSOLUTE)
        return (
            f".cfi_personality {routine:#x}, {self.personality}",
            f".cfi_lsda {data:#x}, {self.label}",
        )


def exception_tables(
    assembled: Assembled, functions: Sequence[Function]
) -> dict[int, ExceptionTable]:
    """Find the exception tables of functions.

    Args:
        assembled: the source.
        functions: by address.

    Returns:
        The function's begin to its table; only where the source names one personality routine.
    """
    personality = _personality(assembled.clean)
    if personality is None:
        return {}
    places = _code_labels(assembled)
    begins = [function.begin for function in functions]
    found: dict[int, ExceptionTable] = {}
    for label, first, last in _tables(assembled):
        address = assembled.addresses[first]
        begin = _by_distances(assembled.clean[first:last], places, set(begins))
        if begin is None:
            begin = _before(assembled, first, functions, begins)
        if address is not None and begin is not None:
            found.setdefault(begin, ExceptionTable(label, address, personality))
    return found


def _personality(lines: list[str]) -> str | None:
    """Return the one personality routine that a source names, if it is one."""
    names: set[str] = set()
    indirect: set[str] = set()
    for line in lines:
        if "_personality_" in line and ".cfi_" not in line:
            for prefix, name in _PERSONALITY.findall(line):
                names.add(name)
                if prefix:
                    indirect.add(prefix + name)
    if len(names) != 1:
        return None
    return indirect.pop() if indirect else names.pop()


def _code_labels(assembled: Assembled) -> dict[str, int]:
    """Return the labels that stand at the begin of lines of code, to their addresses."""
    found = {}
    sections = assembled.image.sections
    for index, line in enumerate(assembled.clean):
        section, address = assembled.sections[index], assembled.addresses[index]
        match = _LABEL.match(line)
        if match and section is not None and address is not None and sections[section].executable:
            found[match[1]] = address
    return found


def _tables(assembled: Assembled) -> Iterator[tuple[str, int, int]]:
    """Yield each table's label, and the lines (from, to) that it consists of."""
    starts = []
    for index, line in enumerate(assembled.clean):
        match = _TABLE.match(line)
        name = assembled.section_name(index) if match else None
        if match and name is not None and name.startswith(".gcc_except_table"):
            starts.append((match[1], index))
    for number, (label, first) in enumerate(starts):
        last = starts[number + 1][1] if number + 1 < len(starts) else len(assembled.clean)
        for index in range(first, last):
            name = assembled.section_name(index)
            if name is not None and not name.startswith(".gcc_except_table"):
                last = index
                break
        yield label, first, last


def _by_distances(lines: list[str], places: dict[str, int], begins: set[int]) -> int | None:
    """Return the function from whose begin a table's distances are counted."""
    for line in lines:
        for base in _DISTANCE.findall(line):
            if places.get(base) in begins:
                return places[base]
    return None


def _before(
    assembled: Assembled, line: int, functions: Sequence[Function], begins: list[int]
) -> int | None:
    """Return the function whose code comes right before a line: compilers write its table there."""
    sections = assembled.image.sections
    for index in range(line - 1, -1, -1):
        section, address = assembled.sections[index], assembled.addresses[index]
        if section is None or address is None or not sections[section].executable:
            continue
        position = bisect_right(begins, address - 1) - 1
        if position >= 0 and address <= functions[position].end:
            return begins[position]
    return None
