"""Jumps from several FDEs into one: what each of them brings is held against the row there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullframe.cfi.check import check_image
from fullframe.cfi.findings import FileReport
from fullframe.elf.image import Image
from tests.cfi_check.small import assemble


def _function(name: str, body: str) -> str:
    lines = "".join(f"\t{line.strip()}\n" for line in body.strip().splitlines())
    return (
        f"\t.type {name}, @function\n{name}:\n\t.cfi_startproc\n{lines}"
        f"\t.cfi_endproc\n\t.size {name}, .-{name}\n"
    )


def _check(tmp_path: Path, *functions: str) -> FileReport:
    text = "\t.text\n" + "".join(functions) + '\t.section .note.GNU-stack,"",@progbits\n'
    return check_image(Image.open(assemble(text, tmp_path / "parts.o")))


def _user(name: str, pushed_bytes: int, jump: str) -> str:
    """A function that jumps into the shared tail with so many bytes below its saved rbx."""
    return _function(
        name,
        f"""
        push %rbx
        .cfi_def_cfa_offset 16
        .cfi_offset %rbx, -16
        sub ${pushed_bytes}, %rsp
        .cfi_def_cfa_offset {16 + pushed_bytes}
        {jump}
        add ${pushed_bytes}, %rsp
        .cfi_def_cfa_offset 16
        pop %rbx
        .cfi_def_cfa_offset 8
        ret
        """,
    )


_TAIL = _function(
    "shared_tail",
    """
    .cfi_def_cfa_offset 24
    .cfi_offset %rbx, -16
    {label}
    add $8, %rsp
    .cfi_def_cfa_offset 16
    pop %rbx
    .cfi_def_cfa_offset 8
    ret
    """,
)


@pytest.mark.parametrize("jump", ["jz shared_tail", "ja shared_tail", "jmp shared_tail"])
@pytest.mark.parametrize("first_is_right", [True, False])
def test_one_of_two_functions_has_another_frame(
    jump: str, first_is_right: bool, tmp_path: Path
) -> None:
    """That one brings what the row says does not excuse the other."""
    users = [_user("right", 8, jump), _user("wrong", 24, jump)]
    ordered = users if first_is_right else users[::-1]
    report = _check(tmp_path, *ordered, _TAIL.format(label="nop"))
    assert report.findings
    assert {finding.function for finding in report.findings} == {"shared_tail"}
    assert not _check(tmp_path, users[0], _TAIL.format(label="nop")).findings
    assert _check(tmp_path, users[1], _TAIL.format(label="nop")).findings


def test_jumps_into_the_middle_of_a_shared_part(tmp_path: Path) -> None:
    tail = _TAIL.format(label="nop\n.Lmiddle: nop")
    users = [_user("right", 8, "jz .Lmiddle"), _user("wrong", 24, "jz .Lmiddle")]
    assert not _check(tmp_path, users[0], tail).findings
    assert _check(tmp_path, *users, tail).findings


def test_bound_check_of_a_switch_whose_default_cannot_happen(tmp_path: Path) -> None:
    """GCC's bound check leads to a label without code, where another function's part begins."""
    switch = """
        cmp $1, %edi
        ja shared_tail
        mov %edi, %edi
        jmp *.Ltable(,%rdi,8)
        .Lone:
        """
    table = "\t.section .rodata\n.Ltable: .quad .Lone, .Lone\n\t.text\n"
    users = [_user("right", 8, "jz shared_tail"), _user("has_switch", 24, switch)]
    report = _check(tmp_path, *users, _TAIL.format(label="nop"), table)
    assert report.findings == []
    # Where nothing else leads to that part, it is the switch that does.
    report = _check(tmp_path, users[1], _TAIL.format(label="nop"), table)
    assert report.findings


@pytest.mark.parametrize("between", [0, 20])
def test_label_without_code_at_the_end_of_a_cold_part(between: int, tmp_path: Path) -> None:
    """What GCC knows to be unreachable leads to the next function's cold part, far away."""
    others = [_function(f"other{number}", "ret") for number in range(between)]
    report = _check(
        tmp_path,
        _user("hot", 8, "je shared_tail"),
        _user("never", 16, "je shared_tail"),
        *others,
        _TAIL.format(label=""),
    )
    # Beside each other they would be written by hand, and one of them wrong.
    assert bool(report.wrong) is (between == 0)
