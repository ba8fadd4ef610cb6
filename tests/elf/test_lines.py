"""Line programs against pyelftools and against programs written byte by byte; hostile ones."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from fullframe.elf import lines
from fullframe.elf.image import Image
from fullframe.elf.line_program import LineProgram, LineProgramError
from tests.cfi.samples import compiled, library
from tests.elf.writer import EM_386, ElfWriter

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
int g(int);
static int h(int a) { int v[40]; for (int i = 0; i < 40; i++) v[i] = g(i + a); return v[a & 31]; }
__attribute__((cold)) int k(int a) { puts("k"); return g(a)

 + h(a); }
int f(int a) { if (a > 3) abort(); printf("%d", h(a)); return k(a) * 2; }
"""
MOST = 1000
#: One number is no instruction's: opcode 10 of a program whose opcode base is 13.
OPERANDS = bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1])
COPY, ADVANCE_PC, ADVANCE_LINE, SET_FILE = b"\1", b"\2", b"\3", b"\4"
CONST_ADD_PC, FIXED_ADVANCE_PC = b"\x08", b"\x09"
END = b"\0\1\1"


def set_address(address: int, width: int = 8) -> bytes:
    return bytes([0, 1 + width, 2]) + address.to_bytes(width, "little")


def special(address: int, line: int) -> bytes:
    return bytes([13 + address * 14 + line + 5])


OLD_FILES = b"dir\0/abs\0\0" + b"one.c\0\1\0\0" + b"two.c\0\0\0\0" + b"/three.c\0\2\0\0" + b"\0"
#: Two directories and two files, with a field that says when (data16) and one nobody knows (block).
NEW_FILES = (
    b"\1\1\x08" + b"\2" + b"/root\0dir\0"
    + b"\4\1\x08\2\x0b\5\x1e\x7f\x09" + b"\2"
    + b"zero.c\0" + b"\0" + bytes(16) + b"\2xx" + b"one.c\0" + b"\1" + bytes(16) + b"\0"
)  # fmt: skip


def unit(
    code: bytes,
    version: int = 4,
    files: bytes | None = None,
    *,
    wide: bool = False,
    line_range: int = 14,
) -> bytes:
    """Write a unit; an instruction's length is 1, lines step from -5, and 13 is the opcode base."""
    header = b"\1" + (b"\1" if version >= 4 else b"") + b"\1\xfb" + bytes([line_range, 13])
    header += OPERANDS + (files or (NEW_FILES if version == 5 else OLD_FILES))
    body = struct.pack("<H", version) + (b"\x08\0" if version == 5 else b"")
    body += struct.pack("<Q" if wide else "<I", len(header)) + header + code
    length = b"\xff\xff\xff\xff" + struct.pack("<Q", len(body))
    return (length if wide else struct.pack("<I", len(body))) + body


def no_string(section: str, offset: int) -> bytes:
    raise AssertionError(f"{section}+{offset:#x} is not needed")


def rows(code: bytes, version: int = 4, **more) -> list[tuple[int, int, int, int]]:
    return [tuple(row) for row in LineProgram(unit(code, version, **more), no_string).rows(MOST)]


def image_with(debug_line: bytes, *, bits: int = 64, **sections: bytes) -> Image:
    writer = ElfWriter(bits=bits, file_type=3) if bits == 64 else ElfWriter(32, EM_386, 3)
    writer.text(address=0x1000)
    writer.section(".debug_line", debug_line)
    for name, data in sections.items():
        writer.section(f".{name}", data)
    return Image.from_bytes(writer.build(), "sample")


# ---------------------------------------------------------------------------- against pyelftools


def by_pyelftools(path: str) -> dict[int, tuple[list[tuple[int, int, int, int]], list[str]]]:
    """Rows and names of files, by where the unit begins in ``.debug_line``."""
    dwarf = ELFFile(io.BytesIO(Path(path).read_bytes())).get_dwarf_info()
    found = {}
    for cu in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(cu)
        made, before = [], None
        for state in (entry.state for entry in program.get_entries() if entry.state is not None):
            if before is not None and state.address > before.address:
                made.append((before.address, state.address, before.file, before.line))
            before = None if state.end_sequence else state
        first = 0 if program.header["version"] == 5 else 1
        directories = [item.decode() for item in program.header["include_directory"]]
        names = []
        for item in program.header["file_entry"]:
            name, index = item.name.decode(), item.dir_index - first
            if not name.startswith("/") and index >= 0:
                name = f"{directories[index]}/{name}"
            names.append(name)
        offset = cu.get_top_DIE().attributes["DW_AT_stmt_list"].value
        found[offset] = sorted(made), ["?"] * first + names
    return found


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "options",
    [("-O0",), ("-O2",), ("-O2", "-m32"), ("-O2", "-gz=zlib"), ("-O2", "-ffunction-sections")],
    ids=" ".join,
)
def test_programs_like_pyelftools(version, options):
    flags = (f"-gdwarf-{version}", "-fPIC", "-shared", "-nostdlib")
    path = compiled(SOURCE, *options, *flags)
    image = Image.open(path)
    expected = by_pyelftools(path)
    assert expected
    for offset, (made, names) in expected.items():
        program = LineProgram(bytes(image.section(".debug_line").data)[offset:], no_string)
        if version == 5:
            program = LineProgram(
                bytes(image.section(".debug_line").data)[offset:], image._lines._string_at
            )
        assert [tuple(row) for row in program.rows(MOST)] == made
        assert [program.file_name(number) for number in range(len(names))] == names
        for begin, end, number, line in made:
            assert image.source_line(begin) == f"{names[number]}:{line}"
            assert image.source_line(end - 1) == f"{names[number]}:{line}"


# ---------------------------------------------------------------------------- by the standard


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("wide", [False, True])
def test_every_instruction(version, wide):
    code = (
        set_address(0x1000)
        + COPY
        + ADVANCE_PC + b"\x90\0" + ADVANCE_LINE + b"\x7e" + b"\5\7\6\7" + COPY  # 0x1010, line -1
        + SET_FILE + b"\2" + special(2, 4) + b"\x0a\x0b"  # 0x1012, line 3
        + CONST_ADD_PC + b"\x0c\5" + b"\0\2\4\6" + b"\0\0" + COPY  # 0x1023
        + FIXED_ADVANCE_PC + b"\0\1" + END  # 0x1123
        + set_address(0x800) + ADVANCE_LINE + b"\x09" + special(0, 0) + special(3, 1) + END
    )  # fmt: skip
    assert rows(code, version, wide=wide) == [
        (0x800, 0x803, 1, 10),
        (0x1000, 0x1010, 1, 1),
        (0x1010, 0x1012, 1, -1),
        (0x1012, 0x1023, 2, 3),
        (0x1023, 0x1123, 2, 3),
    ]


def test_names_of_files():
    code = b"\0\x0a\3four.c\0\1\0\0" + END
    old = LineProgram(unit(code, 4), no_string)
    old.rows(MOST)
    names = ["?", "dir/one.c", "two.c", "/three.c", "dir/four.c", "?"]
    assert [old.file_name(number) for number in range(6)] == names
    new = LineProgram(unit(END, 5), no_string)
    names = ["/root/zero.c", "dir/one.c", "?"]
    assert [new.file_name(number) for number in range(3)] == names
    assert old.file_name(-1) == new.file_name(-1) == "?"


def test_names_elsewhere_are_read_when_asked_for():
    """A small header that names a long string a thousand times must not hold it as often."""
    files = b"\0\0" + b"\1\1\x1f" + b"\xe8\7" + struct.pack("<I", 3) * 1000
    read = []

    def string_at(section: str, offset: int) -> bytes:
        read.append((section, offset))
        return b"\xff.c"

    program = LineProgram(unit(END, 5, files), string_at)
    assert read == []
    assert program.file_name(999) == "\\xff.c"
    assert read == [(".debug_line_str", 3)]


def test_long_names_are_cut():
    files = b"\0\0" + b"\1\1\x0e\1" + struct.pack("<I", 1)
    code = set_address(0x1000) + SET_FILE + b"\0" + COPY + special(4, 0) + END
    image = image_with(unit(code, 5, files), debug_str=b"\0" + b"x" * 100_000)
    assert image.source_line(0x1000) == "x" * 4096 + ":1"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a unit without its length"),
        (unit(END)[:-1], "a unit that is cut off"),
        (unit(END, 1), "version 1"),
        (unit(END, 6), "version 6"),
        (unit(END, line_range=0), "a line range or opcode base of 0"),
        (unit(END, 5, b"\0\xff\xff\xff\xff\xff\x7f"), "entries without a field"),
        (unit(END, 5, b"\1\1\x08\xff\xff\xff\xff\xff\x7f" + b"x" * 9), "a name without an end"),
        (unit(END, 5, b"\1\1\x09\1\xff\xff\xff\x7f"), "a header that runs past its end"),
        (unit(END, 5, b"\1\1\x19\1"), "a field of form 0x19"),
        (unit(END, 4, b"dir"), None),
        (unit(ADVANCE_PC + b"\x80" * 40), "a LEB128 number without an end"),
        (unit(FIXED_ADVANCE_PC + b"\0"), "a program that runs past its end"),
        (unit(b"\0\5\2"), "an instruction that runs past the program's end"),
    ],
)
def test_malformed_programs(data, message):
    with pytest.raises(LineProgramError) as caught:
        LineProgram(data, no_string).rows(MOST)
    assert message is None or str(caught.value) == message
    assert image_with(unit(sequence(0x1000, 8, 3)) + data).source_line(0x1000) == "dir/one.c:3"


def test_damaged_programs_raise_nothing_else():
    """Every cut, and changed bytes: an answer, or the one error."""
    chance = random.Random(5)
    code = set_address(0x1000) + COPY + special(5, 1) + b"\0\x0a\3four.c\0\1\0\0" + COPY + END
    refused = 0
    for version in (2, 3, 4, 5):
        whole = unit(code, version)
        damaged = [whole[:size] for size in range(len(whole))]
        for _ in range(2000):
            changed = bytearray(whole)
            for _ in range(chance.randrange(1, 4)):
                changed[chance.randrange(4, len(whole))] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
            damaged.append(bytes(changed))
        for data in damaged:
            image_with(data).source_line(0x1003)
            try:
                program = LineProgram(data, lambda section, offset: b"")
                for row in program.rows(MOST):
                    assert row.begin < row.end
                    program.file_name(row.file)
            except LineProgramError:
                refused += 1
    assert refused > 500


# ---------------------------------------------------------------------------- from the address


def sequence(begin: int, size: int, line: int, width: int = 8) -> bytes:
    """One line's addresses; the line is 1 to 8, the size at most 15."""
    return set_address(begin, width) + special(0, line - 1) + special(size, 0) + END


def test_nothing_but_the_line_table_is_read():
    broken = struct.pack("<IIQQ", 1, 0, 5, 1) + b"broken"
    writer = ElfWriter(file_type=3)
    writer.text(address=0x1000)
    for name in (".debug_info", ".debug_abbrev", ".debug_aranges"):
        writer.section(name, broken, flags=0x800)
    writer.section(".debug_line", unit(sequence(0x1000, 8, 3)))
    assert Image.from_bytes(writer.build(), "sample").source_line(0x1007) == "dir/one.c:3"


@pytest.mark.parametrize("bits", [32, 64])
def test_the_sequence_that_covers_an_address(bits):
    width = bits // 8
    table = b"".join(
        unit(sequence(begin, size, line, width))
        for begin, size, line in [(0x1020, 8, 3), (0x1000, 8, 1), (0x1008, 4, 2), (0x1040, 9, 4)]
    )
    image = image_with(table + bytes(6), bits=bits)
    found = {address: image.source_line(address) for address in range(0xFFF, 0x104A)}
    expected = {}
    for begin, end, line in [
        (0x1000, 0x1008, 1), (0x1008, 0x100C, 2), (0x1020, 0x1028, 3), (0x1040, 0x1049, 4)
    ]:  # fmt: skip
        expected |= dict.fromkeys(range(begin, end), f"dir/one.c:{line}")
    assert {address: line for address, line in found.items() if line is not None} == expected
    for address in (-1, 1 << 63, 1 << 64, 1 << 70):
        assert image.source_line(address) is None


def test_bytes_that_only_look_like_an_instruction():
    """Lengths of files that spell ``DW_LNE_set_address`` with a nearer address."""
    fake = set_address(0x1004)
    names = b"dir\0\0" + b"one.c\0\1\0\0" + b"odd\0\1\0" + b"\0\0"
    odd = unit(ADVANCE_LINE + b"\x80" * 3 + b"\0" + b"\0" + bytes([len(fake) + 1, 0x7F]) + fake)
    image = image_with(unit(sequence(0x1000, 8, 3)) + odd + unit(END, 4, names))
    assert len(image._lines._set_addresses[0]) == 2
    assert image.source_line(0x1005) == "dir/one.c:3"


def test_programs_that_overlap():
    """The later one is believed, and the earlier one where the later has nothing to say."""
    image = image_with(unit(sequence(0x1000, 8, 3)) + unit(sequence(0x1000, 4, 5)))
    assert [image.source_line(address)[-1] for address in (0x1000, 0x1003, 0x1004)] == list("553")


def test_the_search_has_a_bound(monkeypatch):
    """A table of nothing but addresses is not run for each address that it does not cover."""
    ran = []
    original = LineProgram.rows
    monkeypatch.setattr(
        LineProgram, "rows", lambda self, most: ran.append(1) or original(self, most)
    )
    table = unit(sequence(0x1000, 8, 3)) + unit(set_address(0x1001) + END) * 1000
    assert image_with(table).source_line(0x1002) is None
    assert len(ran) == lines._MOST_SEQUENCES_TRIED
    table = unit(sequence(0x1000, 8, 3)) + unit(set_address(0x1001) + END) * (len(ran) - 1)
    assert image_with(table).source_line(0x1002) == "dir/one.c:3"


def test_what_is_kept_of_a_hostile_table_is_bounded():
    """By its size: neither what overlaps nor what is too small for a unit is kept."""
    image = image_with(b"\0\x09\2" * 1000 + bytes(8))
    assert len(image._lines._set_addresses[0]) == 3008 // 11
    assert image.source_line((1 << 64) - 1) is None
    image = image_with(bytes(4000) + unit(sequence(0x1000, 8, 3)))
    assert image.source_line(0x1000) == "dir/one.c:3"
    assert image._lines._unit_offsets == [4000]
    # The instruction stands in no unit.
    short = b"\x0b\0\0\0" + set_address(0x1000)
    assert image_with(short).source_line(0x1000) is None


def test_rows_are_bounded(monkeypatch):
    """All programs of an image together; one with too many does not take the others' share."""
    long = set_address(0x1000) + COPY + special(1, 1) * 9 + END
    with pytest.raises(LineProgramError, match="more than 8 rows"):
        LineProgram(unit(long), no_string).rows(8)
    assert len(LineProgram(unit(long), no_string).rows(9)) == 9
    monkeypatch.setattr(lines, "_MOST_ROWS", 4)
    short = [unit(sequence(0x1010 + 8 * number, 8, 3)) for number in range(5)]
    image = image_with(unit(long) + b"".join(short))
    assert image.source_line(0x1000) is None
    found = [image.source_line(0x1010 + 8 * number) for number in range(5)]
    assert found == ["dir/one.c:3"] * 4 + [None]


def test_compressed_tables_that_lie_give_no_line():
    plain = unit(sequence(0x1000, 8, 3))
    for claimed, expected in ((len(plain), "dir/one.c:3"), (1 << 40, None), (9, None)):
        writer = ElfWriter(file_type=3)
        writer.text(address=0x1000)
        packed = struct.pack("<IIQQ", 1, 0, claimed, 1) + zlib.compress(plain)
        writer.section(".debug_line", packed, flags=0x800)
        assert Image.from_bytes(writer.build(), "sample").source_line(0x1000) == expected


def test_a_debug_directory_that_cannot_be_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is no debug file, and no error: nobody asked for that directory."""
    image = Image.open(library("libc"))
    assert lines.build_id(image)
    # Too long a name is refused to root as well, as a directory without permission is to others.
    monkeypatch.setattr(lines, "DEBUG_DIRECTORY", Path("x" * 300))
    assert image.source_line(image.entry) is None
    symbol = image.function_symbols()[0]
    assert image.function_name(symbol.address)
