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
#: Where the global offset table would begin, which only a linker makes; it maps to no bytes.
GOT_ADDRESS = UNDEFINED_END

#: Between sections, so that an address just past one section is not the start of the next.
_GAP_BYTES = 16
_LARGEST_ALIGNMENT = 1 << 16


def assign_addresses(
    headers: Sequence[SectionHeader],
    believed: Sequence[int],
    path: str,
    warnings: list[InputError],
) -> list[tuple[int, int]]:
    """Lay out the sections of a relocatable object.

    Args:
        headers: as in the file.
        believed: the size of each, as :func:`sizes` gives it.
        path: named in warnings.
        warnings: gets a line for every section that does not fit.

    Returns:
        For each section its address (0 for one that is not loaded) and its size in bytes.
    """
    placed: list[tuple[int, int]] = []
    where = FIRST_SECTION_ADDRESS
    for index, (header, size) in enumerate(zip(headers, believed, strict=True)):
        if not header.flags & SHF_ALLOC:
            placed.append((0, size))
            continue
        alignment = header.alignment
        if alignment & (alignment - 1) or not 0 < alignment <= _LARGEST_ALIGNMENT:
            alignment = 1 if alignment <= 1 else 16
        address = (where + alignment - 1) // alignment * alignment
        if address + size > UNDEFINED_BASE - _LARGEST_ALIGNMENT:
            place = Place(path, section=f"section {index}")
            warnings.append(InputError(place, f"{size} bytes", "sections of together 1.5 GiB"))
            size = 0
        placed.append((address, size))
        where = address + size + _GAP_BYTES
    return placed


def sizes(
    headers: Sequence[SectionHeader], file_size: int, is_relocatable: bool, path: str,
    warnings: list[InputError],
) -> list[int]:  # fmt: skip
    """Return how many bytes of each section to believe in.

    No byte of a file belongs to two sections (gABI chapter 4). In a relocatable object, and where
    the sections together claim more than twice the file, a section that overlaps another is taken
    as empty: otherwise a small file could have the work of a thousand large ones done.

    Args:
        headers: as in the file.
        file_size: in bytes.
        is_relocatable: a section that is cut by the end of the file is shortened to what is there.
        path: named in warnings.
        warnings: gets a line for every section that is cut or dropped.

    Returns:
        A size in bytes for each section.
    """
    believed = [header.size_bytes for header in headers]
    solid = [
        index
        for index, header in enumerate(headers)
        if header.type not in (0, SHT_NOBITS) and header.size_bytes
    ]
    for index in solid:
        header = headers[index]
        held = max(0, min(header.size_bytes, file_size - header.offset))
        if held < header.size_bytes:
            warnings.append(
                InputError(
                    Place(path, section=f"section {index}"),
                    f"claims {header.size_bytes} bytes at offset {header.offset:#x} of the file",
                    f"at most {held}, all there is",
                )
            )
            if is_relocatable:
                believed[index] = held
    claimed = sum(min(headers[index].size_bytes, file_size) for index in solid)
    if is_relocatable or claimed > 2 * file_size + (1 << 20):
        for index, other in _overlapping(headers, solid).items():
            warnings.append(
                InputError(
                    Place(path, section=f"section {index}"),
                    f"its bytes overlap those of section {other}",
                    "sections of their own; this one is ignored",
                )
            )
            believed[index] = 0
    return believed


def _overlapping(headers: Sequence[SectionHeader], solid: Sequence[int]) -> dict[int, int]:
    """Sections whose bytes in the file overlap those of another, and which other."""
    spans = sorted(
        (headers[index].offset, headers[index].offset + headers[index].size_bytes, index)
        for index in solid
    )
    found: dict[int, int] = {}
    last_end, last_index = 0, 0
    for begin, end, index in spans:
        if begin < last_end:
            found[index] = last_index
        else:
            last_end, last_index = end, index
    return found
