"""The same code at the highest addresses, where kernels are, is judged as anywhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fullframe.cfi.check import check_image
from fullframe.cfi.direct_calls import direct_calls
from fullframe.cfi.files import engine_for
from fullframe.cfi.findings import Finding
from fullframe.cfi.references import _referred_to
from fullframe.cfi.shares import _near_jumps
from fullframe.cli.main import main
from fullframe.elf.image import Image
from fullframe.toolchain.find import find_toolchain
from tests.cfi_check.small import assemble

LOW, HIGH = 0x401000, 0xFFFFFFFF81000000

#: A function with a cold part, which jumps back, a switch, and a part that is called; in the last
#: function something is wrong.
_SOURCE = """\
    .text
    .globl f, g
    .type f, @function
f:
    .cfi_startproc
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx, -16
    movl %edi, %ebx
    testl %edi, %edi
    js f.cold
1:  leaq 3f(%rip), %rax
    cmpl $1, %edi
    ja 2f
    movslq (%rax,%rdi,4), %rdx
    addq %rax, %rdx
    jmp *%rdx
4:  call helper
5:  movl %ebx, %eax
2:  popq %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
    .cfi_endproc
    .size f, .-f
    .type g, @function
g:
    .cfi_startproc
    pushq %r12
    .cfi_adjust_cfa_offset 8
    xorl %r12d, %r12d
    popq %r12
    .cfi_adjust_cfa_offset -8
    ret
    .cfi_endproc
    .size g, .-g
    .type helper, @function
helper:
    .cfi_startproc
    .cfi_def_cfa_offset 24
    nop
    ret
    .cfi_endproc
    .size helper, .-helper
    .section .text.unlikely, "ax", @progbits
    .type f.cold, @function
f.cold:
    .cfi_startproc
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    negl %edi
    jmp 1b
    .cfi_endproc
    .size f.cold, .-f.cold
    .section .rodata
    .align 4
3:  .long 4b-3b, 5b-3b
    .section .note.GNU-stack, "", @progbits
"""


def _linked(tmp_path: Path, address: int, *, debug: bool = False) -> Path:
    source = _SOURCE
    if debug:
        source = "\t.cfi_sections .debug_frame\n" + source
    linked = tmp_path / f"at-{address:x}"
    found = assemble(source, tmp_path / "x.o")
    flags = [f"-Ttext={address:#x}", "--entry=f"]
    find_toolchain().link([found], linked, flags=flags)
    return linked


def _told(path: Path, jobs: int = 1) -> tuple[list[int], list[tuple[str, ...]]]:
    image = Image.open(path)
    report = check_image(image, engine_for(image), jobs)
    counts = [report.functions, report.proved, report.wrong, report.assumed, report.cannot_tell]
    return counts, [_words(finding) for finding in report.findings]


def _words(finding: Finding) -> tuple[str, ...]:
    return finding.code, finding.function, finding.claimed, finding.actual, finding.message


@pytest.mark.parametrize("debug", [False, True], ids=["eh_frame", "debug_frame"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_high_addresses_are_like_any(jobs: int, debug: bool, tmp_path: Path) -> None:
    low = _told(_linked(tmp_path, LOW, debug=debug))
    assert low[0][0] == 4
    assert low[0][1] > 15
    assert {function for _, function, *_ in low[1]} == {"g", "helper"}
    assert _told(_linked(tmp_path, HIGH, debug=debug), jobs) == low


@pytest.mark.parametrize("function", ["f", "g", "helper"])
def test_functions_at_high_addresses_are_shown(
    function: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cfi", "show", str(_linked(tmp_path, LOW)), function]) == 0
    low = capsys.readouterr().out
    assert main(["cfi", "show", str(_linked(tmp_path, HIGH)), function]) == 0
    high = capsys.readouterr().out
    assert high.count("\n") == low.count("\n")
    assert "0xffffffff8100" in high


def test_high_addresses_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _linked(tmp_path, HIGH)
    assert main(["cfi", "check", "--json", str(path)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["files"][0]["error"] is None
    assert {finding["address"] >> 32 for finding in found["findings"]} == {0xFFFFFFFF}


_NEAR_THE_TOP = 0xFFFFFFFFFFFFFF00


def test_targets_wrap_around() -> None:
    """A call at the highest addresses may lead to the lowest, and the other way round."""
    code = np.frombuffer(b"\x90\xe8" + (0x200).to_bytes(4, "little") + b"\x90" * 8, np.uint8)
    for begin, bits, target in (
        (_NEAR_THE_TOP, 64, 0x106),
        (0xFFFFFF00, 32, 0x106),
        (0xFFFFFF00, 64, 0x100000106),
    ):
        places, targets = direct_calls(code, begin, bits)
        assert (places.tolist(), targets.tolist()) == ([1], [target])
    back = np.frombuffer(b"\xe8" + (-0x200).to_bytes(4, "little", signed=True), np.uint8)
    assert direct_calls(back, 0x100, 64)[1].tolist() == [0xFFFFFFFFFFFFFF05]
    assert direct_calls(back, 0x100, 32)[1].tolist() == [0xFFFFFF05]


def test_nothing_is_called_in_less_than_a_call() -> None:
    for size in range(5):
        places, targets = direct_calls(np.full(size, 0xE8, np.uint8), 0x1000, 64)
        assert not len(places)
        assert not len(targets)


def test_references_and_jumps_wrap_around() -> None:
    lea = np.frombuffer(b"\x48\x8d\x05" + (0x200).to_bytes(4, "little"), np.uint8)
    assert _referred_to(lea, _NEAR_THE_TOP).tolist() == [0x107]
    jump = np.frombuffer(b"\x90\xe9" + (0x200).to_bytes(4, "little"), np.uint8)
    places, targets = _near_jumps(jump, _NEAR_THE_TOP, (1 << 64) - 1)
    assert places.tolist() == [_NEAR_THE_TOP + 2]
    assert targets.tolist() == [0x106]
