"""Every kind of instruction that writes a callee-saved register is seen to write it."""

from __future__ import annotations

import pytest

from tests.track.following import followed

_WRITES = (
    "xor %ebx, %ebx", "mov %ecx, %ebx", "bswap %rbx", "xadd %rbx, %rcx", "xadd %rbx, (%rdi)",
    "cmpxchg %rcx, %rbx", "xchg %rbx, %rcx", "xchg %ebx, %ecx", "imul %rcx, %rbx", "neg %rbx",
    "not %rbx", "shl $1, %rbx", "ror $8, %rbx", "shld $3, %rcx, %rbx", "popcnt %rcx, %rbx",
    "bsf %rcx, %rbx", "movzbl %cl, %ebx", "movsbq %cl, %rbx", "movslq %ecx, %rbx",
    "lea 8(%rcx), %rbx", "lea 1(%rbx), %rbx", "inc %rbx", "dec %ebx", "sete %bl", "setne %bh",
    "cpuid", "mulx %rcx, %rbx, %rdx", "mulx %rcx, %rdx, %rbx", "andn %rcx, %rdx, %rbx",
    "rorx $3, %rcx, %rbx", "pext %rcx, %rdx, %rbx", "movmskpd %xmm0, %ebx",
    "pextrq $1, %xmm0, %rbx", "movq %xmm0, %rbx", "cvttsd2si %xmm0, %rbx",
    "rdrand %rbx", "rdfsbase %rbx", "movbe (%rdi), %rbx", "mov %ds, %ebx", "pmovmskb %xmm0, %ebx",
    "add $8, %rbx", "sbb %rbx, %rbx", "cmovz %rcx, %rbx", "cmovz %ecx, %ebx", "btc $3, %rbx",
    "sldt %ebx", "str %ebx", "smsw %rbx", "lar %ecx, %ebx", "kmovq %k1, %rbx", "crc32b %cl, %ebx",
)  # fmt: skip
_LEAVES_ALONE = (
    "test %rbx, %rbx", "cmp $1, %rbx", "bt $3, %rbx", "mov %rbx, %rcx", "add %rbx, %rcx",
    "push %rbx", "cmpxchg %rbx, (%rdi)", "lock cmpxchg16b (%rdi)", "mov %rbx, (%rdi)",
    "add %rbx, (%rdi)", "imul %rbx", "mul %rbx", "div %rbx", "xlat", "rep movsq", "rdtsc",
    "xgetbv", "movq %rbx, %xmm0", "nop %rbx", "prefetcht0 (%rbx)", "cmpsq", "lfence",
)  # fmt: skip


def _after(instruction: str, *, precise: bool, x32: bool = False) -> str:
    source = f"f:\n.cfi_startproc\n{instruction}\nret\n.cfi_endproc\n"
    return followed(source, 64, precise=precise, x32=x32)[1]


@pytest.mark.parametrize("instruction", _WRITES)
def test_write_is_seen(instruction: str) -> None:
    for precise in (True, False):
        assert " bx=" in _after(instruction, precise=precise)


@pytest.mark.parametrize(
    "precise",
    [True, False],
)
def test_write_by_movd_is_seen(precise: bool) -> None:
    assert " bx=" in _after("movd %xmm0, %ebx", precise=precise)


_CUTS = (
    "mov %ebx, %ebx", "mov -8(%rsp), %ebx", "mov -8(%esp), %ebx", "xchg %ebx, %eax",
    "xchg %ebx, -8(%rsp)", "lea (%rbx), %ebx", "lea (%ebx), %rbx", "add $0, %ebx",
    "cmovz %ebx, %ebx", "cmovz -8(%rsp), %ebx", "movd %xmm0, %ebx", "and $-1, %ebx",
)  # fmt: skip


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize("instruction", _CUTS)
def test_x32_cuts_a_saved_register(instruction: str, precise: bool) -> None:
    """A callee keeps all 64 bits of a register there too; addresses only are narrow."""
    source = f"mov %rbx, -8(%rsp)\n{instruction}"
    states = f"f:\n.cfi_startproc\n{source}\nret\n.cfi_endproc\n"
    assert " bx=" in followed(states, 64, precise=precise, x32=True)[-1]


@pytest.mark.parametrize("instruction", _LEAVES_ALONE)
def test_no_write_is_imagined(instruction: str) -> None:
    for precise in (True, False):
        assert " bx=" not in _after(instruction, precise=precise)


@pytest.mark.parametrize("precise", [True, False])
@pytest.mark.parametrize(
    "save",
    ["mov %ebx, -8(%rsp)", "mov %ebx, %eax\nmov %rax, -8(%rsp)", "xchg %ebx, -8(%rsp)"],
)
def test_x32_saves_half_of_a_register(save: str, precise: bool) -> None:
    """What comes back from there, whole or half, is not the caller's value."""
    for reload in ("mov -8(%rsp), %rbx", "mov -8(%rsp), %ebx"):
        source = f"f:\n.cfi_startproc\n{save}\n{reload}\nret\n.cfi_endproc\n"
        assert " bx=other" in followed(source, 64, precise=precise, x32=True)[-1]
