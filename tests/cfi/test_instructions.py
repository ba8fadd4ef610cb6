"""Lists of call-frame instructions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullframe.cfi.frames import read_frames
from fullframe.cfi.instructions import decode_instructions, instruction_text
from fullframe.elf.image import Image
from fullframe.x86.registers import X86_64
from tests.cfi import writer as w
from tests.cfi.oracles import numbers_of, readelf_instructions
from tests.cfi.samples import C_SOURCE, COMPILED, compiled, library, need
from tests.cfi.test_against_tools import random_program
from tests.cfi.writer import FrameWriter


def cie_of_a_call():
    frames = FrameWriter()
    frames.cie()
    (table,) = read_frames(Image.from_bytes(frames.elf(), "sample.so"))
    return table.cies[0]


def compare(path: str) -> int:
    count = 0
    for table in read_frames(Image.open(path)):
        seen = readelf_instructions(path, table.section_name)
        for entry in [*table.cies, *table.fdes]:
            cie = getattr(entry, "cie", entry)
            ours, problem = decode_instructions(entry.instructions, cie)
            assert problem is None
            assert [numbers_of(item) for item in ours] == seen[entry.offset]
            count += len(ours)
    return count


@pytest.mark.parametrize("name", ["libc", "libm", "libc-i386", "libc-x32"])
def test_of_a_library_like_readelf(name):
    need("readelf")
    assert compare(library(name)) > 1000


@pytest.mark.parametrize("name", ["debug-dwarf64", "i386-push", "x32-eh"])
def test_of_an_object_like_readelf(name):
    need("readelf")
    assert compare(compiled(C_SOURCE, "-c", *COMPILED[name])) > 10


@pytest.mark.parametrize("bits", [64, 32])
def test_random_instructions_like_readelf(bits, tmp_path):
    need("readelf")
    source = random.Random(bits)
    frames = FrameWriter(bits=bits, address=0x100000)
    cies = [frames.cie(), frames.cie(version=3, code_alignment=2, data_alignment=4)]
    for number in range(200):
        code = random_program(source, bits, 512, restores=True)
        frames.fde(source.choice(cies), 0x1000 + number * 512, 512, code)
    path = tmp_path / "random.so"
    path.write_bytes(frames.elf(0x1000, 200 * 512))
    assert compare(str(path)) > 1000


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (w.advance_loc(3), "DW_CFA_advance_loc 3"),
        (w.offset(3, 2), "DW_CFA_offset rbx cfa-16"),
        (w.restore(3), "DW_CFA_restore rbx"),
        (w.register(16, 2), "DW_CFA_register rip rcx"),
        (w.def_cfa(6, 16), "DW_CFA_def_cfa rbp 16"),
        (w.def_cfa_sf(6, -2), "DW_CFA_def_cfa_sf rbp 16"),
        (w.def_cfa_offset_sf(-3), "DW_CFA_def_cfa_offset_sf 24"),
        (w.gnu_negative_offset_extended(3, 2), "DW_CFA_GNU_negative_offset_extended rbx cfa+16"),
        (w.def_cfa_expression(b"\x77\x08"), "DW_CFA_def_cfa_expression (DW_OP_breg7 rsp+8)"),
        (w.val_offset(3, 2), "DW_CFA_val_offset rbx cfa-16"),
        (w.REMEMBER_STATE, "DW_CFA_remember_state"),
        (w.set_loc((0xFF0).to_bytes(4, "little")), "DW_CFA_set_loc 0x1ff1"),
    ],
)
def test_text(code, text):
    (instruction,), problem = decode_instructions(code, cie_of_a_call(), 0x1000)
    assert problem is None
    assert instruction_text(instruction, X86_64) == text


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (b"\x41\x2d", "unknown-instruction", "DW_CFA_GNU_window_save (SPARC;"),
        (b"\x41\x1c", "unknown-instruction", "opcode 0x1c"),
        (b"\x41\x83", "bad-leb128", "DW_CFA_offset: a LEB128"),
        (b"\x41\x03\x01", "truncated", "DW_CFA_advance_loc2: 2 bytes"),
        (b"\x41\x0f\x05\x30", "truncated", "DW_CFA_def_cfa_expression: an expression of 5"),
    ],
)
def test_what_cannot_be_decoded(code, kind, message):
    found, problem = decode_instructions(code, cie_of_a_call())
    assert [item.name for item in found] == ["DW_CFA_advance_loc"]
    assert (problem.kind, problem.offset) == (kind, 1)
    assert message in problem.message


@given(st.binary(max_size=80))
def test_any_bytes(code):
    found, problem = decode_instructions(code, cie_of_a_call())
    reached = found[-1].end if found else 0
    assert (problem is None) == (reached == len(code))
    for instruction in found:
        assert instruction_text(instruction, X86_64).startswith("DW_CFA_")
