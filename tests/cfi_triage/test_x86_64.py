"""What x86-64 code in the wild taught the checker: each was a false finding, or hid a true one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fullframe.cfi.check import ImageChecker, check_image
from fullframe.cfi.claims import Answer
from fullframe.cfi.findings import FileReport
from fullframe.cfi.references import References
from fullframe.elf.image import Image
from fullframe.track.jump_tables import TableReader
from fullframe.x86.registers import machine
from tests.cfi_check.small import assemble
from tests.cfi_triage.words import words_at

_BEGIN = 0x1000


def _object(body: str, tmp_path: Path) -> Image:
    text = (
        "\t.text\n\t.globl f\n\t.type f, @function\nf:\n\t.cfi_startproc\n"
        + "".join(f"\t{line.strip()}\n" for line in body.strip().splitlines())
        + '\t.cfi_endproc\n\t.size f, .-f\n\t.section .note.GNU-stack,"",@progbits\n'
    )
    return Image.open(assemble(text, tmp_path / "f.o"))


def _check(body: str, tmp_path: Path) -> FileReport:
    return check_image(_object(body, tmp_path))


def _tally(body: str, tmp_path: Path) -> tuple[int, int]:
    """Boundaries (wrong, cannot tell), in the precise space from the first instruction."""
    (result,) = ImageChecker(_object(body, tmp_path), thorough=True).results()
    return result.tally[Answer.WRONG], result.tally[Answer.CANNOT_TELL]


_MOVED_FRAME = """
    movq (%rsp), %r10
    leaq (%rdi,%rsi), %rax
    movq %rdx, (%rax)
    movq %rbp, 16(%rax)
    movq %r10, 24(%rax)
    movq %rax, %rbp
    .cfi_def_cfa %rbp, 32
    .cfi_offset %rbp, -16
    movq %rdi, %rsp
    call *%r8
    leaq 24(%rbp), %rsp
    movq 16(%rbp), %rbp
    .cfi_def_cfa %rsp, 8
    .cfi_restore %rbp
    ret
"""


def test_frame_moved_to_lent_memory(tmp_path: Path) -> None:
    """libffi's ``ffi_call_unix64`` makes its frame in memory that the caller allocated."""
    report = _check(_MOVED_FRAME, tmp_path)
    assert (report.wrong, report.findings) == (0, [])
    # The six before the frame is moved; the distance of the new CFA is the caller's business.
    assert (report.proved, report.cannot_tell) == (6, 5)


def test_frame_moved_and_misdescribed(tmp_path: Path) -> None:
    """Where the copied return address is not where the rule says, the rule is wrong."""
    report = _check(_MOVED_FRAME.replace("%rbp, 32", "%rbp, 24"), tmp_path)
    assert report.wrong == 4
    assert {finding.code for finding in report.findings} == {"FF-C001"}


_CONTAINER = """
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx, -16
    subq $48, %rsp
    .cfi_adjust_cfa_offset 48
    leaq 16(%rsp), %rax
    movq %rax, 8(%rsp)
    leaq {given}(%rsp), %rdi
    movl $1, %ebx
    call grow
    movq 8(%rsp), %rdx
    movq %rcx, 32(%rdx)
    addq $48, %rsp
    .cfi_adjust_cfa_offset -48
    popq %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
"""


def test_container_that_a_callee_may_move(tmp_path: Path) -> None:
    """A pointer in an object that a callee was given is not what it was before (LLVM)."""
    assert _tally(_CONTAINER.format(given=8), tmp_path) == (0, 0)


def test_store_that_seems_to_hit_a_saved_register(tmp_path: Path) -> None:
    """A pointer into the frame that seems to overwrite a saved register is not believed."""
    # From behind the store to the end: rbx is popped from there.
    assert _tally(_CONTAINER.format(given=16), tmp_path) == (0, 3)


@pytest.mark.parametrize("store", ["movq %rcx, 48(%rsp)", "movb $5, 50(%rsp)"])
def test_store_of_an_unrolled_loop(store: str, tmp_path: Path) -> None:
    """Clang unrolls the filling of a short array to more elements than the array has."""
    body = _CONTAINER.format(given=8).replace("movq %rcx, 32(%rdx)", store)
    assert _tally(body, tmp_path) == (0, 3)


def test_store_over_a_slot_that_is_not_needed_any_more(tmp_path: Path) -> None:
    """Where the register is back in its place, the slot is free, and a rule for it is wrong."""
    body = _CONTAINER.format(given=8).replace(
        "movq %rcx, 32(%rdx)", "movq 48(%rsp), %rbx\nmovq %rcx, 48(%rsp)"
    )
    assert _tally(body, tmp_path)[0] == 3


def test_push_over_a_saved_register(tmp_path: Path) -> None:
    """A push is meant: what was there is gone."""
    body = """
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx, -16
    movl $1, %ebx
    popq %rax
    .cfi_adjust_cfa_offset -8
    pushq %rcx
    .cfi_adjust_cfa_offset 8
    popq %rcx
    .cfi_adjust_cfa_offset -8
    ret
    """
    # Behind the push, and behind the pop that takes it off again.
    assert _tally(body, tmp_path) == (2, 0)


_SWITCH = """
    pushq %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    movq %rsp, %rbp
    .cfi_def_cfa_register %rbp
    pushq %rbx
    .cfi_offset %rbx, -24
    subq $8, %rsp
    xorl %ebx, %ebx
    jmp *%rsi
    addq $8, %rsp
    popq %rbx
    popq %rbp
    .cfi_def_cfa %rsp, {offset}
    ret
"""


def test_code_behind_an_unreadable_jump_has_the_jump_s_frame(tmp_path: Path) -> None:
    """A row that finds the CFA by rbp does not tell the stack pointer; the jump's state does."""
    report = _check(_SWITCH.format(offset=8), tmp_path)
    assert (report.wrong, report.cannot_tell, report.assumed) == (0, 0, 4)


def test_wrong_row_behind_an_unreadable_jump(tmp_path: Path) -> None:
    """And so a wrong row there is found."""
    report = _check(_SWITCH.format(offset=16), tmp_path)
    assert (report.wrong, report.assumed) == (1, 3)


def test_unplaced_stack_is_no_contradiction(tmp_path: Path) -> None:
    """Without any jump to go by, a row that names the stack pointer next cannot be told."""
    body = _SWITCH.format(offset=8).replace("jmp *%rsi", "ud2")
    report = _check(body, tmp_path)
    assert (report.wrong, report.findings) == (0, [])
    assert report.cannot_tell == 1


@pytest.mark.parametrize(
    ("compare_and_branch", "wanted"),
    [
        ("83fe01 7415", 3),  # cmp $1, %esi; je: equality bounds nothing
        ("83fe01 7715", 2),  # cmp $1, %esi; ja
        ("83fe02 7315", 2),  # cmp $2, %esi; jae
    ],
)
def test_what_bounds_a_table(compare_and_branch: str, wanted: int) -> None:
    """V8's ``GetFeedbackPair`` tests for zero before a jump through a table."""
    code = bytes.fromhex(
        compare_and_branch + "0fb6c6"  # movzbl %dh, %eax
        "ff24c500200000"  # jmp *0x2000(,%rax,8)
        "909090909090909090"
    )
    targets = [_BEGIN + 15, _BEGIN + 16, _BEGIN + 17]
    words = {0x2000 + 8 * number: target for number, target in enumerate(targets)}
    reader = TableReader(
        machine(64),
        words_at(words, 8),
        None,
        lambda address: _BEGIN <= address < _BEGIN + len(code),
    )
    assert reader.find(code, _BEGIN) == {8: targets[:wanted]}


def test_saving_through_a_register_leaves_it_the_callers(tmp_path: Path) -> None:
    """Saving one register where another points to does not change the other."""
    assert _tally("mov %rbx, -8(%rbp)\nmov %r12, (%rbx)\nret", tmp_path) == (0, 0)


def _distances(following: Callable[[int], int | None]) -> dict[int, list[int]]:
    code = bytes.fromhex(
        "488d0df90f0000"  # lea 0x2000(%rip), %rcx
        "48630481"  # movslq (%rcx,%rax,4), %rax
        "4801c8"  # add %rcx, %rax
        "ffe0"  # jmp *%rax
        "90909090"
    )
    entries = [0x1010, 0x1011, 0x1012]  # the third is the next function's, from another base
    words = {
        0x2000 + 4 * number: (target - 0x2000) & 0xFFFFFFFF for number, target in enumerate(entries)
    }
    reader = TableReader(
        machine(64),
        words_at(words, 4),
        None,
        lambda address: _BEGIN <= address < _BEGIN + len(code),
        following=following,
    )
    return reader.find(code, _BEGIN)


def test_unbounded_table_ends_where_the_next_begins() -> None:
    """Clang checks no bound where the default is unreachable; what follows is another table."""
    assert _distances(lambda address: None) == {14: [0x1010, 0x1011, 0x1012]}
    assert _distances(lambda address: 0x2008) == {14: [0x1010, 0x1011]}


def test_what_code_refers_to(tmp_path: Path) -> None:
    """Every ``lea`` of a place relative to the instruction pointer counts, whatever register."""
    body = """
    leaq 64(%rip), %rax
    leaq 64(%rip), %r15
    leal 64(%rip), %ecx
    leaq 64(%rcx), %rdx
    ret
    """
    image = _object(body, tmp_path)
    ((begin, _end),) = image.executable_ranges()
    references = References(image)
    assert references.following(begin) == begin + 7 + 64
    assert references.following(begin + 71) == begin + 14 + 64
    assert references.following(begin + 78) is None


def test_vector_store_of_an_unrolled_loop(tmp_path: Path) -> None:
    """Clang fills a short array with vectors, and more of them than the array can take."""
    body = _CONTAINER.format(given=16).replace("movq %rcx, 32(%rdx)", "movups %xmm0, 40(%rsp)")
    assert _tally(body, tmp_path) == (0, 3)


def test_table_in_the_code(tmp_path: Path) -> None:
    """libffi 3.2's ``ffi_call_unix64`` has its table of distances right behind the jump."""
    body = """
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx, -16
    leaq 1f(%rip), %r11
    movslq (%r11,%r10,4), %r10
    addq %r11, %r10
    jmp *%r10
    1:
    .long 2f-1b, 3f-1b, 3f-1b, 2f-1b
    2:
    popq %rbx
    .cfi_remember_state
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
    3:
    .cfi_restore_state
    popq %rbx
    .cfi_adjust_cfa_offset {adjust}
    .cfi_restore %rbx
    ret
    """
    report = _check(body.format(adjust=-8), tmp_path)
    assert (report.boundaries, report.proved) == (9, 9)
    assert _check(body.format(adjust=8), tmp_path).wrong == 1


_LAST_CASE = """
    cmpl $1, %eax
    jne 2f
    1:
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx, -16
    cmpl $1, %edi
    je 3f
    popq %rbx
    .cfi_remember_state
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
    2:
    cmpl $2, %eax
    je 1b
    {filler}
    .cfi_restore_state
    3:
    call *%rsi
    popq %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
"""


def test_last_case_tested_all_the_same(tmp_path: Path) -> None:
    """GCC puts anything behind a jump that, of the values there can be, the last one takes."""
    assert _check(_LAST_CASE.format(filler="nopl (%rax)"), tmp_path).wrong == 0
    # Without alignment between, a compiler would have dropped the test.
    assert _check(_LAST_CASE.format(filler=""), tmp_path).wrong > 0
