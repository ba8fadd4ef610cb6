"""One line program of ``.debug_line``: its rows, and the names of its files.

Source: DWARF 5, section 6.2; for versions 2 to 4 of the header, DWARF 4, section 6.2.4. What
VLIW machines need (``maximum_operations_per_instruction``) is left out: x86 is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fullframe.errors import EXIT_INPUT, FullframeError

(
    _EXTENDED, _COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE, _SET_COLUMN, _NEGATE_STMT,
    _SET_BASIC_BLOCK, _CONST_ADD_PC, _FIXED_ADVANCE_PC,
) = range(10)  # fmt: skip
_END_SEQUENCE, SET_ADDRESS, _DEFINE_FILE = 1, 2, 3
#: What a field of an entry is: ``DW_LNCT_path`` and ``DW_LNCT_directory_index``.
_PATH, _DIRECTORY_INDEX = 1, 2
_BLOCK, _STRING, _STRP, _UDATA, _STRP_SUP, _LINE_STRP = 0x09, 0x08, 0x0E, 0x0F, 0x1D, 0x1F
_FIXED_BYTES = {0x0B: 1, 0x05: 2, 0x06: 4, 0x07: 8, 0x1E: 16}
_IN_SECTION = {_STRP: ".debug_str", _LINE_STRP: ".debug_line_str"}
#: Of version 2, with nothing in it: its length, version, length of the header, and five bytes.
SMALLEST_UNIT_BYTES = 4 + 2 + 4 + 5
#: A number's bits are 64; some writers pad, none to more than this.
_LONGEST_LEB128_BYTES = 16


class LineProgramError(FullframeError):
    """A line program that cannot be understood; its message says why."""

    exit_code = EXIT_INPUT


class LineRow(NamedTuple):
    """A run of addresses that come from one line.

    Attributes:
        begin: the first address.
        end: the first address after.
        file: its number, as the program counts.
        line: its number; 0 where the program says that there is none.
    """

    begin: int
    end: int
    file: int
    line: int


#: Reads a string in a section of strings, by the section's name and the offset in it.
StringAt = Callable[[str, int], bytes]
#: A name, or where it is. A header may refer to one long string a thousand times, so that only
#: those that are asked for are read.
_Name = bytes | tuple[str, int]


def unit_body(data: bytes | memoryview, offset: int) -> tuple[int, int, int]:
    """Read the initial length of a unit (DWARF 5, section 7.4).

    Args:
        data: the section.
        offset: where the unit begins.

    Returns:
        Where the unit's body begins and ends, and the size of an offset in it in bytes; the end
        may lie beyond the data.

    Raises:
        LineProgramError: not even the length is there.
    """
    length = int.from_bytes(data[offset : offset + 4], "little")
    size_bytes = 4
    if length == 0xFFFFFFFF:
        length = int.from_bytes(data[offset + 4 : offset + 12], "little")
        size_bytes = 8
    begin = offset + (4 if size_bytes == 4 else 12)
    if begin > len(data):
        raise LineProgramError("a unit without its length")
    return begin, begin + length, size_bytes


class LineProgram:
    """The line program of one unit.

    Args:
        unit: the bytes of the unit, from its initial length on.
        string_at: reads names that the header keeps in other sections.

    Raises:
        LineProgramError: malformed, or of an unknown version.
    """

    def __init__(self, unit: bytes, string_at: StringAt) -> None:
        self._string_at = string_at
        self._unit = unit
        begin, end, self._offset_bytes = unit_body(unit, 0)
        if end > len(unit):
            raise LineProgramError("a unit that is cut off")
        self._at = begin
        self._end = end
        self._version = version = self._fixed(2)
        if not 2 <= version <= 5:
            raise LineProgramError(f"version {version}")
        if version == 5:
            self._fixed(2)  # the sizes of an address and of a segment selector
        header_bytes = self._fixed(self._offset_bytes)
        self._begin = self._at + header_bytes
        self._instruction_bytes = self._fixed(1)
        if version >= 4:
            self._fixed(1)  # operations an instruction
        self._fixed(1)  # whether a row begins a statement
        self._line_base = (self._fixed(1) ^ 0x80) - 0x80
        self._line_range = self._fixed(1)
        self._opcode_base = self._fixed(1)
        if not self._line_range or not self._opcode_base:
            raise LineProgramError("a line range or opcode base of 0")
        self._operands = [0] + [self._fixed(1) for _ in range(self._opcode_base - 1)]
        self._directories: list[_Name] = []
        self._files: list[tuple[_Name, int]] = []
        if version == 5:
            self._directories = [name for name, _ in self._entries()]
            self._files = self._entries()
        else:
            while name := self._string():
                self._directories.append(name)
            while name := self._string():
                self._add_file(name)

    # ------------------------------------------------------------------ the header

    def _fixed(self, size_bytes: int) -> int:
        begin = self._at
        self._skip(size_bytes)
        return int.from_bytes(self._unit[begin : self._at], "little")

    def _skip(self, size_bytes: int) -> None:
        self._at += size_bytes
        if self._at > self._end:
            raise LineProgramError("a header that runs past its end")

    def _unsigned(self) -> int:
        value, self._at = _uleb128(self._unit, self._at, self._end)
        return value

    def _string(self) -> bytes:
        end = self._unit.find(b"\0", self._at, self._end)
        if end < 0:
            raise LineProgramError("a name without an end")
        name = self._unit[self._at : end]
        self._at = end + 1
        return name

    def _add_file(self, name: bytes) -> None:
        """Take an entry of versions 2 to 4, whose name has been read."""
        self._files.append((name, self._unsigned()))
        self._unsigned()  # when it was modified
        self._unsigned()  # its size

    def _entries(self) -> list[tuple[_Name, int]]:
        """Read (name, number of the directory) of version 5 (section 6.2.4.1)."""
        fields = [(self._unsigned(), self._unsigned()) for _ in range(self._fixed(1))]
        count = self._unsigned()
        # Otherwise entries take no bytes, and a count costs nothing.
        if not fields and count:
            raise LineProgramError("entries without a field")
        entries = []
        for _ in range(count):
            name: _Name = b""
            directory = 0
            for content, form in fields:
                value = self._field(form)
                if content == _PATH and not isinstance(value, int):
                    name = value
                elif content == _DIRECTORY_INDEX and isinstance(value, int):
                    directory = value
            entries.append((name, directory))
        return entries

    def _field(self, form: int) -> _Name | int:
        """Read one field in one of the forms that section 6.2.4.1 allows."""
        if form in _FIXED_BYTES:
            return self._fixed(_FIXED_BYTES[form])
        if form == _UDATA:
            return self._unsigned()
        if form == _STRING:
            return self._string()
        if form in _IN_SECTION:
            return _IN_SECTION[form], self._fixed(self._offset_bytes)
        if form == _STRP_SUP:
            self._skip(self._offset_bytes)  # in a file of its own
            return b"?"
        if form == _BLOCK:
            self._skip(self._unsigned())
            return b""
        raise LineProgramError(f"a field of form {form:#x}")

    def file_name(self, number: int) -> str:
        """Return the name of a file with its directory; ``?`` where there is no such file.

        Bytes that are not UTF-8 come back as escapes.
        """
        # Versions 2 to 4 count files and directories from 1, and directory 0 is the unit's own.
        first = 0 if self._version == 5 else 1
        if not 0 <= number - first < len(self._files):
            return "?"
        file, directory = self._files[number - first]
        name = self._text(file)
        if not name.startswith("/") and 0 <= directory - first < len(self._directories):
            name = f"{self._text(self._directories[directory - first])}/{name}"
        return name

    def _text(self, name: _Name) -> str:
        plain = name if isinstance(name, bytes) else self._string_at(*name)
        return plain.decode("utf-8", "backslashreplace")

    # ------------------------------------------------------------------ the program

    def rows(self, most: int) -> list[LineRow]:
        """Run the program.

        Args:
            most: how many rows it may have; each byte of a program can make one.

        Returns:
            Its rows, sorted; without those that cover no byte.

        Raises:
            LineProgramError: it runs past its end, or has more rows.
        """
        try:
            return sorted(self._run(most))
        except IndexError:
            raise LineProgramError("a program that runs past its end") from None

    def _run(self, most: int) -> list[LineRow]:
        code, at, end = self._unit, self._begin, self._end
        opcode_base, line_base, line_range = self._opcode_base, self._line_base, self._line_range
        instruction_bytes = self._instruction_bytes
        rows: list[LineRow] = []
        address, file, line = 0, 1, 1
        # Of the row before, in the same sequence: its end is where the next one begins.
        begin, begin_file, begin_line = None, 1, 1
        while at < end:
            opcode = code[at]
            at += 1
            ends = False
            if opcode >= opcode_base:
                advance, step = divmod(opcode - opcode_base, line_range)
                address += advance * instruction_bytes
                line += line_base + step
            elif opcode == _EXTENDED:
                size_bytes, body = _uleb128(code, at, end)
                at = body + size_bytes
                if at > end:
                    raise LineProgramError("an instruction that runs past the program's end")
                what = code[body] if size_bytes else None
                if what == SET_ADDRESS and size_bytes <= 9:
                    address = int.from_bytes(code[body + 1 : at], "little")
                elif what == _DEFINE_FILE:
                    self._at = body + 1
                    self._add_file(self._string())
                ends = what == _END_SEQUENCE
                if not ends:
                    continue
            elif opcode != _COPY:
                if opcode == _CONST_ADD_PC:
                    address += (255 - opcode_base) // line_range * instruction_bytes
                elif opcode == _FIXED_ADVANCE_PC:
                    address += code[at] | code[at + 1] << 8
                    at += 2
                elif opcode == _ADVANCE_LINE:
                    step, at = _sleb128(code, at, end)
                    line += step
                else:
                    value = 0
                    for _ in range(self._operands[opcode]):
                        value, at = _uleb128(code, at, end)
                    if opcode == _ADVANCE_PC:
                        address += value * instruction_bytes
                    elif opcode == _SET_FILE:
                        file = value
                continue
            if begin is not None and address > begin:
                if len(rows) == most:
                    raise LineProgramError(f"more than {most} rows")
                rows.append(LineRow(begin, address, begin_file, begin_line))
            if ends:
                address, file, line = 0, 1, 1
                begin = None
            else:
                begin, begin_file, begin_line = address, file, line
        return rows


def _uleb128(data: bytes, offset: int, end: int) -> tuple[int, int]:
    """Return an unsigned number and the offset after it (DWARF 5, section 7.6)."""
    value = shift = 0
    for at in range(offset, min(end, offset + _LONGEST_LEB128_BYTES)):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
    raise LineProgramError("a LEB128 number without an end")


def _sleb128(data: bytes, offset: int, end: int) -> tuple[int, int]:
    """Return a signed number and the offset after it (DWARF 5, section 7.6)."""
    value, at = _uleb128(data, offset, end)
    sign = 1 << (7 * (at - offset) - 1)
    return (value ^ sign) - sign, at
