"""A small writer of ELF files, so that tests can make exactly the file they mean."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

EM_386, EM_X86_64 = 3, 62
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
PROGBITS, SYMTAB, STRTAB, RELA, NOBITS, REL, DYNSYM = 1, 2, 3, 4, 8, 9, 11


@dataclass
class WrittenSection:
    name: str
    data: bytes
    type: int = PROGBITS
    flags: int = 0
    address: int = 0
    link: int = 0
    info: int = 0
    alignment: int = 1
    entry_size: int = 0
    #: What the header claims where that is not the truth.
    claimed_size: int | None = None
    claimed_offset: int | None = None
    offset: int = 0


@dataclass
class ElfWriter:
    """Collects sections and writes them one behind the other, headers at the end."""

    bits: int = 64
    machine: int = EM_X86_64
    file_type: int = 1
    sections: list[WrittenSection] = field(default_factory=lambda: [WrittenSection("", b"", 0)])
    segments: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    symbols: list[bytes] = field(default_factory=list)
    names: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    with_section_headers: bool = True

    def section(self, name: str, data: bytes = b"", **fields) -> int:
        """Add a section; return its index."""
        self.sections.append(WrittenSection(name, data, **fields))
        return len(self.sections) - 1

    def text(self, data: bytes = b"\x90" * 64, name: str = ".text", address: int = 0) -> int:
        return self.section(
            name, data, flags=SHF_ALLOC | SHF_EXECINSTR, address=address, alignment=16
        )

    def symbol(
        self, name: str, value: int, section: int, size: int = 0, kind: int = 2, binding: int = 1
    ) -> int:
        """Add a symbol; return its number. Symbols go into the section that ``symtab`` makes."""
        at = len(self.names)
        self.names += name.encode() + b"\0"
        info = binding << 4 | kind
        if self.bits == 64:
            record = struct.pack("<IBBHQQ", at, info, 0, section, value, size)
        else:
            record = struct.pack("<IIIBBH", at, value, size, info, 0, section)
        self.symbols.append(record)
        return len(self.symbols)

    def symtab(self, dynamic: bool = False) -> int:
        """Write the symbols collected so far; return the table's index."""
        strings = self.section(".strtab", bytes(self.names), type=STRTAB)
        size = 24 if self.bits == 64 else 16
        return self.section(
            ".dynsym" if dynamic else ".symtab",
            bytes(size) + b"".join(self.symbols),
            type=DYNSYM if dynamic else SYMTAB,
            link=strings,
            info=1,
            entry_size=size,
        )

    def rela(self, target: int, symtab: int, records: list[tuple[int, int, int, int]]) -> int:
        """Add relocations: (offset, type, symbol number, addend); REL for i386."""
        with_addend = self.machine == EM_X86_64
        data = b""
        for offset, kind, symbol, addend in records:
            if self.bits == 64:
                data += struct.pack("<QQq", offset, symbol << 32 | kind, addend)
            elif with_addend:
                data += struct.pack("<IIi", offset, symbol << 8 | kind, addend)
            else:
                data += struct.pack("<II", offset, symbol << 8 | kind)
        return self.section(
            ".rela" + self.sections[target].name,
            data,
            type=RELA if with_addend else REL,
            link=symtab,
            info=target,
        )

    def segment(self, kind: int, flags: int, offset: int, address: int, size: int) -> None:
        self.segments.append((kind, flags, offset, address, size, size))

    def offset_of(self, index: int) -> int:
        """Where a section's bytes will be in the file."""
        self._lay_out()
        return self.sections[index].offset

    def _header_bytes(self) -> int:
        return 64 if self.bits == 64 else 52

    def _segment_bytes(self) -> int:
        return 56 if self.bits == 64 else 32

    def _lay_out(self, room_for_segments: int = 8) -> int:
        where = self._header_bytes() + room_for_segments * self._segment_bytes()
        for section in self.sections:
            where = (where + 15) // 16 * 16
            section.offset = where
            if section.type != NOBITS:
                where += len(section.data)
        return where

    def build(self) -> bytes:
        """Return the file."""
        if self.with_section_headers:
            names = b"\0"
            self.section(".shstrtab", b"", type=STRTAB)
            offsets = []
            for section in self.sections:
                offsets.append(len(names))
                names += section.name.encode() + b"\0"
            self.sections[-1].data = names
        end = self._lay_out()
        out = bytearray(end)
        for section in self.sections:
            if section.type != NOBITS:
                out[section.offset : section.offset + len(section.data)] = section.data
        headers_at = 0
        count = 0
        if self.with_section_headers:
            headers_at = len(out)
            count = len(self.sections)
            for section, name in zip(self.sections, offsets, strict=True):
                out += self._section_header(section, name)
        if count >= 0xFF00:  # extended numbering
            at = headers_at + (32 if self.bits == 64 else 20)
            struct.pack_into("<Q" if self.bits == 64 else "<I", out, at, count)
            struct.pack_into("<I", out, headers_at + (40 if self.bits == 64 else 24), count - 1)
        self._header(out, headers_at, count)
        return bytes(out)

    def _section_header(self, section: WrittenSection, name: int) -> bytes:
        size = len(section.data) if section.claimed_size is None else section.claimed_size
        offset = section.offset if section.claimed_offset is None else section.claimed_offset
        layout = "<IIQQQQIIQQ" if self.bits == 64 else "<IIIIIIIIII"
        return struct.pack(
            layout, name, section.type, section.flags, section.address, offset, size,
            section.link, section.info, section.alignment, section.entry_size,
        )  # fmt: skip

    def _header(self, out: bytearray, headers_at: int, count: int) -> None:
        wide = self.bits == 64
        out[:16] = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
        segments_at = self._header_bytes() if self.segments else 0
        struct.pack_into(
            "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH", out, 16,
            self.file_type, self.machine, 1, 0, segments_at, headers_at, 0,
            self._header_bytes(), self._segment_bytes(), len(self.segments),
            64 if wide else 40, count if count < 0xFF00 else 0,
            (count - 1 if count < 0xFF00 else 0xFFFF) if count else 0,
        )  # fmt: skip
        for number, (kind, flags, offset, address, file_size, size) in enumerate(self.segments):
            at = segments_at + number * self._segment_bytes()
            if wide:
                struct.pack_into(
                    "<IIQQQQQQ", out, at, kind, flags, offset, address, address, file_size, size, 16
                )
            else:
                struct.pack_into(
                    "<IIIIIIII", out, at, kind, offset, address, address, file_size, size, flags, 16
                )
