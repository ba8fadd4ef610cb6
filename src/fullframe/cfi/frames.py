"""CIEs and FDEs of ``.eh_frame`` and ``.debug_frame``, and the rows they give.

Sources: DWARF 5, section 6.4.1; Linux Standard Base Core 5.0, sections 10.6.1 (``.eh_frame``) and
10.5 (augmentations).
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from functools import cached_property
from operator import itemgetter

from fullframe.cfi import layout
from fullframe.cfi.encoding import (
    DW_EH_PE_INDIRECT,
    DW_EH_PE_OMIT,
    Bases,
    MalformedError,
    read_pointer,
    read_uleb128,
    read_value,
)
from fullframe.cfi.problems import FrameProblem
from fullframe.cfi.program import Interpreter, Pool, Position, Program
from fullframe.cfi.rules import RelativeRow, Row
from fullframe.elf.image import Image
from fullframe.elf.sections import Section
from fullframe.errors import InputError

#: The encoding that compilers use everywhere, read on a path of its own.
_PCREL_SDATA4 = 0x1B
_NOT_ZERO = re.compile(rb"[^\0]")
#: Problems of one section that are listed; a hostile file could have millions.
_MOST_PROBLEMS = 1000


_delta = itemgetter(0)


class Cie:
    """A common information entry.

    Attributes:
        offset: where it starts in its section, in bytes.
        section: the section's name.
        version: 1, 3 or 4.
        augmentation: its augmentation string.
        code_alignment: factor of location advances, in bytes.
        data_alignment: factor of offsets, in bytes.
        return_register: DWARF number of the column that holds the return address.
        address_size_bytes: size of a pointer.
        fde_pointer_encoding: ``DW_EH_PE_*`` of the FDEs' addresses (absolute without ``R``).
        lsda_encoding: ``DW_EH_PE_*`` of the FDEs' LSDA pointers; ``DW_EH_PE_OMIT`` without ``L``.
        personality: address of the personality routine, or of the word that holds it where
            :attr:`personality_is_indirect`; None without ``P``.
        personality_is_indirect: see :attr:`personality`.
        is_signal_frame: ``S``: the return address is that of the next instruction to run, not
            one behind a call.
        instructions: the initial instructions.
        initial_row: what they say, at address 0.
    """

    __slots__ = (
        "address_size_bytes", "augmentation", "code_alignment", "data_alignment",
        "fde_pointer_encoding", "has_augmentation_data", "initial_row", "instructions",
        "interpreter", "is_signal_frame", "lsda_encoding", "offset", "personality",
        "personality_is_indirect", "return_register", "section", "segment_size_bytes", "version",
    )  # fmt: skip

    def __init__(
        self, offset: int, section: str, fields: layout.CieFields, pool: Pool | None = None
    ) -> None:
        self.offset = offset
        self.section = section
        self.version = fields.version
        self.augmentation = fields.augmentation
        self.code_alignment = fields.code_alignment
        self.data_alignment = fields.data_alignment
        self.return_register = fields.return_register
        self.address_size_bytes = fields.address_size_bytes
        self.segment_size_bytes = fields.segment_size_bytes
        self.has_augmentation_data = fields.augmentation.startswith("z")
        self.fde_pointer_encoding = fields.fde_pointer_encoding
        self.lsda_encoding = fields.lsda_encoding
        self.personality = fields.personality
        self.personality_is_indirect = bool(fields.personality_encoding & DW_EH_PE_INDIRECT)
        self.is_signal_frame = "S" in fields.augmentation
        self.instructions = fields.instructions
        self.interpreter = Interpreter(
            fields.code_alignment,
            fields.data_alignment,
            fields.address_size_bytes,
            fields.fde_pointer_encoding,
            fields.instructions,
            pool,
        )
        _, cfa, registers, args_size = self.interpreter.initial.rows[-1]
        self.initial_row = Row(0, cfa, registers, args_size)

    def __repr__(self) -> str:
        return f"<Cie {self.section}+{self.offset:#x} {self.augmentation!r}>"


class Fde:
    """A frame description entry: the rows of one run of addresses, mostly a function.

    Attributes:
        offset: where it starts in its section, in bytes.
        cie: its CIE.
        begin: first address.
        end: first address after it.
        lsda: address of the language-specific data; None without.
    """

    __slots__ = ("_first", "_last", "_table", "begin", "cie", "end", "lsda", "offset")

    def __init__(
        self,
        offset: int,
        cie: Cie,
        begin: int,
        end: int,
        lsda: int | None,
        first: int,
        last: int,
        table: FrameTable,
    ) -> None:
        self.offset = offset
        self.cie = cie
        self.begin = begin
        self.end = end
        self.lsda = lsda
        self._first = first
        self._last = last
        self._table = table

    def __repr__(self) -> str:
        return f"<Fde {self.section}+{self.offset:#x} {self.begin:#x}..{self.end:#x}>"

    @property
    def section(self) -> str:
        """Name of the section it is in."""
        return self.cie.section

    @property
    def instructions(self) -> bytes:
        """Its call-frame instructions, padding included."""
        return self._table.data[self._first : self._last]

    @property
    def instructions_offset(self) -> int:
        """Where the instructions start in the section, in bytes."""
        return self._first

    @property
    def begins_as_cie(self) -> bool:
        """Whether the first row is the CIE's initial one, as far as a glance tells.

        (``DW_CFA_advance_loc`` comes before any other instruction, or there is only padding.)
        """
        data, first, last = self._table.data, self._first, self._last
        if first < last and data[first]:
            return 0x40 < data[first] < 0x80
        return data.count(0, first, last) == last - first

    def program(self) -> Program:
        """Interpret the instructions; mostly one object for all FDEs with the same bytes."""
        table = self._table
        code = table.data[self._first : self._last]
        interpreter = self.cie.interpreter
        # Kept there, within bounds: a hundred thousand FDEs that each kept their own would not be.
        known = interpreter.known.get(code)
        if known is not None:
            return known
        return interpreter.run(code, Position(self.begin, table.address + self._first))

    def relative_rows(self) -> tuple[RelativeRow, ...]:
        """Return (address relative to :attr:`begin`, CFA rule, register rules, args_size).

        Rows at or after :attr:`end` are left out (compilers write some exactly there, and
        malformed entries beyond: see :attr:`problems`). FDEs with the same instructions share
        the tuple and everything in it.
        """
        program = self.program()
        rows = program.rows
        if self.holds_all_of(program):
            return rows
        return rows[: max(1, bisect_left(rows, self.end - self.begin, key=_delta))]

    def holds_all_of(self, program: Program) -> bool:
        """Return whether no row but the first of a program, the FDE's, is at or after the end."""
        locations = program.locations
        return locations[-1] < self.end - self.begin or len(locations) == 1

    def rows(self) -> list[Row]:
        """Return the rows, sorted by address, the first at :attr:`begin`."""
        begin = self.begin
        return [
            Row(begin + delta, cfa, registers, args_size)
            for delta, cfa, registers, args_size in self.relative_rows()
        ]

    def row_at(self, address: int) -> Row | None:
        """Return the row in force at ``address``; None outside of the FDE."""
        if not self.begin <= address < self.end:
            return None
        rows = self.program().rows
        position = bisect_right(rows, address - self.begin, key=_delta) - 1
        delta, cfa, registers, args_size = rows[position]
        return Row(self.begin + delta, cfa, registers, args_size)

    @property
    def problems(self) -> tuple[FrameProblem, ...]:
        """What is wrong with the instructions, and rows at or after the end."""
        program = self.program()
        last = program.locations[-1]
        if not program.problems and last <= self.end - self.begin:
            return ()
        found = [
            FrameProblem(
                item.kind, self.section, self._first + item.offset, item.message, self.begin
            )
            for item in program.problems
        ]
        size = self.end - self.begin
        if last > size:
            text = f"the last row is at +{last:#x}, but the entry covers {size:#x} bytes"
            found.append(FrameProblem("rows-past-end", self.section, self.offset, text, self.begin))
        return tuple(found)


class FrameTable:
    """All entries of one section of call-frame information.

    Args:
        image: the image.
        section_name: ``.eh_frame`` or ``.debug_frame``.
        data: the section's bytes.
        address: of the section; 0 where it is not loaded.
        ends_at_terminator: stop at the first zero terminator, because the size of the section is
            not known.

    Attributes:
        cies: in the order of the file.
        fdes: in the order of the file.
        discarded: FDEs of ``.debug_frame`` whose functions the linker has removed.
        unreadable_count: FDEs that are malformed or whose CIE is (:attr:`problems` says how).
    """

    def __init__(
        self,
        image: Image,
        section_name: str,
        data: bytes,
        address: int,
        ends_at_terminator: bool = False,
    ) -> None:
        self.image = image
        self.section_name = section_name
        self.data = data
        self.address = address
        self.is_eh = not section_name.endswith("debug_frame")
        self.fdes: list[Fde] = []
        self.discarded: list[Fde] = []
        self.unreadable_count = 0
        self._pool = Pool()
        #: Offsets of FDEs whose CIE comes later.
        self._deferred: list[int] = []
        self._ends_at_terminator = ends_at_terminator
        self._scan_problems: list[FrameProblem] = []
        self._problem_count = 0
        self._cies: dict[int, Cie | None] = {}
        self._plain_cies: dict[int, Cie] = {}
        self._mask = (1 << image.elf_bits) - 1
        text = image.section(".text")
        self._bases = Bases(
            section=address,
            text=text.address if text is not None else None,
            data=image.got_address,
            read_word=self._read_word,
        )
        self._scan()

    # ------------------------------------------------------------------ what it holds

    @property
    def cies(self) -> list[Cie]:
        """The CIEs that can be read, in the order of the file."""
        return [cie for _, cie in sorted(self._cies.items()) if cie is not None]

    @cached_property
    def problems(self) -> list[FrameProblem]:
        """What is wrong with the entries, apart from their instructions (see ``Fde.problems``)."""
        found = self._scan_problems + layout.structural_problems(
            self.section_name, self.fdes, self.image.executable_ranges(), _MOST_PROBLEMS
        )
        hidden = self._problem_count - len(self._scan_problems)
        if hidden > 0:
            text = f"{hidden} more problems are not listed"
            found.append(FrameProblem("too-many-problems", self.section_name, 0, text))
        return found

    def all_problems(self) -> list[FrameProblem]:
        """Return the problems of the entries and of all their instructions; decodes everything."""
        found = list(self.problems)
        for cie in self.cies:
            found += [
                FrameProblem(item.kind, self.section_name, cie.offset, item.message)
                for item in cie.interpreter.initial.problems
            ]
        for fde in self.fdes:
            found += fde.problems
            if len(found) > 2 * _MOST_PROBLEMS:
                text = "more problems are not listed"
                found.append(FrameProblem("too-many-problems", self.section_name, 0, text))
                break
        return found

    @cached_property
    def _by_address(self) -> tuple[list[int], list[Fde]]:
        ordered = sorted(self.fdes, key=lambda fde: fde.begin)
        return [fde.begin for fde in ordered], ordered

    def fde_at(self, address: int) -> Fde | None:
        """Return the FDE that covers ``address``, found as an unwinder's binary search does."""
        begins, ordered = self._by_address
        position = bisect_right(begins, address) - 1
        if position < 0 or address >= ordered[position].end:
            return None
        return ordered[position]

    def _problem(self, kind: str, offset: int, message: str, function: int | None = None) -> None:
        self._problem_count += 1
        if len(self._scan_problems) < _MOST_PROBLEMS:
            self._scan_problems.append(
                FrameProblem(kind, self.section_name, offset, message, function)
            )

    def _read_word(self, address: int) -> int:
        return int.from_bytes(self.image.read(address, self.image.address_size_bytes), "little")

    # ------------------------------------------------------------------ reading

    def _scan(self) -> None:
        """Walk the entries; the common form of FDE is read right here, all others by _entry."""
        data, size, address, mask = self.data, len(self.data), self.address, self._mask
        unpack = struct.Struct("<IIiI").unpack_from
        unpack_lsda = struct.Struct("<i").unpack_from
        plain = self._plain_cies.get if self.is_eh else (lambda offset: None)
        append = self.fdes.append
        offset = 0
        while offset + 4 <= size:
            if offset + 24 <= size:
                length, pointer, begin, count = unpack(data, offset)
                cie = plain(offset + 4 - pointer)
                end = offset + 4 + length
                if cie is not None and begin and 0 < count < 0x80000000 and end <= size:
                    augmentation_bytes = data[offset + 16]
                    lsda: int | None = None
                    if augmentation_bytes == 4 and cie.lsda_encoding == _PCREL_SDATA4:
                        (relative,) = unpack_lsda(data, offset + 17)
                        if relative:
                            lsda = (address + offset + 17 + relative) & mask
                    first = offset + 17 + augmentation_bytes
                    if (
                        first <= end
                        and augmentation_bytes in (0, 4)
                        and (not augmentation_bytes or cie.lsda_encoding == _PCREL_SDATA4)
                    ):
                        begin = (address + offset + 8 + begin) & mask
                        append(Fde(offset, cie, begin, begin + count, lsda, first, end, self))
                        offset = end
                        continue
            next_offset = self._entry(offset)
            if next_offset is None:
                break
            offset = next_offset
        if size - 4 < offset < size:
            self._problem("truncated", offset, f"{size - offset} stray bytes at the end")
        for offset in self._deferred:
            frame = layout.read_entry(data, offset, self.is_eh)
            assert frame is not None
            self._fde(offset, frame)
        if self._deferred:
            self.fdes.sort(key=lambda fde: fde.offset)
            self._deferred.clear()

    def _entry(self, offset: int) -> int | None:
        """Read any entry; return where the next one starts, None to stop."""
        try:
            frame = layout.read_entry(self.data, offset, self.is_eh)
        except MalformedError as error:
            self._problem(error.kind, error.offset, error.message)
            return None
        if frame is None:
            return self._terminator(offset)
        if frame.cie_offset is None:
            self._read_cie(offset, frame)
        elif frame.cie_offset > offset and not self.is_eh:
            self._deferred.append(offset)
        else:
            self._fde(offset, frame)
        return frame.end

    def _terminator(self, offset: int) -> int | None:
        """Skip a zero terminator and the padding behind it."""
        if self._ends_at_terminator:
            return None
        more = _NOT_ZERO.search(self.data, offset)
        if more is None:
            return None
        after = offset + max(4, (more.start() - offset) // 4 * 4)
        text = f"a zero terminator, and more entries at {after:#x}"
        self._problem("terminator-in-middle", offset, text)
        return after

    def _read_cie(self, offset: int, frame: layout.Entry) -> None:
        """Read the CIE at an offset; one that cannot be used leaves a problem and None."""
        self._cies[offset] = None
        data = self.data[frame.body : frame.end]
        bases = Bases(self.address + frame.body, self._bases.text, self._bases.data)
        try:
            fields = layout.read_cie(data, self.image.address_size_bytes, bases)
        except MalformedError as error:
            self._problem(error.kind, frame.body + error.offset, error.message)
            return
        cie = self._cies[offset] = Cie(offset, self.section_name, fields, self._pool)
        is_plain = cie.fde_pointer_encoding == _PCREL_SDATA4 and cie.has_augmentation_data
        if is_plain and cie.lsda_encoding in (_PCREL_SDATA4, DW_EH_PE_OMIT):
            self._plain_cies[offset] = cie
        for item in fields.problems:
            self._problem(item.kind, frame.body + item.offset, item.message)

    def _fde(self, offset: int, frame: layout.Entry) -> None:
        """Read an FDE in whatever form its CIE says."""
        cie_offset = frame.cie_offset or 0
        cie = self._cies.get(cie_offset)
        if cie is None:
            self.unreadable_count += 1
            if cie_offset not in self._cies:
                text = f"a CIE pointer that leads to offset {cie_offset:#x}, where there is no CIE"
                self._problem("bad-cie-pointer", offset, text)
            return
        try:
            fde = self._parse_fde(offset, frame, cie)
        except MalformedError as error:
            self.unreadable_count += 1
            self._problem(error.kind, frame.body + error.offset, error.message)
            return
        # Linkers leave 0, 1 or the highest addresses where a function has been removed.
        looks_removed = not self.is_eh and fde.begin in (0, 1, self._mask, self._mask - 1)
        if looks_removed and self.image.executable_end(fde.begin) is None:
            self.discarded.append(fde)
            return
        if fde.begin == fde.end:
            self._problem("empty-range", offset, "an FDE of 0 bytes", fde.begin)
        self.fdes.append(fde)

    def _parse_fde(self, offset: int, frame: layout.Entry, cie: Cie) -> Fde:
        data = self.data[frame.body : frame.end]
        encoding, size_bytes = cie.fde_pointer_encoding, cie.address_size_bytes
        base = self.address + frame.body
        bases = Bases(base, self._bases.text, self._bases.data, None, self._read_word)
        found, at = read_pointer(data, cie.segment_size_bytes, encoding, size_bytes, bases)
        begin = found or 0
        count, at = read_value(data, at, encoding & 0x0F, size_bytes)
        if count < 0:
            raise MalformedError("empty-range", 0, f"an FDE of {count} bytes")
        lsda: int | None = None
        if cie.has_augmentation_data:
            length, at = read_uleb128(data, at)
            if at + length > len(data):
                text = f"augmentation data of {length} bytes, of which {len(data) - at} are there"
                raise MalformedError("truncated", at, text)
            if length and cie.lsda_encoding != DW_EH_PE_OMIT:
                bases = Bases(base, self._bases.text, self._bases.data, begin, self._read_word)
                lsda, _ = read_pointer(data, at, cie.lsda_encoding, size_bytes, bases)
            at += length
        return Fde(offset, cie, begin, begin + count, lsda, frame.body + at, frame.end, self)


def read_frames(image: Image) -> list[FrameTable]:
    """Read every section of call-frame information of an image.

    ``.eh_frame`` and ``.debug_frame`` (compressed ones too); without section headers what
    ``PT_GNU_EH_FRAME`` leads to. What is malformed becomes problems of the tables, not an error.

    Args:
        image: the image.

    Returns:
        A table for each section, in the order of the file; empty if the image has none.
    """
    tables = [_read_section(image, section) for section in _frame_sections(image)]
    # (A separate debug file has the section, but not its bytes.)
    if image.section(".eh_frame") is None and not image.is_relocatable:
        found = layout.find_eh_frame(image)
        if found is not None:
            address, data = found
            tables.append(FrameTable(image, ".eh_frame", data, address, ends_at_terminator=True))
    return tables


def _frame_sections(image: Image) -> list[Section]:
    names = (".eh_frame", ".debug_frame", ".zdebug_frame")
    return [section for section in image.sections if section.name in names and section.has_bytes]


def _read_section(image: Image, section: Section) -> FrameTable:
    name = section.name.replace(".z", ".", 1)
    try:
        data = bytes(section.data)
    except InputError as error:
        table = FrameTable(image, name, b"", 0)
        table._problem("unreadable-section", 0, str(error))
        return table
    return FrameTable(image, name, data, section.address if name == ".eh_frame" else 0)
