"""What each call-frame instruction does, against DWARF 5, section 6.4.2."""

from __future__ import annotations

import struct

import pytest

from fullframe.cfi.frames import read_frames
from fullframe.cfi.rules import (
    SAME_VALUE,
    UNDEFINED,
    CfaExpression,
    CfaRegister,
    Expression,
    Offset,
    RegisterRule,
    ValExpression,
    ValOffset,
)
from fullframe.elf.image import Image
from tests.cfi import writer as w
from tests.cfi.writer import FrameWriter

BEGIN, SIZE = 0x1000, 0x800
#: After a call: the CFA is rsp+8, the return address lies below it.
CFA = CfaRegister(7, 8)
ENTRY = {16: Offset(-8)}


def table(frames: FrameWriter):
    (found,) = read_frames(Image.from_bytes(frames.elf(), "sample.so"))
    return found


def rows_of(code: bytes, size: int = SIZE, **cie):
    frames = FrameWriter()
    frames.fde(frames.cie(**cie), BEGIN, size, code)
    found = table(frames)
    assert found.all_problems() == []
    (fde,) = found.fdes
    return [(row.address - BEGIN, row.cfa, dict(row.registers)) for row in fde.rows()]


def after(code: bytes, **cie):
    """The CFA and the rules that ``code`` leads to."""
    (_, cfa, registers) = rows_of(code, **cie)[-1]
    return cfa, registers


def test_without_instructions_the_cie_holds_throughout():
    assert rows_of(b"") == [(0, CFA, ENTRY)]


@pytest.mark.parametrize(
    ("code", "delta"),
    [
        (w.advance_loc(1), 1),
        (w.advance_loc(63), 63),
        (w.advance_loc1(200), 200),
        (w.advance_loc2(0x700), 0x700),
        (w.advance_loc4(0x701), 0x701),
        (w.mips_advance_loc8(0x702), 0x702),
    ],
)
def test_advances(code, delta):
    assert rows_of(code + w.def_cfa_offset(16)) == [
        (0, CFA, ENTRY),
        (delta, CfaRegister(7, 16), ENTRY),
    ]


def test_advances_are_scaled_by_the_code_alignment_factor():
    code = w.advance_loc(3) + w.def_cfa_offset(16) + w.advance_loc1(2) + w.def_cfa_offset(24)
    assert [row[0] for row in rows_of(code, code_alignment=4)] == [0, 12, 20]


def test_an_advance_by_zero_makes_no_row():
    assert rows_of(w.advance_loc(0) + w.def_cfa_offset(16)) == [(0, CfaRegister(7, 16), ENTRY)]


def test_set_loc_uses_the_pointer_encoding():
    frames = FrameWriter()
    cie = frames.cie()
    # pcrel sdata4: relative to the operand, which is behind length, CIE pointer, range,
    # augmentation length and opcode.
    operand_at = frames.address + len(frames.data) + 4 + 4 + 8 + 1 + 1
    code = w.set_loc(struct.pack("<i", BEGIN + 0x20 - operand_at)) + w.def_cfa_offset(16)
    frames.fde(cie, BEGIN, SIZE, code)
    found = table(frames)
    assert found.all_problems() == []
    assert [row.address for row in found.fdes[0].rows()] == [BEGIN, BEGIN + 0x20]


def test_equal_bytes_with_set_loc_are_not_shared_between_functions():
    frames = FrameWriter(is_eh=False)
    cie = frames.cie(augmentation="")
    code = w.set_loc(struct.pack("<Q", BEGIN + 0x20)) + w.def_cfa_offset(16)
    frames.fde(cie, BEGIN, 0x40, code)
    frames.fde(cie, BEGIN + 0x10, 0x40, code)
    found = table(frames)
    assert [[row.address for row in fde.rows()] for fde in found.fdes] == [
        [BEGIN, BEGIN + 0x20],
        [BEGIN + 0x10, BEGIN + 0x20],
    ]


@pytest.mark.parametrize(
    ("code", "cfa"),
    [
        (w.def_cfa(6, 16), CfaRegister(6, 16)),
        (w.def_cfa(6, 300), CfaRegister(6, 300)),
        (w.def_cfa_sf(6, -2), CfaRegister(6, 16)),
        (w.def_cfa_register(6), CfaRegister(6, 8)),
        (w.def_cfa_offset(1 << 40), CfaRegister(7, 1 << 40)),
        (w.def_cfa_offset_sf(-3), CfaRegister(7, 24)),
        (w.def_cfa_expression(b"\x77\x08"), CfaExpression(b"\x77\x08")),
        (w.def_cfa_expression(b"\x77\x08") + w.def_cfa(7, 8), CFA),
    ],
)
def test_cfa(code, cfa):
    assert after(code) == (cfa, ENTRY)


def test_padded_leb128():
    assert after(b"\x0e" + w.uleb(16, padding=3)) == (CfaRegister(7, 16), ENTRY)
    assert after(b"\x83" + w.uleb(2, padding=1)) == (CFA, ENTRY | {3: Offset(-16)})


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        (w.offset(3, 2), Offset(-16)),
        (w.offset(3, 200), Offset(-1600)),
        (w.offset_extended(3, 2), Offset(-16)),
        (w.offset_extended_sf(3, -2), Offset(16)),
        (w.gnu_negative_offset_extended(3, 2), Offset(16)),
        (w.val_offset(3, 2), ValOffset(-16)),
        (w.val_offset_sf(3, -2), ValOffset(16)),
        (w.register(3, 12), RegisterRule(12)),
        (w.undefined(3), UNDEFINED),
        (w.same_value(3), SAME_VALUE),
        (w.expression(3, b"\x77\x10"), Expression(b"\x77\x10")),
        (w.val_expression(3, b"\x77\x10"), ValExpression(b"\x77\x10")),
    ],
)
def test_register_rules(code, rule):
    assert after(code) == (CFA, ENTRY | {3: rule})


def test_registers_beyond_the_primary_opcodes():
    assert after(w.offset_extended(130, 2)) == (CFA, ENTRY | {130: Offset(-16)})


def test_restore_brings_back_the_rule_of_the_cie():
    initial = w.def_cfa(7, 8) + w.offset(16, 1) + w.offset(3, 4)
    changed = w.offset(3, 2) + w.offset(6, 3) + w.advance_loc(1)
    for restore in (w.restore, w.restore_extended):
        assert after(changed + restore(3) + restore(6), instructions=initial) == (
            CFA,
            {16: Offset(-8), 3: Offset(-32)},
        )


def test_remember_and_restore_state_nest_and_include_the_cfa():
    code = (
        w.advance_loc(1) + w.def_cfa_offset(16) + w.offset(3, 2) + w.REMEMBER_STATE
        + w.advance_loc(1) + w.def_cfa(6, 32) + w.REMEMBER_STATE
        + w.advance_loc(1) + w.restore(3) + w.def_cfa_expression(b"\x30")
        + w.advance_loc(1) + w.RESTORE_STATE
        + w.advance_loc(1) + w.RESTORE_STATE
    )  # fmt: skip
    pushed = ENTRY | {3: Offset(-16)}
    assert rows_of(code) == [
        (0, CFA, ENTRY),
        (1, CfaRegister(7, 16), pushed),
        (2, CfaRegister(6, 32), pushed),
        (3, CfaExpression(b"\x30"), ENTRY),
        (4, CfaRegister(6, 32), pushed),
        (5, CfaRegister(7, 16), pushed),
    ]


def test_args_size():
    frames = FrameWriter()
    code = w.advance_loc(1) + w.gnu_args_size(32) + w.advance_loc(1) + w.gnu_args_size(0)
    frames.fde(frames.cie(), BEGIN, SIZE, code)
    (fde,) = table(frames).fdes
    assert [row.args_size for row in fde.rows()] == [0, 32, 0]


def test_rows_share_what_does_not_change():
    frames = FrameWriter()
    cie = frames.cie()
    code = w.advance_loc(1) + w.def_cfa_offset(16) + w.offset(3, 2) + w.advance_loc(1)
    for number in range(3):
        frames.fde(cie, BEGIN + number * 16, 16, code + w.def_cfa_offset(24) + bytes([0] * number))
    fdes = table(frames).fdes
    first, second = fdes[0].relative_rows(), fdes[1].relative_rows()
    assert first[1][2] is first[2][2]
    assert first[1][2] is second[1][2]
    assert first[1][1] is second[1][1]


def test_equal_instructions_share_their_rows():
    frames = FrameWriter()
    cie = frames.cie()
    for number in range(2):
        frames.fde(cie, BEGIN + number * 16, 16, w.advance_loc(1) + w.def_cfa_offset(16))
    first, second = table(frames).fdes
    assert first.relative_rows() is second.relative_rows()
    assert first.rows()[1].address + 16 == second.rows()[1].address


def test_changing_a_row_of_one_function_changes_no_other():
    """Sets of rules are shared: an interpreter that changed one in place would be caught here."""
    frames = FrameWriter()
    cie = frames.cie()
    push = w.advance_loc(1) + w.offset(3, 2)
    frames.fde(cie, BEGIN, 16, push)
    frames.fde(cie, BEGIN + 16, 16, push + w.offset(6, 3) + w.restore(16))
    frames.fde(cie, BEGIN + 32, 16, push + w.NOP)
    fdes = table(frames).fdes
    rows = [dict(fde.rows()[-1].registers) for fde in fdes]
    assert rows[0] == rows[2] == {16: Offset(-8), 3: Offset(-16)}
    assert rows[1] == {16: Offset(-8), 3: Offset(-16), 6: Offset(-24)}


def test_a_row_at_the_end_of_the_function_is_left_out():
    code = w.advance_loc(16) + w.def_cfa_offset(16)
    assert rows_of(code, size=16) == [(0, CFA, ENTRY)]


def test_row_at():
    frames = FrameWriter()
    frames.fde(frames.cie(), BEGIN, 16, w.advance_loc(4) + w.def_cfa_offset(16))
    found = table(frames)
    fde = found.fde_at(BEGIN + 5)
    assert found.fde_at(BEGIN - 1) is None
    assert found.fde_at(BEGIN + 16) is None
    assert fde.row_at(BEGIN + 3).cfa is CFA
    assert fde.row_at(BEGIN + 4).cfa is CfaRegister(7, 16)
    assert fde.row_at(BEGIN + 4).address == BEGIN + 4
    assert fde.row_at(BEGIN + 16) is None


def test_i386_numbers():
    frames = FrameWriter(bits=32)
    frames.fde(frames.cie(), BEGIN, 16, w.advance_loc(1) + w.def_cfa_offset(8) + w.offset(5, 2))
    (fde,) = table(frames).fdes
    row = fde.rows()[-1]
    assert row.cfa == CfaRegister(4, 8)
    assert dict(row.registers) == {8: Offset(-4), 5: Offset(-8)}
