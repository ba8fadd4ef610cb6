"""Adding sections to a relocatable object, with nothing else in it changed.

The bytes of the object stay where they are. New sections, a longer table of section names and the
new table of section headers are put behind them; the ELF header is told where. Where a section
has no local symbol that relocations could refer to, a section symbol is added, for which a new
symbol table is put behind as well and the symbol numbers in relocations are moved on.

Source: System V ABI (gABI), chapter 4, "Object Files".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from fullframe.elf import structures
from fullframe.elf.structures import FileHeader, SectionHeader
from fullframe.errors import InputError, Place

SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_REL, SHT_GROUP, SHT_SYMTAB_SHNDX = 1, 2, 4, 9, 17, 18
_SHT_LLVM_ADDRSIG = 0x6FFF4C03
SHF_ALLOC, SHF_INFO_LINK = 0x2, 0x40
_SHN_LORESERVE = 0xFF00
_STT_SECTION = 3


@dataclass(frozen=True, slots=True)
class NewSection:
    """A section to be added.

    Attributes:
        name: its name.
        type: ``SHT_*``.
        flags: ``SHF_*``.
        data: its bytes.
        alignment: in bytes.
        link: as in the header; None for the symbol table.
        info: as in the header; None for the section added before this one.
        entry_size_bytes: of its entries.
    """

    name: str
    type: int
    flags: int
    data: bytes
    alignment: int
    link: int | None = 0
    info: int | None = 0
    entry_size_bytes: int = 0


@dataclass(slots=True)
class _Symbols:
    """The symbol table, with what was added to it."""

    index: int
    data: bytearray
    first_global: int
    entry_bytes: int
    added: dict[int, int] = field(default_factory=dict)


class ObjectExtender:
    """Adds sections to one relocatable object.

    Args:
        data: the object.
        path: for messages.

    Raises:
        InputError: it is no relocatable object for x86, or it has no symbol table.
    """

    def __init__(self, data: bytes, path: str) -> None:
        self._path = path
        self._data = bytearray(data)
        view = memoryview(data)
        self.header: FileHeader = structures.read_header(view, path)
        if self.header.file_type != structures.ET_REL:
            raise InputError(
                Place(path), "not a relocatable object", "an object that has not been linked",
                "give it the .o file that the assembler wrote",
            )  # fmt: skip
        headers, self._names_index = structures.read_section_headers(view, self.header, path, [])
        self._headers: list[SectionHeader] = list(headers)
        if not 0 < self._names_index < len(self._headers):
            raise InputError(Place(path), "no table of section names", "a whole object")
        if len(self._headers) + 16 >= _SHN_LORESERVE:
            raise InputError(Place(path), f"{len(self._headers)} sections", "fewer than 65,000")
        self._new: list[NewSection] = []
        self._symbols = self._read_symbols()

    @property
    def is_64(self) -> bool:
        """Whether the object is of ELF class 64."""
        return self.header.elf_bits == 64

    def _raw(self, header: SectionHeader) -> bytes:
        end = header.offset + header.size_bytes
        if end > len(self._data):
            raise InputError(
                Place(self._path, offset_bytes=header.offset),
                "a section that claims more bytes than the file has",
                "a whole file",
            )
        return bytes(self._data[header.offset : end])

    def _read_symbols(self) -> _Symbols:
        entry = 24 if self.is_64 else 16
        for index, header in enumerate(self._headers):
            if header.type == SHT_SYMTAB:
                raw = bytearray(self._raw(header))
                count = len(raw) // entry
                if header.entry_size_bytes != entry or not 0 < header.info <= count:
                    break
                return _Symbols(index, raw, header.info, entry)
        raise InputError(
            Place(self._path),
            "no symbol table that can be used",
            "symbols, by which functions are found",
            "assemble it without stripping its symbols",
        )

    # -- symbols -----------------------------------------------------------------------------

    def local_symbol(self, section_index: int) -> tuple[int, int]:
        """Return (number, value) of a local symbol of a section; one is added where none is.

        A section symbol wins; relocations of ``.eh_frame`` against a global symbol could not be
        linked into a shared object.
        """
        symbols = self._symbols
        best: tuple[int, int] | None = None
        for number in range(1, symbols.first_global):
            kind, section, value = self._symbol(number)
            if section == section_index and kind & 0xF == _STT_SECTION:
                return number, value
            if section == section_index and best is None and kind & 0xF in (0, 1, 2):
                best = (number, value)
        return best if best is not None else (self._add_symbol(section_index), 0)

    def _symbol(self, number: int) -> tuple[int, int, int]:
        """Return (st_info, st_shndx, st_value)."""
        at = number * self._symbols.entry_bytes
        if self.is_64:
            _, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", self._symbols.data, at)
        else:
            _, value, _, info, _, section = struct.unpack_from("<IIIBBH", self._symbols.data, at)
        return info, section, value

    def _add_symbol(self, section_index: int) -> int:
        symbols = self._symbols
        known = symbols.added.get(section_index)
        if known is not None:
            return known
        if any(header.type == _SHT_LLVM_ADDRSIG for header in self._headers):
            raise InputError(
                Place(self._path),
                f"section {section_index} has no local symbol, and .llvm_addrsig numbers them",
                "a local label in each section of code, or no .llvm_addrsig",
                "assemble with -fno-addrsig",
            )
        if self.is_64:
            record = struct.pack("<IBBHQQ", 0, _STT_SECTION, 0, section_index, 0, 0)
        else:
            record = struct.pack("<IIIBBH", 0, 0, 0, _STT_SECTION, 0, section_index)
        number = symbols.first_global
        at = number * symbols.entry_bytes
        symbols.data[at:at] = record
        symbols.first_global += 1
        symbols.added[section_index] = number
        self._move_symbol_numbers(number)
        return number

    def _move_symbol_numbers(self, first: int) -> None:
        """Add one to every symbol number from ``first`` on, wherever one is written."""
        for index, header in enumerate(self._headers):
            if header.link != self._symbols.index:
                continue
            if header.type == SHT_GROUP and header.info >= first:
                self._headers[index] = replace(header, info=header.info + 1)
            elif header.type == SHT_SYMTAB_SHNDX:
                raise InputError(
                    Place(self._path), "an extended section index table", "fewer sections"
                )
            elif header.type in (SHT_REL, SHT_RELA):
                self._raw(header)
                self._move_in_relocations(header, first)

    def _move_in_relocations(self, header: SectionHeader, first: int) -> None:
        form, shift, place = ("<Q", 32, 8) if self.is_64 else ("<I", 8, 4)
        step = header.entry_size_bytes
        if step < place + struct.calcsize(form):
            raise InputError(Place(self._path), f"relocations of {step} bytes each")
        for at in range(header.offset, header.offset + header.size_bytes - step + 1, step):
            (info,) = struct.unpack_from(form, self._data, at + place)
            if info >> shift >= first:
                struct.pack_into(form, self._data, at + place, info + (1 << shift))

    # -- sections ----------------------------------------------------------------------------

    def add(self, section: NewSection) -> None:
        """Add a section behind the others."""
        self._new.append(section)

    def finish(self) -> bytes:
        """Return the new object."""
        out = bytearray(self._data)
        headers = list(self._headers)
        symbols = self._symbols
        if symbols.added:
            offset = _pad(out, 8)
            out += symbols.data
            headers[symbols.index] = replace(
                headers[symbols.index],
                offset=offset,
                size_bytes=len(symbols.data),
                info=symbols.first_global,
            )
        names = bytearray(self._raw(self._headers[self._names_index]))
        if not names.endswith(b"\0"):
            names += b"\0"
        for section in self._new:
            name_offset = len(names)
            names += section.name.encode() + b"\0"
            offset = _pad(out, section.alignment)
            out += section.data
            headers.append(
                SectionHeader(
                    name_offset,
                    section.type,
                    section.flags,
                    0,
                    offset,
                    len(section.data),
                    symbols.index if section.link is None else section.link,
                    len(headers) - 1 if section.info is None else section.info,
                    section.alignment,
                    section.entry_size_bytes,
                )
            )
        offset = _pad(out, 1)
        out += names
        headers[self._names_index] = replace(
            headers[self._names_index], offset=offset, size_bytes=len(names)
        )
        table = _pad(out, 8)
        for header in headers:
            out += self._pack(header)
        if self.is_64:
            struct.pack_into("<Q", out, 0x28, table)
            struct.pack_into("<H", out, 0x3C, len(headers))
        else:
            struct.pack_into("<I", out, 0x20, table)
            struct.pack_into("<H", out, 0x30, len(headers))
        return bytes(out)

    def _pack(self, header: SectionHeader) -> bytes:
        form = "<IIQQQQIIQQ" if self.is_64 else "<10I"
        return struct.pack(
            form, header.name_offset, header.type, header.flags, header.address, header.offset,
            header.size_bytes, header.link, header.info, header.alignment,
            header.entry_size_bytes,
        )  # fmt: skip


def _pad(out: bytearray, alignment: int) -> int:
    out += b"\0" * (-len(out) % max(1, alignment))
    return len(out)
