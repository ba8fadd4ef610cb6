"""Functions that share a ``.cfi_startproc``: each is entered as a function is, whatever rows say.

A row taken at its word where a call leads made true rows behind it look wrong (LuaJIT's
interpreter, ``lj_vm_call`` and its kin).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fullframe.cfi.check import ImageChecker, check_image
from fullframe.cfi.findings import FileReport
from fullframe.cfi.inner_entries import find_inner_entries
from fullframe.cfi.shares import check_in_shares
from fullframe.elf.image import Image
from tests.cfi_check.small import assemble

#: The inner function's frame is that of a function of its own; the row before it is still the
#: outer one's. Rows from ``sub`` on are true.
_SHARED = """
    .text
    .globl outer
    .type outer, @function
outer:
    .cfi_startproc
    subq $72, %rsp
    .cfi_def_cfa_offset 80
    call ask
    jmp *%rax
    {names}
inner:
    {row}
    subq $72, %rsp
    {after}
    call ask
    addq $72, %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size outer, .-outer
"""
_CALLER = """
    .type user, @function
user:
    .cfi_startproc
    subq $8, %rsp
    .cfi_def_cfa_offset 16
    call inner
    addq $8, %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size user, .-user
"""
_NOTE = '    .section .note.GNU-stack,"",@progbits\n'


def _image(text: str, tmp_path: Path, bits: int = 64) -> Image:
    return Image.open(assemble(text + _NOTE, tmp_path / "f.o", bits))


def _report(text: str, tmp_path: Path) -> FileReport:
    return check_image(_image(text, tmp_path))


def _shared(names: str = "", row: str = "", after: str = "") -> str:
    return _SHARED.format(names=names, row=row, after=after)


def _places(report: FileReport) -> list[tuple[str, str, str, str]]:
    return [(item.place, item.code, item.claimed, item.actual) for item in report.findings]


def test_a_called_place_is_a_functions_entry(tmp_path: Path) -> None:
    """The wrong row is told where it is wrong, and the true ones behind it are proved."""
    report = _report(_shared() + _CALLER, tmp_path)
    assert _places(report) == [(".text+0xb", "FF-C001", "CFA = rsp+80", "CFA = rsp+8")]
    (finding,) = report.findings
    assert (finding.end_address - finding.address, report.wrong, report.assumed) == (4, 1, 0)
    assert "a function's entry: the call at .text+0x1d leads here" in finding.message


def test_right_rows_of_a_called_place(tmp_path: Path) -> None:
    rows = _shared(row=".cfi_def_cfa_offset 8", after=".cfi_def_cfa_offset 80")
    report = _report(rows + _CALLER, tmp_path)
    assert (report.wrong, report.assumed, report.cannot_tell, report.findings) == (0, 0, 0, [])


def test_a_place_that_a_visible_function_symbol_names(tmp_path: Path) -> None:
    """Other images call it."""
    report = _report(_shared(".globl inner\n.type inner, @function"), tmp_path)
    assert _places(report) == [(".text+0xb", "FF-C001", "CFA = rsp+80", "CFA = rsp+8")]
    assert "the function symbol inner is here" in report.findings[0].message


@pytest.mark.parametrize(
    "names",
    [
        ".type inner, @function",
        ".globl inner\n.hidden inner\n.type inner, @function",
        ".globl inner",
    ],
)
def test_a_place_that_nothing_is_seen_to_call(names: str, tmp_path: Path) -> None:
    """LuaJIT's labels are hidden functions, and jumped to with the interpreter's frame."""
    image = _image(_shared(names), tmp_path)
    assert find_inner_entries(ImageChecker(image).code) == {}


def test_bytes_that_only_look_like_a_call(tmp_path: Path) -> None:
    """A call's bytes within another instruction are none."""
    bytes_only = """
    .globl user
user:
    .cfi_startproc
    .byte 0x48, 0xb8, 0xe8
    .long inner - . - 4
    .byte 0, 0, 0
    ret
    .cfi_endproc
"""
    image = _image(_shared() + bytes_only, tmp_path)
    assert find_inner_entries(ImageChecker(image).code) == {}


@pytest.mark.parametrize(("kind", "found"), [("    .type user, @function\n", 1), ("", 0)])
def test_a_call_from_code_without_cfi(kind: str, found: int, tmp_path: Path) -> None:
    """Only a function's symbol tells where its instructions begin."""
    caller = (
        f"    .globl user\n{kind}user:\n    pushq %rax\n    call inner\n    popq %rcx\n    ret\n"
    )
    image = _image(_shared() + caller + "    .size user, .-user\n", tmp_path)
    assert len(find_inner_entries(ImageChecker(image).code)) == found


def test_a_row_that_carries_on_the_callers(tmp_path: Path) -> None:
    """An unwinder goes from there to the caller's caller, and rightly: nothing is wrong."""
    row, after = ".cfi_def_cfa_offset 24", ".cfi_def_cfa_offset 96"
    text = _shared(row=row, after=after).replace("offset 8\n    ret", "offset 24\n    ret")
    report = _report(text + _CALLER, tmp_path)
    assert (report.wrong, report.findings) == (0, [])
    # One caller with another frame, and it is wrong for that one.
    other = (
        _CALLER.replace("user", "other").replace("$8,", "$24,").replace("offset 16", "offset 32")
    )
    report = _report(text + _CALLER + other, tmp_path)
    assert report.findings[0].actual == "CFA = rsp+8"


_FALLS_IN = """
    .text
    .globl outer
    .type outer, @function
outer:
    .cfi_startproc
    subq $72, %rsp
    .cfi_def_cfa_offset 80
    call ask
    {before}
inner:
    .cfi_def_cfa_offset 8
    subq $8, %rsp
    .cfi_def_cfa_offset 16
    call ask
    addq $8, %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size outer, .-outer
"""


def test_control_that_comes_with_another_frame_too(tmp_path: Path) -> None:
    """The row can be true only of one; it is said of which, once."""
    report = _report(_FALLS_IN.format(before="xorl %edi, %edi") + _CALLER, tmp_path)
    assert _places(report) == [(".text+0xb", "FF-C001", "CFA = rsp+8", "CFA = rsp+80")]
    (finding,) = report.findings
    assert "control comes here from .text+0x9 too, not by a call" in finding.message
    assert finding.suggestion == ""
    assert report.wrong == 0


def test_control_that_comes_with_an_entrys_frame_too(tmp_path: Path) -> None:
    before = "addq $72, %rsp\n    .cfi_def_cfa_offset 8"
    report = _report(_FALLS_IN.format(before=before) + _CALLER, tmp_path)
    assert (report.wrong, report.assumed, report.findings) == (0, 0, [])


def test_a_call_before_an_entry_that_does_not_return(tmp_path: Path) -> None:
    """The rows behind the call are another function's, so it is taken not to return."""
    report = _report(_FALLS_IN.format(before="call die") + _CALLER, tmp_path)
    assert (report.wrong, report.findings) == (0, [])


def test_an_entry_that_goes_on_with_the_stack_it_is_given(tmp_path: Path) -> None:
    """LuaJIT's ``lj_vm_unwind_c`` is called to go on in a frame farther up."""
    text = """
    .text
    .globl outer
    .type outer, @function
outer:
    .cfi_startproc
    subq $72, %rsp
    .cfi_def_cfa_offset 80
    call ask
    jmp join
inner:
    .cfi_def_cfa_offset 8
    movq %rdi, %rsp
    .cfi_def_cfa_offset 80
join:
    addq $72, %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size outer, .-outer
"""
    report = _report(text + _CALLER, tmp_path)
    assert (report.wrong, report.findings) == (0, [])


def test_a_call_within_of_what_others_enter(tmp_path: Path) -> None:
    """A premise before a call of an inner entry contradicts nothing there."""
    text = _shared(row=".cfi_def_cfa_offset 8", after=".cfi_def_cfa_offset 80").replace(
        "    .cfi_endproc",
        "    .cfi_def_cfa_offset 80\n    call inner\n    ud2\n    .cfi_endproc",
        1,
    )
    report = _report(text + _CALLER, tmp_path)
    assert (report.wrong, report.findings) == (0, [])


def test_a_call_within_of_what_a_jump_enters(tmp_path: Path) -> None:
    """A wrong row is told once, where it is, and not at each call that leads there."""
    text = _shared().replace(
        "    .cfi_endproc",
        "    .cfi_def_cfa_offset 80\n    call inner\n    ud2\n    .cfi_endproc",
        1,
    )
    report = _report(text + _CALLER.replace("call inner", "addq $8, %rsp\n jmp inner"), tmp_path)
    assert ["FF-C006"] not in [[item.code] for item in report.findings]
    assert (".text+0xb", "FF-C001", "CFA = rsp+80", "CFA = rsp+8") in _places(report)


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    image = _image(_shared() + _CALLER, tmp_path)
    alone = check_image(image)
    reports = check_in_shares(ImageChecker(image), 2)
    together = [item for begin in sorted(reports) for item in reports[begin].findings]
    assert together == alone.findings


def test_i386(tmp_path: Path) -> None:
    text = (_shared() + _CALLER).replace("%rsp", "%esp").replace("q $", "l $")
    text = text.replace("jmp *%rax", "jmp *%eax").replace("offset 80", "offset 76")
    text = text.replace("offset 16", "offset 12").replace("offset 8", "offset 4")
    report = check_image(_image(text, tmp_path, 32))
    assert [(item.claimed, item.actual) for item in report.findings] == [
        ("CFA = esp+76", "CFA = esp+4")
    ]
