"""Source lines of addresses, from ``.debug_line`` alone.

DWARF's way from an address to its line program leads through ``.debug_aranges`` or the entries of
``.debug_info`` (DWARF 5, section 6.1). They are the largest of the debug sections, as a rule
compressed as a whole, and say nothing that the line programs do not say themselves: each sequence
begins with ``DW_LNE_set_address``. So these instructions are looked for, and the programs that have
the nearest ones before an address are run. What such a search takes for an instruction and is none
costs time, but never gives a wrong answer: only rows that a program makes do.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from fullframe.elf.line_program import (
    SET_ADDRESS,
    SMALLEST_UNIT_BYTES,
    LineProgram,
    LineProgramError,
    LineRow,
    unit_body,
)
from fullframe.elf.structures import SHT_NOTE
from fullframe.errors import FullframeError

if TYPE_CHECKING:
    from fullframe.elf.image import Image

#: Of the instructions that set an address, how many before the one asked for are looked at. The
#: nearest is right unless its bytes mean something else, or programs overlap.
_MOST_SEQUENCES_TRIED = 8
#: Rows that are kept of one image (150 bytes each). A library has some thousands a program; a small
#: compressed section can claim to be millions of them.
_MOST_ROWS = 1 << 21
#: Names are read up to ``PATH_MAX`` of ``linux/limits.h``.
_LONGEST_NAME_BYTES = 4096
DEBUG_DIRECTORY = Path("/usr/lib/debug/.build-id")


def build_id(image: Image) -> str | None:
    """Return the GNU build ID as hexadecimal digits; None without one.

    Source: the note of type 3 and name ``GNU`` (``NT_GNU_BUILD_ID`` in ``elf.h``).
    """
    for section in image.sections:
        if section.type == SHT_NOTE:
            found = _build_id_in(bytes(section.data[: 1 << 16]))
            if found is not None:
                return found
    return None


def _build_id_in(notes: bytes) -> str | None:
    offset = 0
    while offset + 12 <= len(notes):
        name_bytes, value_bytes, kind = (
            int.from_bytes(notes[offset + at : offset + at + 4], "little") for at in (0, 4, 8)
        )
        name_at = offset + 12
        value_at = name_at + (name_bytes + 3) // 4 * 4
        if kind == 3 and notes[name_at : name_at + name_bytes] == b"GNU\0":
            return notes[value_at : value_at + value_bytes].hex() or None
        offset = value_at + (value_bytes + 3) // 4 * 4
    return None


class LineReader:
    """Finds source lines for one image, running line programs only as they are needed.

    Args:
        image: the image; where it has no line table a separate debug file is looked for.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._programs: dict[int, tuple[LineProgram | None, list[LineRow]]] = {}
        self._rows_left = _MOST_ROWS

    def at(self, address: int) -> str | None:
        """Return ``file:line`` for an address; None where no line table covers it.

        Line tables are a courtesy: a broken one gives None, not an error.
        """
        try:
            for unit in self._units_near(address):
                program, rows = self._program(unit)
                position = bisect_right(rows, address, key=itemgetter(0)) - 1
                if program is not None and position >= 0 and address < rows[position].end:
                    row = rows[position]
                    return f"{program.file_name(row.file)}:{row.line}"
        except FullframeError:
            return None
        return None

    @property
    def source(self) -> Image | None:
        """The image that has the line table; None where there is none, or it cannot be read."""
        try:
            return self._source
        except FullframeError:
            return None

    @cached_property
    def _source(self) -> Image | None:
        """The image that has the line table: this one, or its separate debug file."""
        if self._image.section(".debug_line") or self._image.section(".zdebug_line"):
            return self._image
        identity = build_id(self._image)
        if identity is None or len(identity) < 4:
            return None
        path = DEBUG_DIRECTORY / identity[:2] / f"{identity[2:]}.debug"
        # Not Path.is_file: it fails where /usr/lib/debug may not be looked into.
        if not os.path.isfile(path):  # noqa: PTH113
            return None
        return type(self._image).open(path)

    def _section(self, name: str) -> memoryview:
        source = self._source
        section = None
        if source is not None:
            section = source.section(name) or source.section(name.replace(".", ".z", 1))
        return memoryview(b"") if section is None else section.data

    def _string_at(self, name: str, offset: int) -> bytes:
        return bytes(self._section(name)[offset : offset + _LONGEST_NAME_BYTES]).partition(b"\0")[0]

    def _units_near(self, address: int) -> list[int]:
        """Where the units begin that may have a line for an address, the likeliest first."""
        if not 0 <= address < 1 << 64:
            return []
        addresses, offsets = self._set_addresses
        # Python's integers would make numpy compare as floating-point numbers.
        after = int(np.searchsorted(addresses, np.uint64(address), "right"))
        nearest = offsets[max(0, after - _MOST_SEQUENCES_TRIED) : after].tolist()
        units = self._unit_offsets
        positions = (bisect_right(units, offset) - 1 for offset in reversed(nearest))
        return list(dict.fromkeys(units[position] for position in positions if position >= 0))

    @cached_property
    def _set_addresses(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """What seem to be the instructions that set an address.

        Returns:
            The addresses, sorted, and where in the section each instruction is; of equal addresses
            the one that is set last comes last.
        """
        data = np.frombuffer(self._section(".debug_line"), np.uint8)
        width = 4 if self._source is None else self._source.address_size_bytes
        # An extended instruction (section 6.2.5.3): 0, its size in bytes, what it is, its operand.
        last = max(0, len(data) - 2 - width)
        found = data[:last] == 0
        found &= data[1 : last + 1] == 1 + width
        found &= data[2 : last + 2] == SET_ADDRESS
        # Instructions that overlap are a hostile file's: there are no more than there is room for.
        offsets = np.flatnonzero(found)[: len(data) // (3 + width)]
        if not len(offsets):
            return np.zeros(0, np.uint64), offsets
        operands = sliding_window_view(data, width)[offsets + 3]
        addresses = operands.view(f"<u{width}")[:, 0].astype(np.uint64)
        order = np.argsort(addresses, kind="stable")
        return addresses[order], offsets[order]

    @cached_property
    def _unit_offsets(self) -> list[int]:
        """Where the units begin in ``.debug_line``, but for those too small for a header."""
        data = self._section(".debug_line")
        offsets, at = [], 0
        while at + 4 <= len(data):
            end = unit_body(data, at)[1]
            if end - at >= SMALLEST_UNIT_BYTES:
                offsets.append(at)
            at = end
        return offsets

    def _program(self, unit: int) -> tuple[LineProgram | None, list[LineRow]]:
        """The program of a unit and its rows; nothing where it is malformed."""
        found = self._programs.get(unit)
        if found is None:
            data = self._section(".debug_line")
            found = None, []
            with contextlib.suppress(LineProgramError):
                program = LineProgram(bytes(data[unit : unit_body(data, unit)[1]]), self._string_at)
                found = program, program.rows(self._rows_left)
                self._rows_left -= len(found[1])
            self._programs[unit] = found
        return found
