"""The row at a call is looked up while the callee runs: what the call makes false is found there.

Each function is followed in every way that there is: with others together, alone in one pass, and
precisely.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fullframe.cfi.bulk import BulkProver
from fullframe.cfi.check import ImageChecker, check_image
from fullframe.cfi.claims import Answer
from fullframe.cfi.findings import FileReport, Severity
from fullframe.cfi.straight import StraightProver
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.errors import EXIT_FINDINGS
from tests.cfi_check.small import assemble

Check = Callable[..., FileReport]


@pytest.fixture(params=["together", "alone", "precisely"])
def check(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    if request.param != "together":
        monkeypatch.setattr(BulkProver, "proved", lambda *arguments: None)
    if request.param == "precisely":
        monkeypatch.setattr(StraightProver, "prove", lambda *arguments: None)

    def checked(body: str, *, more: str = "", bits: int = 64) -> FileReport:
        return check_image(Image.open(_assembled(body, tmp_path, more=more, bits=bits)))

    return checked


def _assembled(body: str, tmp_path: Path, *, more: str = "", bits: int = 64) -> Path:
    text = (
        "\t.text\n\t.globl f\n\t.type f, @function\nf:\n\t.cfi_startproc\n"
        + _lines(body)
        + "\t.cfi_endproc\n\t.size f, .-f\n"
        + _lines(more)
        + '\t.section .note.GNU-stack,"",@progbits\n'
    )
    return assemble(text, tmp_path / "f.o", bits=bits)


def _lines(text: str) -> str:
    return "".join(f"\t{line.strip()}\n" for line in text.strip().splitlines())


def _found(report: FileReport) -> list[tuple[str, Severity, str]]:
    return [(one.code, one.severity, one.instruction[:4]) for one in report.findings]


_LOST_FRAME = [("FF-C001", Severity.RETURN_ADDRESS, "call")]
_LOST_REGISTER = [("FF-C003", Severity.REGISTER, "call")]

#: GCC's realigned frame: the CFA is in r10, and from before the call on in memory.
_REALIGNED = """
    leaq 8(%rsp), %r10
    .cfi_def_cfa %r10, 0
    andq $-32, %rsp
    pushq -8(%r10)
    pushq %rbp
    movq %rsp, %rbp
    .cfi_escape 0x10,0x6,0x2,0x76,0x0
    pushq %r10
    .cfi_escape 0xf,0x3,0x76,0x78,0x6
    {call}
    movq -8(%rbp), %r10
    .cfi_def_cfa %r10, 0
    leave
    .cfi_restore %rbp
    leaq -8(%r10), %rsp
    .cfi_def_cfa %rsp, 8
    ret
"""
_CALLS = ["call ext", "call *%rax", "call *8(%rdi)"]


@pytest.mark.parametrize("call", _CALLS)
def test_a_realigned_frame(call: str, check: Check) -> None:
    report = check(_REALIGNED.format(call=call))
    assert (report.wrong, report.cannot_tell, report.findings) == (0, 0, [])


@pytest.mark.parametrize("call", _CALLS)
def test_a_realigned_frame_whose_row_comes_behind_the_call(call: str, check: Check) -> None:
    """The directive that matters stands one line too late: only the row of the call is wrong."""
    escape = ".cfi_escape 0xf,0x3,0x76,0x78,0x6\n"
    body = _REALIGNED.format(call=call).replace(escape, "")
    report = check(body.replace(call, f"{call}\n    {escape}"))
    assert _found(report) == _LOST_FRAME
    (finding,) = report.findings
    assert (report.wrong, finding.claimed) == (1, "CFA = r10+0")
    assert finding.actual.startswith("the callee may change r10; ")
    assert "out of the callee" in finding.message
    # Dropped altogether, the row is wrong behind the call as well: one cause, one finding.
    dropped = check(body)
    assert dropped.wrong > 1
    assert dropped.findings[0].severity is Severity.RETURN_ADDRESS
    assert dropped.findings[0].instruction.startswith("call")


_KEPT_IN_R10 = """
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    movq %rbx, %r10
    .cfi_register %rbx, %r10
    movl $1, %ebx
    {call}
    .cfi_offset %rbx, -16
    popq %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
"""
_HELPER = """
    .type helper, @function
    helper:
    .cfi_startproc
    {does}
    ret
    .cfi_endproc
    .size helper, .-helper
"""


@pytest.mark.parametrize("call", _CALLS)
def test_a_register_kept_in_one_that_the_callee_may_change(call: str, check: Check) -> None:
    report = check(_KEPT_IN_R10.format(call=call))
    assert _found(report) == _LOST_REGISTER
    (finding,) = report.findings
    assert finding.claimed == "rbx saved in r10"
    assert finding.suggestion == ".cfi_offset %rbx, -16"


def test_a_callee_that_is_seen_to_keep_it(check: Check) -> None:
    body = _KEPT_IN_R10.format(call="call helper")
    kept = check(body, more=_HELPER.format(does="xorl %eax, %eax"))
    assert (kept.functions, kept.findings) == (2, [])
    changed = check(body, more=_HELPER.format(does="xorl %r10d, %r10d"))
    assert _found(changed) == _LOST_REGISTER


def test_a_register_lost_in_the_callee_and_behind_it(check: Check) -> None:
    """Not for debuggers only: an exception out of the callee loses it as well."""
    body = """
    movq %rbx, %r10
    .cfi_register %rbx, %r10
    movq %rdi, %rbx
    call ext
    movq %rbx, %rax
    movq %r10, %rbx
    .cfi_restore %rbx
    ret
    """
    assert _found(check(body)) == _LOST_REGISTER


_BELOW = """
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx, -16
    movq %rbx, -8(%rsp)
    .cfi_offset %rbx, -24
    {before}
    movq %rdi, %rbx
    {call}
    .cfi_offset %rbx, -16
    movq %rbx, %rax
    popq %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
"""


@pytest.mark.parametrize("call", _CALLS)
def test_a_slot_that_the_call_overwrites(call: str, check: Check) -> None:
    """The red zone is the function's own until it calls: the return address goes there."""
    report = check(_BELOW.format(call=call, before=""))
    assert _found(report) == _LOST_REGISTER
    assert "below the stack pointer" in report.findings[0].actual
    right = _BELOW.format(call=call, before=".cfi_offset %rbx, -16")
    assert check(right).findings == []
    # Without a call, the red zone is as good a place as any.
    assert check(_BELOW.format(call="nop", before="")).findings == []


def test_a_call_that_does_not_return(check: Check) -> None:
    """A backtrace is taken in abort, most of all."""
    body = """
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    movq %rbx, -8(%rsp)
    .cfi_offset %rbx, -24
    {before}
    movq %rdi, %rbx
    call abort
    """
    assert _found(check(body.format(before=""))) == _LOST_REGISTER
    assert check(body.format(before=".cfi_offset %rbx, -16")).findings == []


def test_what_is_wrong_before_the_call_is_told_once(check: Check) -> None:
    body = """
    subq $8, %rsp
    call ext
    addq $8, %rsp
    ret
    """
    report = check(body)
    assert _found(report) == [("FF-C001", Severity.RETURN_ADDRESS, "call")]
    assert "callee may change" not in report.findings[0].actual


_PROGRAM_COUNTER = """
    pushl %ebp
    .cfi_adjust_cfa_offset 4
    .cfi_offset %ebp, -8
    movl %ebx, %edx
    .cfi_register %ebx, %edx
    {call}
    movl %edx, %ebx
    .cfi_restore %ebx
    popl %ebp
    .cfi_adjust_cfa_offset -4
    .cfi_restore %ebp
    ret
"""
_THUNK = """
    .type thunk, @function
    thunk:
    .cfi_startproc
    movl (%esp), %{register}
    ret
    .cfi_endproc
    .size thunk, .-thunk
"""


def test_program_counter_thunks_keep_what_they_keep(check: Check) -> None:
    """The caller is compiled to know that a thunk changes one register and nothing else."""
    body = _PROGRAM_COUNTER.format(call="call thunk")
    assert check(body, more=_THUNK.format(register="ecx"), bits=32).findings == []
    next_one = "call 1f\n1:\n.cfi_adjust_cfa_offset 4\npopl %ecx\n.cfi_adjust_cfa_offset -4"
    assert check(_PROGRAM_COUNTER.format(call=next_one), bits=32).findings == []
    report = check(_PROGRAM_COUNTER.format(call="call ext"), bits=32)
    assert report.findings[0].severity is Severity.REGISTER
    assert report.findings[0].instruction.startswith("call")


def test_arguments_are_not_popped_while_the_callee_runs(check: Check) -> None:
    body = """
    pushl %eax
    .cfi_adjust_cfa_offset 4
    pushl %edx
    .cfi_adjust_cfa_offset 4
    call popping
    .cfi_adjust_cfa_offset -8
    ret
    """
    popping = _HELPER.replace("helper", "popping").replace("ret\n", "ret $8\n").format(does="nop")
    assert check(body, more=popping, bits=32).findings == []


def test_a_call_within_the_function(check: Check) -> None:
    """A function of its own in the same FDE may change what any callee may."""
    inner = "ret\n1: {does}\nret"
    body = _KEPT_IN_R10.format(call="call 1f").replace("ret\n", inner + "\n")
    assert check(body.format(does="xorl %eax, %eax")).findings == []
    assert _found(check(body.format(does="xorl %r10d, %r10d")))[0] == _LOST_REGISTER[0]


def test_it_is_shown_at_the_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _assembled(_KEPT_IN_R10.format(call="call ext"), tmp_path)
    assert main(["cfi", "check", str(path)]) == EXIT_FINDINGS
    capsys.readouterr()
    assert main(["cfi", "show", str(path), "f"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("!")]
    assert "call ext" in lines[at]
    assert "the callee may change r10" in lines[at + 1]
    (result,) = ImageChecker(Image.open(path), thorough=True).results()
    assert result.tally[Answer.WRONG] == 1
    # The state before the call is what is shown, not the callee's.
    (run,) = [run for run in result.runs if run.calling is not None]
    assert run.state is not run.calling
