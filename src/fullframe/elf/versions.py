"""Symbol versions, such as ``GLIBC_2.2.5``.

Source: Linux Standard Base Core 5.0, "Symbol Versioning".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from fullframe.elf import dynamic as dyn
from fullframe.elf.sections import Section
from fullframe.elf.strings import StringTable
from fullframe.elf.structures import SHT_GNU_VERDEF, SHT_GNU_VERNEED
from fullframe.errors import FullframeError

_VERDEF = struct.Struct("<HHHHIII")
_VERDAUX = struct.Struct("<II")
_VERNEED = struct.Struct("<HHIII")
_VERNAUX = struct.Struct("<IHHII")
#: The highest bit of a symbol's version number: hidden, not the default version.
_HIDDEN = 0x8000
#: Version numbers are 15 bits; a chain longer than that goes round in circles.
_LONGEST_CHAIN = 0x8000

VersionOf = Callable[[int], str | None]


def from_sections(
    sections: Sequence[Section],
    numbers: Section,
    strings: StringTable,
    content: Callable[[Section], memoryview],
) -> VersionOf | None:
    """Return a function from symbol number to version, from the sections of an image.

    Args:
        sections: all of them.
        numbers: ``.gnu.version``.
        strings: the names of the dynamic symbols, which hold the version names too.
        content: gives the bytes of a section.
    """
    names: dict[int, str] = {}
    # There is one section of each type.
    for kind, read in ((SHT_GNU_VERDEF, _definitions), (SHT_GNU_VERNEED, _needs)):
        section = next((item for item in sections if item.type == kind), None)
        if section is not None:
            read(content(section), strings, names)
    return _lookup(content(numbers), names)


def from_dynamic(
    tags: Mapping[int, int],
    read_from: Callable[[int], memoryview],
    strings: StringTable,
) -> VersionOf | None:
    """Return a function from symbol number to version, from the dynamic segment.

    Args:
        tags: the entries of the dynamic segment.
        read_from: reads from an address to the end of what is mapped (nothing gives the size of
            these tables); it raises a FullframeError where nothing is.
        strings: the names of the dynamic symbols.

    Returns:
        None where there are no versions, or their tables are not mapped.
    """
    if dyn.DT_VERSYM not in tags:
        return None
    names: dict[int, str] = {}
    try:
        numbers = read_from(tags[dyn.DT_VERSYM])
        if dyn.DT_VERDEF in tags:
            _definitions(read_from(tags[dyn.DT_VERDEF]), strings, names)
        if dyn.DT_VERNEED in tags:
            _needs(read_from(tags[dyn.DT_VERNEED]), strings, names)
    except FullframeError:
        return None
    return _lookup(numbers, names)


def _lookup(numbers: memoryview, names: Mapping[int, str]) -> VersionOf:
    def version_of(symbol_number: int) -> str | None:
        raw = bytes(numbers[2 * symbol_number : 2 * symbol_number + 2])
        return names.get(int.from_bytes(raw, "little") & ~_HIDDEN) if len(raw) == 2 else None

    return version_of


def _definitions(table: memoryview, strings: StringTable, names: dict[int, str]) -> None:
    offset = 0
    for _ in range(_LONGEST_CHAIN):
        if offset + _VERDEF.size > len(table):
            return
        _, flags, number, count, _, first, following = _VERDEF.unpack_from(table, offset)
        where = offset + first
        # VER_FLG_BASE (1) names the file itself, not a version.
        if count and not flags & 1 and where + _VERDAUX.size <= len(table):
            name, _ = _VERDAUX.unpack_from(table, where)
            names.setdefault(number & ~_HIDDEN, strings.get(name))
        if not following:
            return
        offset += following


def _needs(table: memoryview, strings: StringTable, names: dict[int, str]) -> None:
    offset = 0
    steps = 0
    while offset + _VERNEED.size <= len(table) and steps < _LONGEST_CHAIN:
        _, count, _, first, following = _VERNEED.unpack_from(table, offset)
        where = offset + first
        for _ in range(count):
            steps += 1
            if where + _VERNAUX.size > len(table) or steps >= _LONGEST_CHAIN:
                break
            _, _, number, name, next_offset = _VERNAUX.unpack_from(table, where)
            names.setdefault(number & ~_HIDDEN, strings.get(name))
            if not next_offset:
                break
            where += next_offset
        if not following:
            return
        steps += 1
        offset += following
