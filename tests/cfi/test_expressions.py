"""Expressions: decoded, rendered, and evaluated like the unwinder of libgcc does it."""

from __future__ import annotations

import random
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullframe.cfi.expressions import (
    ExpressionError,
    IntegerReader,
    decode_expression,
    evaluate,
    expression_text,
    fold,
)
from fullframe.cfi.frames import read_frames
from fullframe.cfi.rules import CfaRegister
from fullframe.elf.image import Image
from fullframe.x86.registers import I386, X86_64
from tests.cfi.samples import compiled
from tests.cfi.writer import sleb, uleb

PLT = bytes.fromhex("77 08 80 00 3f 1a 3b 2a 33 24 22")
MACHINES = {64: X86_64, 32: I386}


def number(code: bytes, stack=(), registers=None, memory=None, bits=64, **options) -> int:
    reader = IntegerReader(bits, registers or {}, lambda at, size: (memory or {})[at, size])
    return evaluate(code, MACHINES[bits], list(stack), reader, **options)


def test_plt_stub():
    """ld's stubs: one more word is on the stack from the eleventh of sixteen bytes on."""
    assert [number(PLT, registers={7: 0x1000, 16: 0x26010 + at}) for at in (0, 10, 11, 15)] == [
        0x1008, 0x1008, 0x1010, 0x1010,
    ]  # fmt: skip
    assert expression_text(PLT, X86_64) == (
        "DW_OP_breg7 rsp+8, DW_OP_breg16 rip+0, DW_OP_lit15, DW_OP_and, DW_OP_lit11, DW_OP_ge, "
        "DW_OP_lit3, DW_OP_shl, DW_OP_plus"
    )


def test_signal_frame():
    """glibc's __restore_rt: everything lies at an offset from rsp."""
    assert number(b"\x77\xa0\x01\x06", registers={7: 0x1000}, memory={(0x10A0, 8): 0x7FFE}) == (
        0x7FFE
    )


def test_realigned_stack():
    """GCC saves the address of the arguments below the frame pointer: CFA = [rbp-8]."""
    assert number(b"\x76\x78\x06", registers={6: 0x1000}, memory={(0xFF8, 8): 0x5000}) == 0x5000


@pytest.mark.parametrize(
    ("code", "stack", "result"),
    [
        (b"\x08\xff", (), 255),
        (b"\x09\xff", (), (1 << 64) - 1),
        (b"\x0a\xff\xff", (), 0xFFFF),
        (b"\x0b\xfe\xff", (), (1 << 64) - 2),
        (b"\x0c" + struct.pack("<I", 0x80000000), (), 0x80000000),
        (b"\x0d" + struct.pack("<i", -5), (), (1 << 64) - 5),
        (b"\x0e" + struct.pack("<Q", 1 << 63), (), 1 << 63),
        (b"\x0f" + struct.pack("<q", -1), (), (1 << 64) - 1),
        (b"\x10" + uleb(1 << 40), (), 1 << 40),
        (b"\x11" + sleb(-3), (), (1 << 64) - 3),
        (b"\x03" + struct.pack("<Q", 0x401000), (), 0x401000),
        (b"\x92\x06\x7f", (), 0x1FFF),
        (b"\x12\x22", (7,), 14),
        (b"\x13", (1, 2), 1),
        (b"\x14", (1, 2), 1),
        (b"\x15\x02", (1, 2, 3), 1),
        (b"\x16", (1, 2), 1),
        (b"\x17", (1, 2, 3), 2),
        (b"\x17\x13\x13", (1, 2, 3), 3),
        (b"\x19", ((1 << 64) - 7,), 7),
        (b"\x1f", (7,), (1 << 64) - 7),
        (b"\x20", (0,), (1 << 64) - 1),
        (b"\x23" + uleb(300), (8,), 308),
        (b"\x96", (8,), 8),
        (b"\x2f\x01\x00\x13", (8, 9), 9),
        (b"\x31\x28\x01\x00\x13", (8, 9), 9),
        (b"\x30\x28\x01\x00\x13", (8, 9), 8),
        (b"\x94\x01", (0x100,), 0xAB),
        (b"\x94\x08", (0x100,), 0xCD),
    ],
)
def test_operations(code, stack, result):
    memory = {(0x100, 1): 0xAB, (0x100, 8): 0xCD}
    assert number(code, stack, {6: 0x2000}, memory) == result


def test_a_backward_branch_may_loop():
    # 5, then: subtract 1 (lit1 minus), dup, branch back while not zero.
    code = b"\x35" + b"\x31\x1c\x12\x28" + struct.pack("<h", -6)
    assert number(code) == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"", "leaves nothing"),
        (b"\x13\x13", "finds the stack empty"),
        (b"\x22", "DW_OP_plus at byte 0 finds the stack empty"),
        (b"\x15\x09", "finds the stack empty"),
        (b"\x2f\xfd\xff", "more than 4096 steps"),
        (b"\x30\x2f\x01\x00\x08\x01", "into the middle"),
        (b"\x2f\xff\x7f", "out of the expression"),
        (b"\x12" * 70, "stack of more than 64"),
        (b"\x08", "DW_OP_const1u at byte 0: 1 bytes needed"),
        (b"\x10\x80", "runs past its end"),
        (b"\xff", "unknown operation 0xff"),
        (b"\x00", "unknown operation 0x00"),
        (b"\x53", "DW_OP_reg3 at byte 0, which has no meaning"),
        (b"\x9f", "DW_OP_stack_value"),
        (b"\x98\x00\x00", "DW_OP_call2"),
        (b"\x94\x03", "DW_OP_deref_size of 3 bytes"),
        (b"\x30\x1b", "division by zero"),
        (b"\x30\x1d", "division by zero"),
        (b"\x73\x00", "DWARF register 3 is not known"),
        (b"\x96" * 70000, "70000 bytes"),
    ],
)
def test_what_cannot_be_evaluated(code, reason):
    stack = [] if code in (b"", b"\x13\x13", b"\x22") else [8]
    with pytest.raises(ExpressionError) as caught:
        number(code, stack)
    assert reason in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_branch_on_what_is_not_known():
    class Unknown(IntegerReader):
        def truth(self, value):
            return None

    with pytest.raises(ExpressionError, match="depends on a value that is not known"):
        evaluate(b"\x28\x00\x00", X86_64, [1, 2], Unknown(64, {}, lambda at, size: 0))


def test_addresses_of_x32_have_four_bytes():
    memory = {(0x401000, 4): 7}
    code = b"\x03" + struct.pack("<I", 0x401000) + b"\x06"
    assert number(code, memory=memory, address_size_bytes=4) == 7


def test_text_of_what_cannot_be_decoded():
    assert expression_text(b"\x08", X86_64) == (
        "<DW_OP_const1u at byte 0: 1 bytes needed, the data ends before: 08>"
    )
    assert expression_text(b"\x92\x06\x10\x53", X86_64) == "DW_OP_bregx rbp+16, DW_OP_reg3 rbx"
    assert expression_text(b"\xa3\x01\x53", X86_64) == "DW_OP_entry_value 53"


def test_decoding_keeps_places():
    first, second = decode_expression(b"\x77\x88\x01\x06", 8)
    assert (first.offset, first.end, first.name, first.operands) == (0, 3, "breg7", (136,))
    assert (second.offset, second.end, second.name) == (3, 4, "deref")


@given(st.binary(max_size=64), st.lists(st.integers(0, (1 << 64) - 1), max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_number_or_our_error(code, stack):
    reader = IntegerReader(64, dict.fromkeys(range(17), 0x1000), lambda at, size: at & 0xFF)
    expression_text(code, X86_64)
    try:
        value = evaluate(code, X86_64, stack, reader)
    except ExpressionError:
        return
    assert 0 <= value < 1 << 64


# ---------------------------------------------------------------------------- against libgcc

_PROGRAM = """
#include <stdio.h>
#include <unwind.h>
static int depth;
static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *unused)
{
    /* 0 is record, 1 the stub, 2 its caller, whose rbx the stub's rule gives. */
    if (depth++ == 2) printf("%llu\\n", (unsigned long long)_Unwind_GetGR(context, 3));
    return _URC_NO_REASON;
}
void record(void) { depth = 0; _Unwind_Backtrace(frame, 0); }
"""

_STUB = """
__asm__(".text\\nstub{number}:\\n.cfi_startproc\\n.cfi_escape {code}\\n"
        "sub ${pad}, %{sp}\\n.cfi_adjust_cfa_offset {pad}\\ncall record\\n"
        "add ${pad}, %{sp}\\n.cfi_adjust_cfa_offset -{pad}\\nret\\n.cfi_endproc");
void stub{number}(void);
"""


def random_expression(source: random.Random) -> bytes:
    """An expression that libgcc can evaluate (it aborts on all others)."""
    constants = [
        lambda: bytes([0x30 + source.randrange(32)]),
        lambda: b"\x09" + struct.pack("<b", source.randrange(-128, 128)),
        lambda: b"\x0d" + struct.pack("<i", source.randrange(-(1 << 31), 1 << 31)),
        lambda: b"\x10" + uleb(source.getrandbits(31)),
        lambda: b"\x11" + sleb(source.randrange(-(1 << 30), 1 << 30)),
    ]
    code = source.choice(constants)()
    depth = 2  # the CFA and the constant; only what lies above the CFA may be used
    for _ in range(source.randrange(1, 14)):
        kind = source.randrange(6)
        if kind == 0 or depth < 3:
            code += source.choice(constants)()
            depth += 1
        elif kind == 1:  # and or plus minus mul xor eq ge gt le lt ne
            code += bytes([source.choice(b"\x1a\x21\x22\x1c\x1e\x27\x29\x2a\x2b\x2c\x2d\x2e")])
            depth -= 1
        elif kind == 2:  # div, mod, shl, shr, shra by a small number
            code += bytes([0x31 + source.randrange(31), source.choice(b"\x1b\x1d\x24\x25\x26")])
        elif kind == 3:  # abs neg not nop
            code += bytes([source.choice(b"\x19\x1f\x20\x96")])
        elif kind == 4:
            code += source.choice([b"\x12", b"\x14", b"\x15\x01"])
            depth += 1
        else:  # a branch over something that leaves the depth as it is
            skipped = source.choice([b"\x1f", b"\x31\x22", b"\x16"])
            code += b"\x12\x28" + struct.pack("<h", len(skipped)) + skipped
    return code


@pytest.mark.parametrize("bits", [64, 32])
def test_numbers_of_libgcc(bits):
    source = random.Random(f"libgcc {bits}")
    codes = [random_expression(source) for _ in range(200)]
    text = _PROGRAM
    for index, code in enumerate(codes):
        rule = b"\x16\x03" + uleb(len(code)) + code
        stub = _STUB.replace("{number}", str(index)).replace("{sp}", "rsp" if bits == 64 else "esp")
        stub = stub.replace("{pad}", "8" if bits == 64 else "12")
        text += stub.replace("{code}", ",".join(str(byte) for byte in rule))
    calls = "".join(f"stub{index}();" for index in range(len(codes)))
    text += f"int main(void) {{ {calls} return 0; }}\n"
    path = compiled(text, "-O1", f"-m{bits}", "-fno-pie", "-no-pie", "-fasynchronous-unwind-tables")
    done = subprocess.run([path], capture_output=True, text=True, check=True)
    expected = [int(line) & ((1 << bits) - 1) for line in done.stdout.split()]
    assert len(expected) == len(codes)
    ours = [number(code, stack=[0x7FFD_0000_1000], bits=bits) for code in codes]
    for code, our, their in zip(codes, ours, expected, strict=True):
        assert our == their, expression_text(code, MACHINES[bits])


def test_folding_cuts_to_the_word():
    assert fold("plus", (1 << 32) - 1, 1, 32) == 0
    assert fold("shl", 1, 32, 32) == 0
    assert fold("shra", 1 << 31, 40, 32) == (1 << 32) - 1


_AFTER_EXPRESSION = """
#include <stdio.h>
#include <unwind.h>
static int depth; static unsigned long long cfa[4];
static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *unused)
{
    if (depth < 4) cfa[depth] = _Unwind_GetCFA(context);
    depth++;
    return _URC_NO_REASON;
}
void record(void) { depth = 0; _Unwind_Backtrace(frame, 0); }
__asm__(".text\\nstub:\\n.cfi_startproc\\n"
        "sub $24, %rsp\\n.cfi_def_cfa_offset {before}\\n"
        /* DW_CFA_def_cfa_expression: rsp+32; */
        ".cfi_escape 0x0f, 2, 0x77, 32\\n"
        "nop\\n{instruction}\\n"
        "lea 8(%rsp), %rax\\n"
        "call record\\n"
        "add $24, %rsp\\nret\\n.cfi_endproc");
void stub(void);
int main(void)
{
    unsigned long long here = (unsigned long long)__builtin_frame_address(0);
    stub();
    /* The context of a frame has the CFA of the one it called: the stub's minus record's. */
    printf("%d %lld\\n", depth, (long long)(cfa[2] - cfa[1]));
    return here == 0;
}
"""


@pytest.mark.parametrize(
    ("before", "instruction"),
    [
        (32, ""),
        # DW_CFA_def_cfa_register rsp: the last offset is used again.
        (32, ".cfi_escape 0x0d, 7"),
        # DW_CFA_def_cfa_offset: the expression stays in force.
        (32, ".cfi_escape 0x0e, 72"),
        # Both: the new offset waits for a register.
        (48, ".cfi_escape 0x0e, 32, 0x0d, 7"),
    ],
)
def test_a_new_register_for_an_expression_in_libgcc(before, instruction):
    """What DWARF calls invalid has a meaning in practice, and our rows have the same."""
    source = _AFTER_EXPRESSION.replace("{before}", str(before))
    source = source.replace("{instruction}", instruction)
    path = compiled(source, "-O0", "-fno-pie", "-no-pie", "-fasynchronous-unwind-tables")
    done = subprocess.run([path], capture_output=True, text=True, check=True)
    depth, distance = map(int, done.stdout.split())
    assert depth >= 3
    assert distance == 32
    image = Image.open(path)
    table = next(table for table in read_frames(image) if table.is_eh)
    stub = next(symbol for symbol in image.symbols if symbol.name == "stub")
    cfa = table.fde_at(stub.address).rows()[-1].cfa
    if isinstance(cfa, CfaRegister):
        assert cfa == CfaRegister(7, 32)
    else:
        assert number(cfa.code, registers={7: 0}) == 32
    assert isinstance(cfa, CfaRegister) == instruction.endswith("0x0d, 7")
