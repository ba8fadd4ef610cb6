"""cfi fix writes directives into macros' bodies where every expansion needs the same ones."""

from __future__ import annotations

import pytest

from fullframe.cfi.check import check_image
from fullframe.cfi.write.fix import fix_source
from tests.cfi_write.support import source

SAVE = """.macro SAVE
	push %rbx
	push %r12
.endm
.macro RESTORE count=0
	.if \\count
	add $\\count, %rsp
	.endif
	pop %r12
	pop %rbx
.endm
"""
SAVE_FIXED = """.macro SAVE
	push %rbx
	.cfi_def_cfa_offset 16
	.cfi_offset %rbx, -16
	push %r12
	.cfi_def_cfa_offset 24
	.cfi_offset %r12, -24
.endm
.macro RESTORE count=0
	.if \\count
	add $\\count, %rsp
	.cfi_def_cfa_offset 24
	.endif
	pop %r12
	.cfi_def_cfa_offset 16
	pop %rbx
	.cfi_def_cfa_offset 8
.endm
"""


def function(name: str, *lines: str) -> str:
    body = "".join(f"\t{line}\n" for line in lines)
    return f"\t.globl {name}\n\t.type {name}, @function\n{name}:\n{body}\t.size {name}, .-{name}\n"


USER = function("k", "SAVE", "mov %rdi, %rbx", "call g", "RESTORE", "ret")
OTHER = function("m", "SAVE", "sub $8, %rsp", "call g", "RESTORE 8", "ret")


def assert_right(text: str, *flags: str) -> None:
    """The fixed source has nothing wrong, nothing left to do, and every boundary is proved."""
    made = source(text, *flags)
    report = check_image(made.assemble().image)
    assert report.findings == []
    assert report.proved == report.boundaries > 0
    assert not fix_source(made).changed


@pytest.mark.parametrize("users", [USER, USER + OTHER], ids=["one", "two"])
def test_every_expansion_gets_the_same(users: str) -> None:
    result = fix_source(source(SAVE + users))
    assert (result.refused, result.differences) == ([], [])
    wanted = SAVE_FIXED
    if users is USER:  # nothing is assembled in the condition
        wanted = wanted.replace("\t.cfi_def_cfa_offset 24\n\t.endif", "\t.endif")
    assert result.new_text.startswith(wanted)
    assert_right(result.new_text)


def test_expansions_at_different_depths_are_refused_as_ever() -> None:
    """In one function the macro's pushes go deeper: nothing can be written in the body."""
    deeper = function("d", "sub $16, %rsp", "SAVE", "call g", "RESTORE", "add $16, %rsp", "ret")
    result = fix_source(source(SAVE + USER + deeper))
    assert [item.line for item in result.refused] == [15, 18, 25, 27]
    assert all("expands to several instructions" in item.message for item in result.refused)
    assert result.new_text.startswith(SAVE)


def test_expansion_where_nothing_is_to_be_written() -> None:
    """A function that has its directives would get the macro's on top of them."""
    done = function(
        "d", ".cfi_startproc", "push %rbx", ".cfi_def_cfa_offset 16", ".cfi_offset %rbx, -16",
        "SAVE", ".cfi_def_cfa_offset 32", "RESTORE", ".cfi_def_cfa_offset 16", "pop %rbx",
        ".cfi_def_cfa_offset 8", "ret", ".cfi_endproc",
    )  # fmt: skip
    result = fix_source(source(SAVE + USER + done))
    assert result.refused
    assert SAVE in result.new_text


def test_macro_within_a_macro() -> None:
    text = (
        ".macro ONE register\n\tpush %\\register\n.endm\n"
        ".macro ALL\n\tONE rbx\n\tsub $16, %rsp\n.endm\n"
        + function("k", "ALL", "mov %rdi, %rbx", "add $16, %rsp", "pop %rbx", "ret")
    )
    result = fix_source(source(text))
    assert result.refused == []
    assert result.new_text.startswith(
        ".macro ONE register\n\tpush %\\register\n"
        "\t.cfi_def_cfa_offset 16\n\t.cfi_offset %rbx, -16\n.endm\n"
        ".macro ALL\n\tONE rbx\n\tsub $16, %rsp\n\t.cfi_def_cfa_offset 32\n.endm\n"
    )
    assert_right(result.new_text)


def test_macro_with_a_way_out() -> None:
    """What follows a return within the body goes before the line it concerns."""
    text = ".macro LEAVE_EARLY\n\tjnz 1f\n\tpop %rbx\n\tret\n1:\tnop\n.endm\n" + function(
        "k", "push %rbx", "test %edi, %edi", "LEAVE_EARLY", "pop %rbx", "ret"
    )
    result = fix_source(source(text))
    assert result.refused == []
    assert "\tret\n\t.cfi_def_cfa_offset 16\n1:\tnop\n.endm\n" in result.new_text
    assert_right(result.new_text)


def test_statements_that_share_a_line_of_a_body_are_refused() -> None:
    text = ".macro SAVE\n\tpush %rbx; push %r12\n.endm\n" + function(
        "k", "SAVE", "call g", "pop %r12", "pop %rbx", "ret"
    )
    result = fix_source(source(text))
    (refused,) = result.refused
    assert refused.line == 7
    assert "expands to several instructions" in refused.message


def test_macro_that_is_also_expanded_in_data() -> None:
    text = SAVE + "\t.section .rodata\ntemplate: SAVE\n\t.text\n" + USER
    result = fix_source(source(text))
    assert [item.line for item in result.refused] == [18, 21]
    assert SAVE in result.new_text


def test_i386_and_intel_syntax() -> None:
    text = "\t.intel_syntax noprefix\n.macro SAVE\n\tpush ebx\n\tpush esi\n.endm\n" + function(
        "k", "SAVE", "mov ebx, 5", "pop esi", "pop ebx", "ret"
    )
    result = fix_source(source(text, "-m32"))
    assert result.refused == []
    assert "\tpush ebx\n\t.cfi_def_cfa_offset 8\n\t.cfi_offset ebx, -8\n" in result.new_text
    assert_right(result.new_text, "-m32")
