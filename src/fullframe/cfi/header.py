"""``.eh_frame_hdr``: the sorted index by which unwinders find FDEs, read and checked.

Source: Linux Standard Base Core 5.0, section 10.6.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fullframe.cfi.encoding import (
    DW_EH_PE_OMIT,
    Bases,
    MalformedError,
    encoding_name,
    read_pointer,
    read_value,
)
from fullframe.cfi.frames import FrameTable
from fullframe.cfi.problems import FrameProblem
from fullframe.elf.image import Image
from fullframe.errors import FullframeError

SECTION_NAME = ".eh_frame_hdr"
#: datarel sdata4, relative to the header itself: the one encoding that glibc's unwinder searches.
_DATAREL_SDATA4 = 0x3B
_MOST_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """An ``.eh_frame_hdr``.

    Attributes:
        address: where it is.
        frames_address: what it calls the start of ``.eh_frame``; None if it does not say.
        count: how many entries it says its table has; None without a table.
        table_encoding: ``DW_EH_PE_*`` of the table.
        locations: first address of each entry, as they stand in the table.
        fde_addresses: address of each entry's FDE.
        problems: why it, or a part of it, cannot be read.
    """

    address: int
    frames_address: int | None
    count: int | None
    table_encoding: int
    locations: tuple[int, ...]
    fde_addresses: tuple[int, ...]
    problems: tuple[FrameProblem, ...]


def read_frame_header(image: Image) -> FrameHeader | None:
    """Read the ``.eh_frame_hdr`` of a linked image; None if it has none."""
    address = image.eh_frame_header_address
    if address is None or image.is_relocatable:
        return None
    try:
        return _read(image, address)
    except MalformedError as error:
        kind, offset, text = "header-version", error.offset, error.message
    except FullframeError as error:
        kind, offset, text = "header-version", 0, str(error)
    problem = FrameProblem(kind, SECTION_NAME, offset, text)
    return FrameHeader(address, None, None, DW_EH_PE_OMIT, (), (), (problem,))


def _read(image: Image, address: int) -> FrameHeader:
    size_bytes = image.address_size_bytes
    end = image.mapped_end(address)
    available = 0 if end is None else end - address
    section = image.section_at(address)
    if section is not None and section.name == SECTION_NAME:
        available = min(available, section.end - address)
    data = bytes(image.read(address, min(available, 64)))
    if len(data) < 4 or data[0] != 1:
        found = f"version {data[0]}" if data else "no bytes"
        raise MalformedError("header-version", 0, f"{found}; version 1 is known")
    _, pointer_encoding, count_encoding, table_encoding = data[:4]
    bases = Bases(address, None, address)
    frames_address, at = read_pointer(data, 4, pointer_encoding, size_bytes, bases)
    count: int | None = None
    if count_encoding != DW_EH_PE_OMIT and table_encoding != DW_EH_PE_OMIT:
        raw_count, at = read_pointer(data, at, count_encoding, size_bytes, bases)
        count = raw_count or 0
    problems: list[FrameProblem] = []
    locations: tuple[int, ...] = ()
    fde_addresses: tuple[int, ...] = ()
    if count:
        entry_bytes = 2 * _entry_bytes(table_encoding, size_bytes)
        fitting = (available - at) // entry_bytes
        if count > fitting:
            text = f"{count} entries, of which the section holds {fitting}"
            problems.append(FrameProblem("header-count", SECTION_NAME, at, text))
        raw = bytes(image.read(address + at, min(count, fitting) * entry_bytes))
        locations, fde_addresses = _read_table(
            raw, table_encoding, size_bytes, Bases(address + at, None, address)
        )
    return FrameHeader(
        address, frames_address, count, table_encoding, locations, fde_addresses, tuple(problems)
    )


def _entry_bytes(encoding: int, address_size_bytes: int) -> int:
    if encoding & 0x80:
        raise MalformedError("bad-encoding", 3, f"a table that is {encoding_name(encoding)}")
    # Every fixed format has one length; LEB128 cannot be searched, nobody writes it.
    _, size = read_value(bytes(8), 0, encoding & 0x0F, address_size_bytes)
    if encoding & 0x07 == 1:
        raise MalformedError("bad-encoding", 3, f"a table that is {encoding_name(encoding)}")
    return size


def _read_table(
    raw: bytes, encoding: int, address_size_bytes: int, bases: Bases
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read the pairs (first address, address of the FDE)."""
    mask = (1 << (8 * address_size_bytes)) - 1
    if encoding == _DATAREL_SDATA4 and bases.data is not None:
        relative = np.frombuffer(raw, "<i4")
        base = bases.data
        values = [(base + value) & mask for value in relative.tolist()]
    else:
        values = []
        at = 0
        while at < len(raw):
            value, at = read_pointer(raw, at, encoding, address_size_bytes, bases)
            values.append(value or 0)
    return tuple(values[0::2]), tuple(values[1::2])


def check_frame_header(header: FrameHeader, table: FrameTable) -> list[FrameProblem]:
    """Compare an ``.eh_frame_hdr`` with the ``.eh_frame`` that it indexes.

    Args:
        header: the index.
        table: the frames.

    Returns:
        What is wrong: the table's address, order and count; entries that lead to no FDE or to one
        that begins elsewhere; FDEs that have no entry. Empty where all is well, or where the
        header has no table (unwinders then search ``.eh_frame`` from its start).
    """
    problems = list(header.problems)
    if header.frames_address is not None and header.frames_address != table.address:
        text = f"says .eh_frame is at {header.frames_address:#x}; it is at {table.address:#x}"
        problems.append(FrameProblem("header-table-address", SECTION_NAME, 4, text))
    if header.count is None:
        return problems
    # FDEs that cover nothing can be found by no search: linkers leave them out or not.
    fdes = [fde for fde in table.fdes if fde.end > fde.begin]
    if not len(fdes) <= header.count <= len(table.fdes):
        text = f"{header.count} entries for {len(fdes)} FDEs"
        problems.append(FrameProblem("header-count", SECTION_NAME, 8, text))
    for number, problem in enumerate(_compare(header, table)):
        if number == _MOST_PROBLEMS:
            text = "more problems are not listed"
            problem = FrameProblem("too-many-problems", SECTION_NAME, 0, text)
        problems.append(problem)
        if number == _MOST_PROBLEMS:
            break
    return problems


def _compare(header: FrameHeader, table: FrameTable) -> Iterator[FrameProblem]:
    entry_bytes = 2 * _entry_bytes(header.table_encoding, table.image.address_size_bytes)
    first = 12
    fde_by_address = {table.address + fde.offset: fde for fde in table.fdes}
    previous = -1
    seen: set[int] = set()
    for number, (location, fde_address) in enumerate(
        zip(header.locations, header.fde_addresses, strict=False)
    ):
        at = first + number * entry_bytes
        if location <= previous:
            text = f"entry {number} is for {location:#x}, the one before it for {previous:#x}"
            yield FrameProblem("header-unsorted", SECTION_NAME, at, text, location)
        previous = location
        fde = fde_by_address.get(fde_address)
        if fde is None:
            text = f"entry {number} for {location:#x} leads to {fde_address:#x}, where no FDE is"
            yield FrameProblem("header-wrong", SECTION_NAME, at, text, location)
            continue
        seen.add(fde.offset)
        if fde.begin != location:
            text = f"entry {number} for {location:#x} leads to the FDE of {fde.begin:#x}"
            yield FrameProblem("header-wrong", SECTION_NAME, at, text, location)
    for fde in table.fdes:
        if fde.offset not in seen and fde.end > fde.begin:
            text = f"the FDE of {fde.begin:#x}..{fde.end:#x} has no entry"
            yield FrameProblem("header-missing", table.section_name, fde.offset, text, fde.begin)
