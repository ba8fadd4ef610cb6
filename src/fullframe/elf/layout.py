"""Synthetic addresses for relocatable objects, whose sections all start at address 0.

Every loaded section gets addresses of its own, so that one number names one byte, 0 stays
invalid, and direct calls resolve. Undefined symbols get addresses in a range that maps to no
bytes: a call of one has a target that can be named but not read.
"""

from __future__ import annotations

from collections.abc import Sequence

from fullframe.elf.structures import SHF_ALLOC, SHT_NOBITS, SectionHeader
from fullframe.errors import InputError, Place

FIRST_SECTION_ADDRESS = 0x1000
#: Undefined symbol number n lies at this address plus n times the step. The range stays below
#: 2 GiB so that 32-bit displacements and sign-extended addresses reach it.
UNDEFINED_BASE = 0x6000_0000
UNDEFINED_STEP = 16
UNDEFINED_END = 0x7FFF_0000

#: Between sections, so that an address just past one section is not the start of the next.
_GAP_BYTES = 16
_LARGEST_ALIGNMENT = 1 << 16


def assign_addresses(
    headers: Sequence[SectionHeader], file_size: int, path: str, warnings: list[InputError]
) -> list[tuple[int, int]]:
    """Lay out the sections of a relocatable object.

    Args:
        headers: as in the file.
        file_size: in bytes.
        path: named in warnings.
        warnings: gets a line for every section that had to be cut or dropped.

    Returns:
        For each section its address (0 for one that is not loaded) and its size in bytes.
    """
    placed: list[tuple[int, int]] = []
    where = FIRST_SECTION_ADDRESS
    taken = _overlapping(headers)
    for index, header in enumerate(headers):
        if not header.flags & SHF_ALLOC:
            placed.append((0, header.size_bytes))
            continue
        size = header.size_bytes
        place = Place(path, section=f"section {index}", offset_bytes=0)
        if header.type != SHT_NOBITS and header.offset + size > file_size:
            held = max(0, file_size - header.offset)
            warnings.append(
                InputError(place, f"a section of {size} bytes", f"at most {held}, all there is")
            )
            size = held
        if index in taken:
            warnings.append(
                InputError(
                    place,
                    f"its bytes overlap those of section {taken[index]}",
                    "sections of their own; this one is ignored",
                )
            )
            size = 0
        alignment = header.alignment
        if alignment & (alignment - 1) or not 0 < alignment <= _LARGEST_ALIGNMENT:
            alignment = 1 if alignment <= 1 else 16
        address = (where + alignment - 1) // alignment * alignment
        if address + size > UNDEFINED_BASE - _LARGEST_ALIGNMENT:
            warnings.append(InputError(place, f"{size} bytes", "sections of together 1.5 GiB"))
            size = 0
        placed.append((address, size))
        where = address + size + _GAP_BYTES
    return placed


def _overlapping(headers: Sequence[SectionHeader]) -> dict[int, int]:
    """Sections whose bytes in the file overlap those of another, and which other."""
    spans = sorted(
        (header.offset, header.offset + header.size_bytes, index)
        for index, header in enumerate(headers)
        if header.type not in (0, SHT_NOBITS) and header.flags & SHF_ALLOC and header.size_bytes
    )
    found: dict[int, int] = {}
    last_end, last_index = 0, 0
    for begin, end, index in spans:
        if begin < last_end:
            found[index] = last_index
        else:
            last_end, last_index = end, index
    return found
