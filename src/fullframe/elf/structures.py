"""The fixed structures of an ELF file: header, segments, section headers.

Source: System V ABI, Edition 4.1 and its gABI updates, chapters 4 and 5. Only what a little-endian
x86 file can hold is read; everything else is refused by name. Counts are checked against the size
of the file before anything is read, so that a hostile header cannot make the reader work harder
than the file is long.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fullframe.errors import InputError, Place
from fullframe.x86.registers import I386, X86_64, Machine

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
PT_GNU_EH_FRAME = 0x6474E550
PF_X, PF_W = 1, 2
SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_REL, SHT_DYNSYM = 2, 3, 4, 7, 8, 9, 11
SHT_SYMTAB_SHNDX = 18
SHT_RELR = 19
SHT_GNU_VERDEF, SHT_GNU_VERNEED, SHT_GNU_VERSYM = 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_TLS, SHF_COMPRESSED = 1, 2, 4, 0x400, 0x800
SHN_UNDEF, SHN_LORESERVE, SHN_ABS, SHN_COMMON, SHN_XINDEX = 0, 0xFF00, 0xFFF1, 0xFFF2, 0xFFFF

#: e_machine values that people try on us, to name them in the refusal (gABI, "Machine").
_MACHINE_NAMES = {
    2: "SPARC", 8: "MIPS", 20: "PowerPC", 21: "64-bit PowerPC", 22: "S/390", 40: "32-bit Arm",
    43: "64-bit SPARC", 50: "Itanium", 183: "AArch64", 243: "RISC-V", 247: "BPF", 258: "LoongArch",
}  # fmt: skip

_IDENT_BYTES = 16
_HEADER = {64: struct.Struct("<HHIQQQIHHHHHH"), 32: struct.Struct("<HHIIIIIHHHHHH")}
_SEGMENT = {64: struct.Struct("<IIQQQQQQ"), 32: struct.Struct("<IIIIIIII")}
_SECTION = {64: struct.Struct("<IIQQQQIIQQ"), 32: struct.Struct("<IIIIIIIIII")}


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What the ELF header says.

    Attributes:
        machine: the register file; x32 is :data:`X86_64` with ``elf_bits`` 32.
        elf_bits: the ELF class, 64 or 32: the width of addresses in the file.
        file_type: ``e_type`` (:data:`ET_REL` and so on).
        entry: address of the entry point, 0 where there is none.
    """

    machine: Machine
    elf_bits: int
    file_type: int
    entry: int
    segments_offset: int
    segments_count: int
    segment_entry_bytes: int
    sections_offset: int
    sections_count: int
    section_entry_bytes: int
    section_names_index: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header; sizes in bytes, ``offset`` into the file."""

    type: int
    flags: int
    offset: int
    address: int
    file_size_bytes: int
    memory_size_bytes: int


@dataclass(frozen=True, slots=True)
class SectionHeader:
    """A section header as it stands in the file, unchecked; sizes in bytes."""

    name_offset: int
    type: int
    flags: int
    address: int
    offset: int
    size_bytes: int
    link: int
    info: int
    alignment: int
    entry_size_bytes: int


def read_header(data: memoryview, path: str) -> FileHeader:
    """Read the ELF header.

    Raises:
        InputError: the bytes are no ELF file, or not one of a little-endian x86 machine.
    """
    start = bytes(data[:_IDENT_BYTES])
    if start[:4] != b"\x7fELF":
        raise InputError(
            Place(path, offset_bytes=0),
            f"not an ELF file (it starts with {start[:4].hex(' ') or 'nothing'})",
            "the magic bytes 7f 45 4c 46",
            "give an x86 executable, shared object, relocatable object, or vDSO dump",
        )
    if len(start) < _IDENT_BYTES or start[4] not in (1, 2):
        raise InputError(
            Place(path, offset_bytes=4),
            "the ELF header is cut short or its class is neither 32 nor 64 bits",
            "ELFCLASS32 (1) or ELFCLASS64 (2)",
        )
    elf_bits = 64 if start[4] == 2 else 32
    if start[5] != 1:
        raise InputError(
            Place(path, offset_bytes=5),
            f"byte order {start[5]}",
            "little-endian (1), the byte order of x86",
        )
    layout = _HEADER[elf_bits]
    if len(data) < _IDENT_BYTES + layout.size:
        raise InputError(
            Place(path),
            f"the file is {len(data)} bytes long",
            f"an ELF header of {_IDENT_BYTES + layout.size} bytes",
        )
    fields = layout.unpack_from(data, _IDENT_BYTES)
    return FileHeader(
        machine=_machine(fields[1], elf_bits, path),
        elf_bits=elf_bits,
        file_type=fields[0],
        entry=fields[3],
        segments_offset=fields[4],
        segments_count=fields[9],
        segment_entry_bytes=fields[8],
        sections_offset=fields[5],
        sections_count=fields[11],
        section_entry_bytes=fields[10],
        section_names_index=fields[12],
    )


def _machine(e_machine: int, elf_bits: int, path: str) -> Machine:
    if e_machine == 62:
        return X86_64
    if e_machine == 3 and elf_bits == 32:
        return I386
    name = _MACHINE_NAMES.get(e_machine, f"machine number {e_machine}")
    raise InputError(
        Place(path, offset_bytes=18),
        f"an ELF file for {name} ({elf_bits}-bit class)",
        "x86-64, x32 or i386",
    )


def read_segments(
    data: memoryview, header: FileHeader, path: str, warnings: list[InputError]
) -> tuple[Segment, ...]:
    """Read the program headers; a table that does not fit is dropped with a warning."""
    layout = _SEGMENT[header.elf_bits]
    count, start = header.segments_count, header.segments_offset
    if count == 0 or start == 0:
        return ()
    if header.segment_entry_bytes != layout.size:
        warnings.append(
            InputError(
                Place(path),
                f"program headers of {header.segment_entry_bytes} bytes",
                f"{layout.size}; the table is ignored",
            )
        )
        return ()
    fitting = max(0, (len(data) - start) // layout.size)
    if count > fitting:
        warnings.append(
            InputError(
                Place(path, offset_bytes=start),
                f"{count} program headers, of which the file holds {fitting}",
                "a whole table; the missing ones are ignored",
            )
        )
        count = fitting
    segments = []
    for fields in layout.iter_unpack(data[start : start + count * layout.size]):
        if header.elf_bits == 64:
            kind, flags, offset, address, _, file_size, memory_size, _ = fields
        else:
            kind, offset, address, _, file_size, memory_size, flags, _ = fields
        segments.append(Segment(kind, flags, offset, address, file_size, memory_size))
    return tuple(segments)


def read_section_headers(
    data: memoryview, header: FileHeader, path: str, warnings: list[InputError]
) -> tuple[tuple[SectionHeader, ...], int]:
    """Read the section headers; a table that does not fit is dropped with a warning.

    More than 65,279 sections, and an index of the name table beyond that, are kept in the first
    section header (gABI chapter 4, "Section Header").

    Returns:
        The headers, and the index of the section that holds their names (0 where there is none).
    """
    layout = _SECTION[header.elf_bits]
    start = header.sections_offset
    if start == 0:
        return (), 0
    if header.section_entry_bytes != layout.size or start + layout.size > len(data):
        # A dump of a loaded image keeps the header's fields but not the table: not worth a word
        # unless the table claims an impossible entry size.
        if header.section_entry_bytes != layout.size and header.sections_count:
            warnings.append(
                InputError(
                    Place(path),
                    f"section headers of {header.section_entry_bytes} bytes",
                    f"{layout.size}; the table is ignored",
                )
            )
        elif header.sections_count:
            warnings.append(
                InputError(
                    Place(path, offset_bytes=start),
                    "the section headers lie beyond the end of the file",
                    "a whole file; the image is read by its program headers alone",
                )
            )
        return (), 0
    first = SectionHeader(*layout.unpack_from(data, start))
    count = header.sections_count or first.size_bytes
    names_index = header.section_names_index
    if names_index == SHN_XINDEX:
        names_index = first.link
    fitting = (len(data) - start) // layout.size
    if count > fitting:
        warnings.append(
            InputError(
                Place(path, offset_bytes=start),
                f"{count} section headers, of which the file holds {fitting}",
                "a whole table; the missing ones are ignored",
            )
        )
        count = fitting
    table = data[start : start + count * layout.size]
    return tuple(SectionHeader(*fields) for fields in layout.iter_unpack(table)), names_index
