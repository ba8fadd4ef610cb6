"""A part of a function without CFI is told; functions without any, and fill, are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullframe.cfi.check import check_image
from fullframe.cfi.findings import Finding, Severity
from fullframe.elf.image import Image
from tests.cfi_check.small import assemble

_SHORT = """
    .text
    .globl short
    .type short, @function
short:
    .cfi_startproc
    pushq %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    movq %rdi, %rbx
    {last}
    .cfi_endproc
    {behind}
    .size short, .-short
"""
_REST = "movq %rbx, %rdi\n    call ask\n    popq %rbx\n    ret"


def _findings(text: str, tmp_path: Path) -> list[Finding]:
    note = '    .section .note.GNU-stack,"",@progbits\n'
    return check_image(Image.open(assemble(text + note, tmp_path / "f.o"))).findings


@pytest.mark.parametrize(
    ("last", "place", "target"),
    [
        ("call ask", ".text+0x4", ".text+0x9"),
        ("testq %rdi, %rdi", ".text+0x4", ".text+0x7"),
        ("testq %rdi, %rdi\n    jz 1f\n    ud2", ".text+0x7", ".text+0xb"),
    ],
)
def test_control_that_leaves_an_fde(last: str, place: str, target: str, tmp_path: Path) -> None:
    (finding,) = _findings(_SHORT.format(last=last, behind="1: " + _REST), tmp_path)
    assert (finding.code, finding.place) == ("FF-C013", place)
    assert finding.actual == f"control goes on to {target}, in the same function"
    assert finding.severity is Severity.RETURN_ADDRESS
    assert finding.function == "short"


@pytest.mark.parametrize(
    ("last", "behind"),
    [
        ("call abort", _REST),  # known never to return
        ("call ask", "nop\n    nopl (%rax)\n    int3"),
        ("call ask", ".size short, .-short\nother:\n    " + _REST),  # no code of this function
        ("popq %rbx\n    .cfi_def_cfa_offset 8\n    ret", _REST),
        ("popq %rbx\n    .cfi_def_cfa_offset 8\n    jmp ask", _REST),
        # A new thread comes back from there as well, with no caller.
        ("movl $56, %eax", "syscall\n    " + _REST),
    ],
)
def test_nothing_is_seen_to_leave(last: str, behind: str, tmp_path: Path) -> None:
    text = _SHORT.format(last=last, behind=behind)
    if text.count(".size") == 2:
        text = text[: text.rindex("    .size")]
    assert _findings(text, tmp_path) == []


def test_what_hurts_no_callee(tmp_path: Path) -> None:
    (finding,) = _findings(
        _SHORT.format(last="nopw 1(%rax)\n    testq %rdi, %rdi", behind="ret"), tmp_path
    )
    assert finding.severity is Severity.ASYNCHRONOUS


_LATE = """
    .text
    .globl late
    .type late, @function
late:
    {before}
    .cfi_startproc
    {rows}
    movq %rdi, %rbx
    call ask
    popq %rbx
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size late, .-late
"""


def test_a_procedure_that_begins_late(tmp_path: Path) -> None:
    rows = ".cfi_def_cfa_offset 16\n    .cfi_offset %rbx, -16"
    (finding,) = _findings(_LATE.format(before="pushq %rbx", rows=rows), tmp_path)
    assert (finding.code, finding.place, finding.function) == ("FF-C013", ".text+0x0", "late")
    assert finding.severity is Severity.ASYNCHRONOUS


@pytest.mark.parametrize("before", ["endbr64", "nop"])
def test_a_procedure_behind_a_mark(before: str, tmp_path: Path) -> None:
    rows = "pushq %rbx\n    .cfi_def_cfa_offset 16\n    .cfi_offset %rbx, -16"
    assert _findings(_LATE.format(before=before, rows=rows), tmp_path) == []
