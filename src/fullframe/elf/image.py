"""An ELF image: one way to ask for bytes, sections, symbols and relocations by address.

Executables, shared objects, relocatable objects (whose sections get synthetic addresses and whose
relocations are applied), and images without section headers, such as dumps of the vDSO.
"""

from __future__ import annotations

import mmap
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from fullframe.elf import dynamic as dyn
from fullframe.elf import layout, structures, symbol_reader
from fullframe.elf.lines import LineReader
from fullframe.elf.memory import AddressError, AddressSpace, Region
from fullframe.elf.plt import PltReader
from fullframe.elf.relocation_reader import RelocationReader
from fullframe.elf.relocations import Relocation, RelocationTable
from fullframe.elf.sections import Section, decompress
from fullframe.elf.strings import StringTable
from fullframe.elf.structures import (
    ET_CORE,
    ET_DYN,
    ET_EXEC,
    ET_REL,
    PF_X,
    PT_DYNAMIC,
    PT_GNU_EH_FRAME,
    PT_INTERP,
    PT_LOAD,
    Segment,
)  # fmt: skip
from fullframe.elf.symbols import FunctionSymbols, Symbol, SymbolTable
from fullframe.errors import InputError, Place
from fullframe.x86.registers import Machine

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["AddressError", "Image", "Relocation", "Section", "Symbol"]


#: Files up to this size are read whole, larger ones are mapped. A file that is mapped and then cut
#: short (a linker writes it anew) ends the process with a bus error, and not a word. To read costs
#: 0.6 ms a MB, 0.3 % of the time of a check, and forked processes share what was read before; but
#: it is memory that the kernel cannot take back, and a tenth of what checking a large file needs.
LARGEST_READ_BYTES = 64 << 20


class Warnings(list[InputError]):
    """Warnings about one file, up to a bound.

    Args:
        path: the file.
    """

    MOST = 100

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def append(self, warning: InputError) -> None:
        """Add a warning; beyond the bound only one that says so."""
        if len(self) < self.MOST:
            super().append(warning)
        elif len(self) == self.MOST:
            super().append(InputError(Place(self._path), "more warnings, which are not listed"))


class Image:
    """An ELF file, read lazily; made by :meth:`open` or :meth:`from_bytes`.

    Attributes:
        path: what the image is called in messages.
        machine: its register file; x32 has x86-64's, with :attr:`is_x32` true.
        elf_bits: the ELF class, 64 or 32: the width of an address in the file.
        kind: ``relocatable``, ``executable``, ``shared``, ``core``, or ``type N``.
        entry: the entry point's address; 0 for none.
        sections: in the order of the file; empty without section headers.
        segments: the program headers.
        warnings: what was wrong with the file without keeping it from being read.
    """

    def __init__(self, data: memoryview, path: str) -> None:
        self._data = data
        self.path = path
        self.warnings: list[InputError] = Warnings(path)
        header = structures.read_header(data, path)
        self.machine: Machine = header.machine
        self.elf_bits: int = header.elf_bits
        self.entry: int = header.entry
        self._file_type = header.file_type
        self.segments: tuple[Segment, ...] = structures.read_segments(
            data, header, path, self.warnings
        )
        self._contents: dict[int, memoryview] = {}
        self.sections: tuple[Section, ...] = self._read_sections(header)
        if not self.sections and not self.segments:
            raise InputError(
                Place(path),
                "no readable section headers and no readable program headers",
                "at least one of the two",
                "check that the file is whole",
            )
        self._space = AddressSpace(self._regions(), path)
        self.read = self._space.read

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Image:
        """Read a file, or map it if it is larger than :data:`LARGEST_READ_BYTES`.

        Raises:
            InputError: it cannot be opened, is no regular file, or is no x86 ELF file.
        """
        name = os.fspath(path)
        try:
            # Before opening it: to open a named pipe is to wait for its writer.
            status = Path(name).stat()
            if not stat.S_ISREG(status.st_mode):
                raise InputError(Place(name), "not a regular file", "an ELF file")
            if status.st_size == 0:
                raise InputError(Place(name), "an empty file", "an ELF file")
            data: bytes | mmap.mmap
            with Path(name).open("rb", buffering=0) as file:
                if status.st_size > LARGEST_READ_BYTES:
                    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                else:
                    data = file.read()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InputError(
                Place(name), f"cannot be opened: {reason}", "a file", "check the path's spelling"
            ) from None
        return cls(memoryview(data), name)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview, path: str) -> Image:
        """Read an image that is in memory; ``path`` is what messages call it.

        Raises:
            InputError: no x86 ELF image.
        """
        return cls(memoryview(data).cast("B"), path)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self._data)

    @property
    def is_x32(self) -> bool:
        """Whether this is x86-64 code with 32-bit pointers."""
        return self.machine.bits != self.elf_bits

    @property
    def is_relocatable(self) -> bool:
        """Whether addresses are synthetic."""
        return self._file_type == ET_REL

    @property
    def address_size_bytes(self) -> int:
        """Size of a pointer in the image's data: 4 for i386 and x32, 8 for x86-64."""
        return self.elf_bits // 8

    @cached_property
    def kind(self) -> str:
        """What the file is for: see the class."""
        if self._file_type == ET_DYN:
            pie = self.dynamic.get(dyn.DT_FLAGS_1, 0) & dyn.DF_1_PIE
            has_interpreter = any(segment.type == PT_INTERP for segment in self.segments)
            return "executable" if pie or has_interpreter else "shared"
        names = {ET_REL: "relocatable", ET_EXEC: "executable", ET_CORE: "core"}
        return names.get(self._file_type, f"type {self._file_type}")

    # ------------------------------------------------------------------ sections and memory

    def _read_sections(self, header: structures.FileHeader) -> tuple[Section, ...]:
        headers, names_index = structures.read_section_headers(
            self._data, header, self.path, self.warnings
        )
        names = StringTable(b"")
        if 0 < names_index < len(headers):
            names_header = headers[names_index]
            begin = names_header.offset
            names = StringTable(bytes(self._data[begin : begin + names_header.size_bytes]))
        believed = layout.sizes(
            headers, len(self._data), self.is_relocatable, self.path, self.warnings
        )
        if self.is_relocatable:
            placed = layout.assign_addresses(headers, believed, self.path, self.warnings)
        else:
            placed = [
                (header.address, size) for header, size in zip(headers, believed, strict=True)
            ]
        return tuple(
            Section(
                index, names.get(item.name_offset), address, item.offset, size, item.type,
                item.flags, item.link, item.info, item.entry_size_bytes, self._content,
            )
            for index, (item, (address, size)) in enumerate(zip(headers, placed, strict=True))
        )  # fmt: skip

    def _content(self, section: Section) -> memoryview:
        view = self._contents.get(section.index)
        if view is not None:
            return view
        view = self._unrelocated(section)
        if self.is_relocatable:
            view = self._relocation_reader.applied(section, view)
        self._contents[section.index] = view
        return view

    def _unrelocated(self, section: Section) -> memoryview:
        """A section's bytes before relocation.

        Raises:
            InputError: it cannot be decompressed.
        """
        if not section.has_bytes:
            return memoryview(b"")
        raw = self._data[section.offset : section.offset + section.size_bytes]
        return decompress(section, raw, self.elf_bits, self.path)

    def table_bytes(self, section: Section) -> memoryview:
        """The bytes of a symbol, string or relocation table; nothing, with a warning, if broken.

        Tables are never relocated: a hostile one could otherwise depend on itself.
        """
        try:
            return self._unrelocated(section)
        except InputError as error:
            self.warnings.append(error)
            return memoryview(b"")

    def section(self, name: str) -> Section | None:
        """Return the first section of that name."""
        return next((section for section in self.sections if section.name == name), None)

    @cached_property
    def _alloc_sections(self) -> list[Section]:
        found = [item for item in self.sections if item.alloc and item.size_bytes and item.type]
        # Thread-local .tbss takes no address space of its own.
        found = [
            item
            for item in found
            if item.has_bytes or not item.flags & structures.SHF_TLS or self.is_relocatable
        ]
        return sorted(found, key=lambda item: item.address)

    def section_at(self, address: int) -> Section | None:
        """Return the loaded section that ``address`` lies in."""
        position = bisect_right(self._section_starts, address) - 1
        if position < 0:
            return None
        section = self._alloc_sections[position]
        return section if address < section.end else None

    @cached_property
    def _section_starts(self) -> list[int]:
        return [section.address for section in self._alloc_sections]

    def _regions(self) -> list[Region]:
        loads = [segment for segment in self.segments if segment.type == PT_LOAD]
        if loads and not self.is_relocatable:
            return [self._segment_region(segment) for segment in loads]
        return [
            Region(section.address, min(section.end, self._top), partial(self._content, section))
            for section in self._alloc_sections
        ]

    @property
    def _top(self) -> int:
        """The first number that is no address; a hostile size can reach beyond."""
        return 1 << self.elf_bits

    def _segment_region(self, segment: Segment) -> Region:
        end = segment.offset + segment.file_size_bytes
        view = self._data[segment.offset : end]
        if end > len(self._data):
            self.warnings.append(
                InputError(
                    Place(self.path, offset_bytes=segment.offset),
                    f"a segment that claims {segment.file_size_bytes} bytes",
                    f"at most {len(view)}, all there is; the rest is not mapped",
                )
            )
            end = segment.address + len(view)
        else:
            end = segment.address + max(segment.memory_size_bytes, segment.file_size_bytes)
        return Region(segment.address, min(end, self._top), lambda: view)

    def mapped_end(self, address: int) -> int | None:
        """Return the end of the file's bytes that ``address`` lies in; None if in none."""
        return self._space.bytes_end(address)

    def executable_ranges(self) -> list[tuple[int, int]]:
        """Return (first address, first address after) of what holds code, in order.

        By section where there are sections, else by segment. Only what the file holds bytes of,
        whatever a header claims; ranges that overlap are one.
        """
        return list(self._executable_ranges)

    def executable_pieces(
        self, piece_bytes: int, overlap_bytes: int
    ) -> Iterator[tuple[int, memoryview]]:
        """Give all that holds code, piece by piece: address, bytes.

        To look through the pieces takes no longer than the file is large.

        Args:
            piece_bytes: how far apart pieces begin at the most; bounds memory.
            overlap_bytes: how far each reaches into the next, where they touch.
        """
        for begin, end in self._executable_spans:
            for piece in range(begin, end, piece_bytes):
                yield piece, self.read(piece, min(piece_bytes + overlap_bytes, end - piece))

    @cached_property
    def _executable_ranges(self) -> list[tuple[int, int]]:
        begins = {begin for begin, _ in self._claimed_executable}
        ranges: list[tuple[int, int]] = []
        for begin, end in self._executable_spans:
            # What two headers claim stays apart, even where the one begins as the other ends.
            if ranges and begin == ranges[-1][1] and begin not in begins:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((begin, end))
        return ranges

    @cached_property
    def _executable_spans(self) -> list[tuple[int, int]]:
        """The ranges, each as far as one region of the address space has its bytes."""
        # A relocatable object's sections are cut to what the file holds already.
        claimed = self._claimed_executable
        return claimed if self.is_relocatable else self._held(claimed)

    @cached_property
    def _claimed_executable(self) -> list[tuple[int, int]]:
        """What headers say holds code; ranges that overlap are one."""
        if any(section.alloc for section in self.sections):
            ranges = [
                (section.address, section.end)
                for section in self._alloc_sections
                if section.executable and section.has_bytes
            ]
        else:
            ranges = [
                (segment.address, segment.address + segment.file_size_bytes)
                for segment in self.segments
                if segment.type == PT_LOAD and segment.flags & PF_X
            ]
        top = self._top - 1
        merged: list[tuple[int, int]] = []
        for begin, end in sorted((begin, min(end, top)) for begin, end in ranges if begin < top):
            if merged and begin < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        return merged

    def _held(self, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Cut ranges, ascending, to the bytes that the file holds.

        No more than twice the file all together: a thousand segments of a hostile file may map
        its bytes a thousand times.
        """
        left = 2 * len(self._data)
        found: list[tuple[int, int]] = []
        spans = self._space.held()
        number = 0
        for begin, end in ranges:
            while number < len(spans) and spans[number][1] <= begin:
                number += 1
            at = number
            while at < len(spans) and spans[at][0] < end and left > 0:
                first = max(spans[at][0], begin)
                last = min(spans[at][1], end, first + left)
                left -= last - first
                found.append((first, last))
                at += 1
        return found

    def executable_end(self, address: int) -> int | None:
        """Return the end of the executable range that ``address`` lies in; None if in none."""
        ranges = self._executable_ranges
        position = bisect_right(ranges, (address, 1 << 65)) - 1
        if position < 0 or address >= ranges[position][1]:
            return None
        return ranges[position][1]

    # ------------------------------------------------------------------ the dynamic segment

    @cached_property
    def dynamic(self) -> dict[int, int]:
        """Tags and values of the dynamic segment (:mod:`fullframe.elf.dynamic`)."""
        for segment in self.segments:
            if segment.type == PT_DYNAMIC:
                begin = segment.offset
                raw = self._data[begin : begin + segment.file_size_bytes]
                return dyn.read_dynamic(raw, self.elf_bits)
        return {}

    @property
    def got_address(self) -> int | None:
        """Address that the dynamic segment calls the global offset table (``DT_PLTGOT``).

        A relocatable object has none; its relocations are applied as if there were one.
        """
        if self.is_relocatable:
            return layout.GOT_ADDRESS
        value = self.dynamic.get(dyn.DT_PLTGOT)
        if value is None:
            section = self.section(".got.plt") or self.section(".got")
            value = section.address if section is not None else None
        return value

    @property
    def eh_frame_header_address(self) -> int | None:
        """Address of ``.eh_frame_hdr``, from ``PT_GNU_EH_FRAME`` or the section of that name."""
        for segment in self.segments:
            if segment.type == PT_GNU_EH_FRAME and not self.is_relocatable:
                return segment.address
        section = self.section(".eh_frame_hdr")
        return section.address if section is not None else None

    def mapped(self, address: int, size_bytes: int) -> memoryview:
        """Read what the image maps; nothing, with a warning, where it does not."""
        try:
            return self.read(address, size_bytes)
        except AddressError as error:
            self.warnings.append(error)
            return memoryview(b"")

    def read_from(self, address: int) -> memoryview:
        """Read from ``address`` to the end of the file's bytes there."""
        end = self.mapped_end(address)
        if end is None:
            raise AddressError(self.path, address, 1)
        return self.read(address, end - address)

    # ------------------------------------------------------------------ symbols

    @cached_property
    def _symbol_tables(self) -> dict[int, SymbolTable]:
        """Symbol tables by section index; the dynamic segment's has index -1."""
        return symbol_reader.read_symbol_tables(self)

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """Every symbol of every symbol table, ``.symtab`` and ``.dynsym`` alike."""
        return tuple(symbol for table in self._symbol_tables.values() for symbol in table.all())

    @cached_property
    def _functions(self) -> FunctionSymbols:
        return FunctionSymbols(tuple(self._symbol_tables.values()), self._executable_ranges)

    @cached_property
    def _function_symbols(self) -> list[Symbol]:
        return self._functions.all()

    def function_symbols(self) -> list[Symbol]:
        """Return the named places in executable ranges, by address: func, ifunc and notype.

        A symbol that is in both symbol tables comes once.
        """
        return self._function_symbols

    def function_starts(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return where functions begin by the symbols, ascending, and the size of each.

        Those of kind func and ifunc, in executable ranges. Where several begin together, the size
        is that of the one that :meth:`symbol_at` gives.
        """
        return self._functions.starts()

    def function_addresses(self) -> dict[str, int]:
        """Return the addresses of :meth:`function_symbols` by name; the last, of several."""
        return self._functions.addresses()

    def visible_functions(self) -> npt.NDArray[np.uint64]:
        """Return the addresses of functions that other images may call by name, ascending."""
        return self._functions.visible_functions()

    def function_extents(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return the first addresses of functions that have a size, ascending, and their ends."""
        return self._functions.extents()

    def symbol_at(self, address: int) -> Symbol | None:
        """Return the function symbol that covers ``address``, or the nearest one before it.

        In a relocatable object the address of an undefined symbol gives that symbol.
        """
        undefined = self._undefined_at(address)
        if undefined is not None:
            return undefined
        return self._functions.at(address)

    def _undefined_at(self, address: int) -> Symbol | None:
        if not self.is_relocatable:
            return None
        if not layout.UNDEFINED_BASE <= address < layout.UNDEFINED_END:
            return None
        number = (address - layout.UNDEFINED_BASE) // layout.UNDEFINED_STEP
        for table in self._symbol_tables.values():
            symbol = table.symbol(number)
            if symbol is not None:
                return symbol
        return None

    def name_of(self, address: int) -> str:
        """Name an address: ``memcpy``, ``memcpy+0x10``, ``memcpy@plt``, or its :meth:`place`."""
        imported = self.import_at_plt(address)
        if imported is not None:
            return f"{imported}@plt"
        symbol = self.symbol_at(address)
        if symbol is None:
            return self.place(address)
        offset = address - symbol.address
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def function_name(self, address: int) -> str:
        """Name the function that an address lies in, or give its :meth:`place`.

        Other than :meth:`name_of`, never by a symbol that ends before the address: in a stripped
        library that is another function. The separate debug file is asked as well.
        """
        for at in (self.symbol_at, self._debug_functions.at):
            symbol = at(address)
            if symbol is not None:
                offset = address - symbol.address
                if offset == 0:
                    return symbol.name
                if 0 < offset < symbol.size_bytes:
                    return f"{symbol.name}+{offset:#x}"
        return self.place(address)

    @cached_property
    def _debug_functions(self) -> FunctionSymbols:
        """The function symbols of the separate debug file, which holds no code itself."""
        source = self._lines.source
        own = source is None or source is self
        tables = [] if source is None or own else list(source._symbol_tables.values())
        return FunctionSymbols(tables, self._executable_ranges)

    def place(self, address: int) -> str:
        """Render an address: ``.text+0x10`` in a relocatable object, else ``0x401000``."""
        if self.is_relocatable:
            # The address just past a section is the end of its last function.
            section = self.section_at(address) or self.section_at(address - 1)
            if section is not None:
                return f"{section.name}+{address - section.address:#x}"
            undefined = self._undefined_at(address)
            if undefined is not None:
                return undefined.name
        return f"{address:#x}"

    # ------------------------------------------------------------------ relocations

    @cached_property
    def _relocation_reader(self) -> RelocationReader:
        return RelocationReader(self, self._symbol_tables)

    @cached_property
    def relocations(self) -> RelocationTable:
        """Relocations of loaded bytes by the address they change.

        A linked image has those that the loader applies, a relocatable object all of them (they
        are applied to what :meth:`read` gives as far as they can be without a linker).
        """
        return self._relocation_reader.table()

    def plt_relocation_address(self, number: int) -> int | None:
        """Return the address that a PLT relocation changes; None if there is no such relocation.

        Args:
            number: what a lazy PLT stub pushes: the relocation's index on x86-64, its byte
                offset in the table on i386.
        """
        return self._relocation_reader.plt_address(number)

    # ------------------------------------------------------------------ names behind addresses

    def import_at_plt(self, address: int) -> str | None:
        """Name the function that the PLT stub at ``address`` jumps to; None if it is no stub."""
        return self._plt.name_at(address)

    @cached_property
    def _plt(self) -> PltReader:
        return PltReader(self)

    def source_line(self, address: int) -> str | None:
        """Return ``file:line`` for an address, from ``.debug_line``; None if nobody says.

        Looks in the image itself, then in a separate debug file by build ID
        (``/usr/lib/debug/.build-id``).
        """
        return self._lines.at(address)

    @cached_property
    def _lines(self) -> LineReader:
        return LineReader(self)
