"""cfi decode: hand-coded data of every construct, and of real packages, becomes directives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fullframe.cfi.rules import CfaExpression, CfaRegister, Expression, Offset, RegisterRule
from fullframe.cfi.write.compare import RowMap
from fullframe.cfi.write.decode import decode_source
from fullframe.cli.main import main
from fullframe.errors import InputError
from tests.cfi_write.support import need, source

#: A function in the manner of the 2015 i386 vDSO: three pushes, and their CFI in hexadecimal.
I386 = """/* The fast entry. */
\t.text
\t.globl entry
\t.type entry, @function
entry:
.LSTART:
\tpush %ecx
.Lpush_ecx:
\tpush %edx
.Lpush_edx:
\tpush %ebp
.Lenter:
\tmovl %esp, %ebp
\tint $0x80
\tpop %ebp
.Lpop_ebp:
\tpop %edx
.Lpop_edx:
\tpop %ecx
.Lpop_ecx:
\tret
.LEND:
\t.size entry, .-entry

\t.section .eh_frame,"a",@progbits
.LSTARTFRAME:
\t.long .LENDCIE-.LSTARTCIE
.LSTARTCIE:
\t.long 0\t\t\t/* CIE ID */
\t.byte 1\t\t\t/* Version number */
\t.string "zR"\t\t/* NUL-terminated augmentation string */
\t.uleb128 1\t\t/* Code alignment factor */
\t.sleb128 -4\t\t/* Data alignment factor */
\t.byte 8\t\t\t/* Return address register column */
\t.uleb128 1\t\t/* Augmentation value length */
\t.byte 0x1b\t\t/* DW_EH_PE_pcrel|DW_EH_PE_sdata4. */
\t.byte 0x0c, 4, 4\t/* DW_CFA_def_cfa %esp, 4 */
\t.byte 0x88, 1
\t.align 4
.LENDCIE:
\t.long .LENDFDE-.LSTARTFDE
.LSTARTFDE:
\t.long .LSTARTFDE-.LSTARTFRAME
\t.long .LSTART-.
\t.long .LEND-.LSTART
\t.uleb128 0
\t.macro ADVANCE to, from, offset
\t.byte 0x40+(\\to-\\from)
\t.byte 0x0e, \\offset
\t.endm
\tADVANCE .Lpush_ecx, .LSTART, 8
\tADVANCE .Lpush_edx, .Lpush_ecx, 0x0c
\t.byte 0x02, .Lenter-.Lpush_edx, 0x0e, 0x10, 0x85, 4
\t.byte 0x03
\t.short .Lpop_ebp-.Lenter
\t.byte 0x0e, 0x0c, 0xc5
\t.byte 0x04
\t.long .Lpop_edx-.Lpop_ebp
\t.byte 0x0e, 8
\tADVANCE .Lpop_ecx, .Lpop_edx, 4
\t.align 4
.LENDFDE:
\t.previous
\t.globl after
after:\tret
"""

#: A signal trampoline: `S`, expressions, and an FDE that begins one byte before the code.
SIGNAL = """\t.text
\tnop\t/* unwinders look one byte before */
\t.globl sigreturn
sigreturn:
.Lcode:
\tpop %eax
.Lpopped:
\tmovl $119, %eax
\tint $0x80
.Lend:
\t.section .eh_frame,"a",@progbits
.Lcie:
\t.long .Lcie_end-.Lcie_begin
.Lcie_begin:
\t.long 0
\t.byte 1
\t.string "zRS"
\t.byte 1, 0x7c, 8, 1, 0x1b
\t.byte 0x0f, 3, 0x74, 32, 0x06
\t.byte 0x10, 0, 2, 0x74, 48
\t.byte 0x10, 8, 2, 0x74, 60
\t.align 4
.Lcie_end:
\t.long .Lfde_end-.Lfde
.Lfde:
\t.long .Lfde-.Lcie
\t.long .Lcode-1-.
\t.long .Lend-.Lcode+1
\t.byte 0
\t.byte 0x40+(.Lpopped-.Lcode+1)
\t.byte 0x0f, 3, 0x74, 28, 0x06
\t.byte 0x10, 0, 2, 0x74, 44
\t.byte 0x16, 8, 2, 0x74, 56
\t.align 4
.Lfde_end:
"""

X86_64 = """\t.text
\t.globl f
f:
.L0:\tpush %rbx
.L1:\tmov %rsp, %rbp
.L2:\tmov %rdi, %r10
\tnop
.L3:\tpop %rbx
.L4:\tret
.L5:
\t.section .debug_frame,"",@progbits
.Lcie:
\t.4byte .Lcie_end-.Lcie_begin
.Lcie_begin:
\t.4byte 0xffffffff
\t.byte 3
\t.asciz ""
\t.uleb128 1
\t.sleb128 -8
\t.uleb128 16
\t.byte 0x0c, 7, 8, 0x90, 1
\t.balign 8
.Lcie_end:
\t.4byte .Lfde_end-.Lfde
.Lfde:
\t.4byte .Lcie
\t.8byte .L0
\t.8byte .L5-.L0
\t.byte 0x41, 0x0e, 16, 0x83, 2
\t.byte 0x02, .L2-.L1, 0x0d, 6, 0x0a, 0x2e, 16
\t.byte 0x02, .L3-.L2, 0x09, 16, 10, 0x07, 12, 0x08, 13, 0x14, 14, 3, 0x11, 15, 0x7e, 0x2e, 0
\t.byte 0x41, 0x0b, 0x12, 7, 0x7f
\t.balign 8
.Lfde_end:
"""


def decoded(text: str, *flags: str) -> str:
    result = decode_source(source(text, *flags))
    assert result.refused == []
    assert result.differences == []
    assert result.functions == result.functions_done > 0
    assert result.boundaries_compared > 0
    return result.new_text


def test_i386_entry_in_hexadecimal() -> None:
    text = decoded(I386, "-m32")
    begin, end = text.index("entry:\n"), text.index("\t.size")
    assert text[begin:end].split("\n") == [
        "entry:",
        ".LSTART:",
        "\t.cfi_startproc",
        "\tpush %ecx",
        "\t.cfi_def_cfa_offset 8",
        ".Lpush_ecx:",
        "\tpush %edx",
        "\t.cfi_def_cfa_offset 12",
        ".Lpush_edx:",
        "\tpush %ebp",
        "\t.cfi_def_cfa_offset 16",
        "\t.cfi_offset %ebp, -16",
        ".Lenter:",
        "\tmovl %esp, %ebp",
        "\tint $0x80",
        "\tpop %ebp",
        "\t.cfi_def_cfa_offset 12",
        "\t.cfi_restore %ebp",
        ".Lpop_ebp:",
        "\tpop %edx",
        "\t.cfi_def_cfa_offset 8",
        ".Lpop_edx:",
        "\tpop %ecx",
        "\t.cfi_def_cfa_offset 4",
        ".Lpop_ecx:",
        "\tret",
        "\t.cfi_endproc",
        ".LEND:",
        "",
    ]
    rest = text[end:]
    assert ".eh_frame" not in rest
    assert ".previous" not in rest
    assert rest.endswith("\t.globl after\nafter:\tret\n")
    assert text.startswith("/* The fast entry. */\n")


def test_signal_trampoline() -> None:
    text = decoded(SIGNAL, "-m32")
    assert "\t.cfi_startproc simple\n\t.cfi_signal_frame\n" in text
    assert (
        ".cfi_escape 0x0f, 0x03, 0x74, 0x20, 0x06 /* CFA = DW_OP_breg4 esp+32, DW_OP_deref */"
        in text
    )
    assert ".cfi_escape 0x10, 0x00, 0x02, 0x74, 0x30 /* eax saved at DW_OP_breg4 esp+48 */" in text
    assert ".cfi_escape 0x16, 0x08, 0x02, 0x74, 0x38 /* eip = DW_OP_breg4 esp+56 */" in text
    # The FDE begins at the nop before the code.
    assert text.index(".cfi_startproc") < text.index("\tnop") < text.index("sigreturn:\n")
    rows = RowMap(source(text, "-m32").assemble().image)
    (fde,) = rows.fdes
    assert fde.cie.is_signal_frame
    assert fde.rows()[-1].cfa is CfaExpression(b"\x74\x1c\x06")
    assert fde.rows()[0].registers[8] is Expression(b"\x74\x3c")


def test_an_fde_that_begins_in_the_fill_before_its_code() -> None:
    """Linux's 32-bit trampolines before 2026: one byte before, in the fill of an alignment."""
    text = SIGNAL.replace("\tnop\t/* unwinders look one byte before */\n",
                          "\tret\n\t.balign 16, 0x90\n")  # fmt: skip
    new = decoded(text, "-m32")
    assert "\tret\n\t.cfi_startproc simple\n" in new
    (fde,) = RowMap(source(new, "-m32").assemble().image).fdes
    assert fde.end - fde.begin == 15 + 8


def test_debug_frame_and_every_rule() -> None:
    text = decoded(X86_64)
    assert text.index(".cfi_sections .debug_frame") < text.index(".cfi_startproc")
    assert "\t.section" not in text
    rows = RowMap(source(text).assemble().image)
    (fde,) = rows.fdes
    assert fde.section == ".debug_frame"
    third = rows.at(fde.begin + 8)
    assert third is not None
    assert third.cfa is CfaRegister(6, 16)
    assert third.registers[16] is RegisterRule(10)
    assert third.registers[15] is Offset(16)
    last = rows.at(fde.end - 1)
    assert last is not None
    assert last.cfa is CfaRegister(7, 8)
    assert last.told() == {3: Offset(-16), 16: Offset(-8)}


def test_personality_and_lsda() -> None:
    text = """\t.text
f:\tpush %rbx
1:\tret
2:
\t.section .gcc_except_table,"a",@progbits
lsda_of_f:\t.byte 0xff, 0xff, 1, 0
\t.section .eh_frame,"a",@progbits
3:\t.long 5f-4f
4:\t.long 0
\t.byte 1
\t.asciz "zPLR"
\t.byte 1, 0x78, 16, 7, 0x9b
\t.long DW.ref.personality-.
\t.byte 0x1b, 0x1b, 0x0c, 7, 8, 0x90, 1
\t.balign 8
5:\t.long 7f-6f
6:\t.long 6b-3b
\t.long f-.
\t.long 2b-f
\t.byte 4
\t.long lsda_of_f-.
\t.byte 0x41, 0x0e, 16
\t.balign 8
7:
"""
    new = decoded(text)
    assert ".cfi_personality 0x9b, DW.ref.personality\n" in new
    assert ".cfi_lsda 0x1b, lsda_of_f\n" in new
    assert ".gcc_except_table" in new


def test_what_has_no_directive_is_refused_with_its_line() -> None:
    # An FDE that begins within an instruction's line, and a row in the middle of a macro.
    text = X86_64.replace("\t.8byte .L0\n", "\t.8byte .L0+1\n").replace(
        "\t.8byte .L5-.L0\n", "\t.8byte .L5-.L0-1\n"
    )
    result = decode_source(source(text))
    assert not result.changed
    assert result.refused[0].line == 5
    assert "expands to several instructions" in result.refused[0].message
    unaligned = X86_64.replace("0x83, 2", "0x83, 2, 0x10, 3, 2, 0x77, 9").replace(
        "\t.sleb128 -8", "\t.sleb128 -2"
    )
    result = decode_source(source(unaligned))
    assert not result.changed
    assert "offsets are counted in units of 8 bytes" in result.refused[0].message
    assert (
        result.refused[0].line == unaligned[: unaligned.index(".4byte .Lfde_end")].count("\n") + 1
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f: ret\n", "no call-frame information written as data"),
        (I386.replace('"zR"', '"zQ"'), "augmentation"),
        (I386.replace(".long .LENDFDE-.LSTARTFDE", ".long 0x7000"), "of which the section holds"),
    ],
)
def test_bad_input(text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        decode_source(source(text, "-m32"))
    assert "test.S" in str(caught.value)


def test_mutated_data_is_not_silently_accepted() -> None:
    """The proof can fail: rows that differ are told apart."""
    good = RowMap(source(decoded(I386, "-m32"), "-m32").assemble().image)
    other = RowMap(source(I386.replace("0x0e, 0x10", "0x0e, 0x14"), "-m32").assemble().image)
    address = good.fdes[0].begin + 3
    one, two = good.at(address), other.at(address)
    assert one is not None
    assert two is not None
    assert not one.same_as(two)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("gcc")
    path = tmp_path / "entry.S"
    path.write_text(I386)
    assert main(["cfi", "decode", str(path), "--json", "--", "-m32"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["changed"], told["differences"], told["refused"]) == (True, [], [])
    assert told["boundaries_compared"] == 9
    assert main(["cfi", "decode", str(path), "--check", "--", "-m32"]) == 1
    assert main(["cfi", "decode", str(path), "--in-place", "--", "-m32"]) == 0
    assert ".cfi_startproc" in path.read_text()
    # Without -m32 its pushes are refused, and the file stays.
    before = path.read_text()
    assert main(["cfi", "decode", str(path), "--in-place"]) == 3
    assert path.read_text() == before


def _both_sections(debug_frame: str) -> str:
    """The 64-bit sample with the same FDE in .debug_frame, without its personality routine."""
    return f"""\t.text
f:\tpush %rbx
1:\tpop %rbx
2:\tret
3:
\t.section .debug_frame,"",@progbits
4:\t.long 6f-5f
5:\t.long -1
\t.byte 1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1
\t.balign 8
6:\t.long 8f-7f
7:\t.long 4b
\t.quad f, 3b-f
{debug_frame}
\t.balign 8
8:
\t.section .eh_frame,"a",@progbits
4:\t.long 6f-5f
5:\t.long 0
\t.byte 1
\t.asciz "zPR"
\t.byte 1, 0x78, 16, 6, 0x9b
\t.long DW.ref.personality-.
\t.byte 0x1b, 0x0c, 7, 8, 0x90, 1
\t.balign 8
6:\t.long 8f-7f
7:\t.long 7b-4b
\t.long f-., 3b-f
\t.byte 0, 0x41, 0x0e, 16, 0x83, 2, 0x41, 0x0e, 8
\t.balign 8
8:
"""


def test_two_sections_of_which_one_has_a_personality() -> None:
    """LuaJIT writes both; only .eh_frame has a personality routine, and it is kept."""
    text = _both_sections("\t.byte 0x41, 0x0e, 16, 0x83, 2, 0x41, 0x0e, 8")
    result = decode_source(source(text))
    assert (result.refused, result.differences) == ([], [])
    assert result.boundaries_compared == 6
    assert ".cfi_sections .debug_frame, .eh_frame\n" in result.new_text
    assert ".cfi_personality 0x9b, DW.ref.personality\n" in result.new_text


def test_two_sections_that_disagree_are_refused() -> None:
    """Directives say the same to both sections."""
    text = _both_sections("\t.byte 0x41, 0x0e, 24, 0x83, 2, 0x41, 0x0e, 8")
    result = decode_source(source(text))
    assert not result.changed
    (refusal,) = result.refused
    assert refusal.line == 11
    assert refusal.message == (
        "f: .debug_frame and .eh_frame do not say the same at .text+0x1; directives write one "
        "thing to both: remove one of the two sections"
    )
