"""What is unusual is judged the same together, alone and visited."""

from collections import Counter
from pathlib import Path

import pytest

from fullframe.cfi.check import ImageChecker
from fullframe.elf.image import Image
from tests.cfi_check.small import assemble

NO_STACK = '.section .note.GNU-stack,"",@progbits\n'
#: The table brings a frame without the push to 2; the jump's row has the CFA as at entry, but a
#: register is saved and lost.
TABLE = """
f:  .cfi_startproc
    mov %rbx, -16(%rsp)
    .cfi_offset %rbx, -24
    xor %ebx, %ebx
    cmp $1, %edi
    ja 3f
    mov %edi, %eax
    {jump}
3:  push %rax
    .cfi_def_cfa_offset 16
2:  pop %rax
    .cfi_def_cfa_offset 8
    mov -16(%rsp), %rbx
    ret
    .cfi_endproc
    .section .rodata
    .balign 8
t:  .quad 2b, 2b
"""
#: Each stub of a PLT is entered, the second one, too.
STUBS = """
    .section {section},"ax",@progbits
    .p2align 4
f:  .cfi_startproc
    push %rax
    .cfi_def_cfa_offset 16
    jmp 1f
    .p2align 4
1:  jmp *x(%rip)
    .cfi_endproc
"""
#: The call is made two words below where the row at 1 has the frame.
LANDING = """
f:  .cfi_startproc
    .cfi_personality 0x1b, __gxx_personality_v0
    .cfi_lsda 0x1b, lsda
    push %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    mov %rsp, %rbp
    .cfi_def_cfa_register %rbp
    test %edi, %edi
    je 1f
    push %rax
    push %rax
    test %esi, %esi
    je 2f
4:  nop
    call g
2:  pop %rax
    pop %rax
1:  nop
    .cfi_def_cfa %rsp, 16
    nop
    pop %rbp
    .cfi_def_cfa %rsp, 8
    ret
    .cfi_endproc
    .section .gcc_except_table,"a",@progbits
lsda: .byte 0xff, 0xff, {encoding}
    .uleb128 6f - 5f
5:  {sites}
6:
"""
#: An exception lands before the call, in what is being followed; a row is wrong there.
BEHIND = """
f:  .cfi_startproc
    .cfi_personality 0x1b, __gxx_personality_v0
    .cfi_lsda 0x1b, lsda
    push %rbx
    .cfi_def_cfa_offset 24
    .cfi_offset %rbx, -16
1:  push %rax
4:  call g
    add $16, %rsp
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .section .gcc_except_table,"a",@progbits
lsda: .byte 0xff, 0xff, 1
    .uleb128 6f - 5f
5:  .uleb128 4b - f, 5, 1b - f, 0
6:
"""
WIDE, NARROW = ".uleb128 1, 30, 1b - f, 0", ".uleb128 4b - f, 12, 2b - f, 0"


def landing(*sites, encoding=1):
    return LANDING.format(encoding=encoding, sites="\n    ".join(sites))


def outcomes(path, monkeypatch):
    """Answers by how the function was judged."""
    image = Image.open(str(path))

    def tally(result):
        return Counter({answer.name: count for answer, count in result.tally.items() if count})

    found = {
        "together": ImageChecker(image).check(tally, None, lambda count: Counter(PROVED=count)),
        "visited": ImageChecker(image, thorough=True).check(tally),
    }
    alone = ImageChecker(image)
    monkeypatch.setattr(alone._bulk, "proved", lambda *arguments: None)
    found["alone"] = alone.check(tally)
    return {how: sum(answers.values(), Counter()) for how, answers in found.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TABLE.format(jump="mov t(,%rax,8), %rax; jmp *%rax"), {"PROVED": 8, "WRONG": 3}),
        (TABLE.format(jump="mov t(,%rax,8), %rax; nop; jmp *%rax"), {"PROVED": 9, "WRONG": 3}),
        (TABLE.format(jump="jmp *t(,%rax,8)"), {"PROVED": 7, "WRONG": 3}),
        (STUBS.format(section=".plt"), {"PROVED": 2, "WRONG": 1}),
        (STUBS.format(section=".plt.sec"), {"PROVED": 2, "WRONG": 1}),
        (landing(WIDE), {"PROVED": 13, "WRONG": 3}),
        # The first that holds the call counts.
        (landing(WIDE, NARROW), {"PROVED": 13, "WRONG": 3}),
        (landing(NARROW, WIDE), {"PROVED": 16}),
        (landing(WIDE, ".uleb128 4b - f, 0, 2b - f, 0"), {"PROVED": 13, "WRONG": 3}),
        (
            landing(".long -16, 60, 1b - f; .uleb128 0", encoding=0x0B),
            {"PROVED": 13, "WRONG": 3},
        ),
        (BEHIND, {"PROVED": 1, "WRONG": 4}),
    ],
)
def test_all_ways_agree(text, expected, tmp_path: Path, monkeypatch):
    path = assemble(".text\n" + text + NO_STACK, tmp_path / "unusual.o")
    found = outcomes(path, monkeypatch)
    assert found == {how: Counter(expected) for how in ("together", "visited", "alone")}
