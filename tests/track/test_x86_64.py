"""The state at every instruction boundary of short x86-64 snippets.

What is written beside an instruction follows from the instruction set's manual (Intel SDM vol. 2)
and the System V ABI, not from what the tracker printed.
"""

from __future__ import annotations

import pytest

from fullframe.x86.registers import AX, DI, R10
from tests.track.following import hold


@pytest.mark.parametrize("precise", [True, False])
def test_pushes_and_pops(precise: bool) -> None:
    hold(
        """
        push %rbx        | CFA-8
        push %r12        | CFA-16 [-16]=bx
        sub $24, %rsp    | CFA-24 [-16]=bx [-24]=r12
        xor %ebx, %ebx   | CFA-48 [-16]=bx [-24]=r12
        add $24, %rsp    | CFA-48 bx=other [-16]=bx [-24]=r12
        pop %r12         | CFA-24 bx=other [-16]=bx [-24]=r12
        pop %rbx         | CFA-16 bx=other [-16]=bx [-24]=r12
        ret              | CFA-8 [-16]=bx [-24]=r12
        """,
        precise=precise,
    )


def test_pops_in_the_wrong_order() -> None:
    hold("""
        push %rbx        | CFA-8
        push %r12        | CFA-16 [-16]=bx
        pop %rbx         | CFA-24 [-16]=bx [-24]=r12
        pop %r12         | CFA-16 bx=r12 [-16]=bx [-24]=r12
        ret              | CFA-8 bx=r12 r12=bx [-16]=bx [-24]=r12
    """)


@pytest.mark.parametrize("precise", [True, False])
def test_saves_by_mov(precise: bool) -> None:
    hold(
        """
        sub $40, %rsp         | CFA-8
        mov %rbx, 32(%rsp)    | CFA-48
        mov %r15, 24(%rsp)    | CFA-48 [-16]=bx
        mov $1, %ebx          | CFA-48 [-16]=bx [-24]=r15
        mov 32(%rsp), %rbx    | CFA-48 bx=BX1 [-16]=bx [-24]=r15
        movl $0, 28(%rsp)     | CFA-48 [-16]=bx [-24]=r15
        add $40, %rsp         | CFA-48 [-16]=bx
        ret                   | CFA-8 [-16]=bx
        """.replace("BX1", "0x1" if precise else "other"),
        precise=precise,
    )


@pytest.mark.parametrize("precise", [True, False])
def test_frame_pointer_and_leave(precise: bool) -> None:
    hold(
        """
        push %rbp             | CFA-8
        mov %rsp, %rbp        | CFA-16 [-16]=bp
        push %rbx             | CFA-16 bp=CFA-16 [-16]=bp
        sub $100, %rsp        | CFA-24 bp=CFA-16 [-16]=bp [-24]=bx
        mov -8(%rbp), %rbx    | CFA-124 bp=CFA-16 [-16]=bp [-24]=bx
        leave                 | CFA-124 bp=CFA-16 [-16]=bp [-24]=bx
        ret                   | CFA-8 [-16]=bp [-24]=bx
        """,
        precise=precise,
    )


def test_enter() -> None:
    hold("""
        enter $16, $0    | CFA-8
        leave            | CFA-32 bp=CFA-16 [-16]=bp
        ret              | CFA-8 [-16]=bp
    """)


def test_realignment() -> None:
    hold("""
        push %rbp            | CFA-8
        mov %rsp, %rbp       | CFA-16 [-16]=bp
        and $-64, %rsp       | CFA-16 bp=CFA-16 [-16]=bp
        sub $64, %rsp        | realigned+0 bp=CFA-16 [-16]=bp
        mov %rbx, 8(%rsp)    | realigned-64 bp=CFA-16 [-16]=bp
        xor %ebx, %ebx       | realigned-64 bp=CFA-16 [-16]=bp [realigned-56]=bx
        mov 8(%rsp), %rbx    | realigned-64 bx=other bp=CFA-16 [-16]=bp [realigned-56]=bx
        leave                | realigned-64 bp=CFA-16 [-16]=bp [realigned-56]=bx
        ret                  | CFA-8 [-16]=bp [realigned-56]=bx
    """)


def test_alloca() -> None:
    hold("""
        push %rbp            | CFA-8
        mov %rsp, %rbp       | CFA-16 [-16]=bp
        push %rbx            | CFA-16 bp=CFA-16 [-16]=bp
        sub %rdi, %rsp       | CFA-24 bp=CFA-16 [-16]=bp [-24]=bx
        push %r12            | extended+0 bp=CFA-16 [-16]=bp [-24]=bx
        pop %r12             | extended-8 bp=CFA-16 [-16]=bp [-24]=bx [extended-8]=r12
        mov -8(%rbp), %rbx   | extended+0 bp=CFA-16 [-16]=bp [-24]=bx [extended-8]=r12
        leave                | extended+0 bp=CFA-16 [-16]=bp [-24]=bx [extended-8]=r12
        ret                  | CFA-8 [-16]=bp [-24]=bx [extended-8]=r12
    """)


def test_realigned_with_the_argument_pointer_in_r10() -> None:
    """The compilers' prologue of a realigned main: the return address is pushed once more."""
    hold(
        """
        lea 8(%rsp), %r10    | CFA-8
        and $-16, %rsp       | CFA-8 r10=CFA+0
        pushq -8(%r10)       | realigned+0 r10=CFA+0
        push %rbp            | realigned-8 r10=CFA+0 [realigned-8]=ip
        mov %rsp, %rbp       | realigned-16 r10=CFA+0 [realigned-8]=ip [realigned-16]=bp
        push %r10            | realigned-16 bp=realigned-16 r10=CFA+0 [realigned-8]=ip \
[realigned-16]=bp
        mov -8(%rbp), %r10   | realigned-24 bp=realigned-16 r10=CFA+0 [realigned-8]=ip \
[realigned-16]=bp [realigned-24]=CFA+0
        leave                | realigned-24 bp=realigned-16 r10=CFA+0 [realigned-8]=ip \
[realigned-16]=bp [realigned-24]=CFA+0
        lea -8(%r10), %rsp   | realigned-8 r10=CFA+0 [realigned-8]=ip [realigned-16]=bp \
[realigned-24]=CFA+0
        ret                  | CFA-8 r10=CFA+0 [realigned-8]=ip [realigned-16]=bp \
[realigned-24]=CFA+0
        """,
        scratch=(R10,),
    )


def test_save_in_a_vector_register() -> None:
    hold("""
        movq %rbx, %xmm3     | CFA-8
        xor %ebx, %ebx       | CFA-8 [vector registers+48]=bx
        movq %xmm3, %rbx     | CFA-8 bx=other [vector registers+48]=bx
        pxor %xmm3, %xmm3    | CFA-8 [vector registers+48]=bx
        ret                  | CFA-8
    """)


def test_exchange() -> None:
    hold(
        """
        xchg %rbx, %rax      | CFA-8
        xchg %rax, %rbx      | CFA-8 bx=ax ax=bx
        xchg %rbx, -8(%rsp)  | CFA-8
        xchg %rbx, -8(%rsp)  | CFA-8 bx=other [-16]=bx
        ret                  | CFA-8
        """,
        scratch=(AX,),
    )


def test_exchange_of_the_stack_pointer() -> None:
    hold(
        """
        mov %rsp, %rax       | CFA-8
        xchg %rsp, %rdi      | CFA-8 ax=CFA-8
        xchg %rsp, %rdi      | di ax=CFA-8 di=CFA-8
        ret                  | CFA-8 ax=CFA-8
        """,
        scratch=(AX, DI),
    )


def test_conditional_move() -> None:
    hold("""
        mov %rbx, %rax       | CFA-8
        cmovz %rax, %rbx     | CFA-8
        cmovz %rcx, %rbx     | CFA-8
        ret                  | CFA-8 bx=different on different paths
    """)


def test_partial_writes() -> None:
    """A 32-bit write clears the upper half; 16- and 8-bit writes change a part."""
    hold("""
        push %rbx            | CFA-8
        mov %ebx, %ebx       | CFA-16 [-16]=bx
        mov (%rsp), %rbx     | CFA-16 bx=other [-16]=bx
        mov %ax, %bx         | CFA-16 [-16]=bx
        mov (%rsp), %rbx     | CFA-16 bx=other [-16]=bx
        mov %al, %bl         | CFA-16 [-16]=bx
        mov (%rsp), %rbx     | CFA-16 bx=other [-16]=bx
        mov %ah, %bh         | CFA-16 [-16]=bx
        pop %rbx             | CFA-16 bx=other [-16]=bx
        ret                  | CFA-8 [-16]=bx
    """)


def test_partial_store_breaks_a_slot() -> None:
    hold("""
        push %rbx            | CFA-8
        movb $0, 7(%rsp)     | CFA-16 [-16]=bx
        pop %rbx             | CFA-16
        ret                  | CFA-8 bx=other
    """)


def test_16_bit_push() -> None:
    hold("""
        pushw %bx            | CFA-8
        push %rbx            | CFA-10
        popq %rbx            | CFA-18 [-18]=bx
        popw %ax             | CFA-10 [-18]=bx
        ret                  | CFA-8 [-18]=bx
    """)


def test_lost_return_address() -> None:
    hold("""
        movq $0, (%rsp)      | CFA-8
        ret                  | CFA-8 no return address
    """)
