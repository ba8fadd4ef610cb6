"""Jump tables, x32, and red zones: the state at every boundary."""

from __future__ import annotations

import pytest

from fullframe.x86.registers import AX, DX, R10
from tests.track.following import hold


def test_jump_table() -> None:
    """Every entry of the table is reached, with the state of the jump; nothing else is."""
    hold(
        """
        push %rbx                 | CFA-8
        .cfi_def_cfa_offset 16
        cmp $2, %edi              | CFA-16 [-16]=bx
        ja 9f                     | CFA-16 [-16]=bx
        mov %edi, %edi            | CFA-16 [-16]=bx
        lea 7f(%rip), %rdx        | CFA-16 [-16]=bx
        movslq (%rdx,%rdi,4), %rax | CFA-16 [-16]=bx
        add %rdx, %rax            | CFA-16 [-16]=bx
        jmp *%rax                 | CFA-16 [-16]=bx
        nop                       | unreached
        1: xor %eax, %eax         | CFA-16 [-16]=bx
        jmp 9f                    | CFA-16 [-16]=bx
        nop                       | unreached
        2: mov %rdi, %rbx         | CFA-16 [-16]=bx
        jmp 9f                    | CFA-16 bx=other [-16]=bx
        3: push %r12              | CFA-16 [-16]=bx
        pop %r12                  | CFA-24 [-16]=bx [-24]=r12
        9: pop %rbx               | CFA-16 bx=different on different paths [-16]=bx MORE
        ret                       | CFA-8 [-16]=bx MORE
        """.replace(" MORE", " [-24]=different on different paths"),
        others='.section .rodata,"a"\n.balign 4\n7: .long 1b-7b, 2b-7b, 3b-7b\n',
    )


def test_indirect_jump_without_a_table() -> None:
    hold("""
        push %rbx                 | CFA-8
        jmp *(%rdi,%rsi,8)        | CFA-16 [-16]=bx
        nop                       | unreached
    """)


def test_red_zone_save_is_lost_at_a_call() -> None:
    """A callee may write what lies below the stack pointer (System V ABI, section 3.2.2)."""
    hold(
        """
        mov %rbx, -16(%rsp)       | CFA-8
        mov %rdi, %rbx            | CFA-8 [-24]=bx
        mov %rbx, %rax            | CFA-8 bx=di [-24]=bx
        mov -16(%rsp), %rbx       | CFA-8 bx=di ax=di [-24]=bx
        call g                    | CFA-8 ax=di [-24]=bx
        mov -16(%rsp), %rbx       | CFA-8 ax=other
        ret                       | CFA-8 bx=other ax=other
        """,
        scratch=(AX,),
    )


def test_vector_save_is_lost_at_a_call() -> None:
    hold("""
        movq %r13, %xmm1          | CFA-8
        call g                    | CFA-8 [vector registers+16]=r13
        movq %xmm1, %r13          | CFA-8
        ret                       | CFA-8 r13=other
    """)


def test_arithmetic_on_constants_reaches_the_stack_pointer() -> None:
    """Hand-written code and old compilers load a large frame's size into a register first."""
    hold("""
        mov $0x100, %eax          | CFA-8
        sub %rax, %rsp            | CFA-8
        add %rax, %rsp            | CFA-264
        neg %rax                  | CFA-8
        ret                       | CFA-8
    """)


def test_saves_through_another_base() -> None:
    hold(
        """
        mov %rsp, %r10            | CFA-8
        sub $0x48, %rsp           | CFA-8 r10=CFA-8
        mov %r14, -8(%r10)        | CFA-80 r10=CFA-8
        lea 0x10(%rsp), %r10      | CFA-80 r10=CFA-8 [-16]=r14
        mov %r15, (%r10)          | CFA-80 r10=CFA-64 [-16]=r14
        add $0x10, %r10           | CFA-80 r10=CFA-64 [-16]=r14 [-64]=r15
        lea 0x38(%r10), %rsp      | CFA-80 r10=CFA-48 [-16]=r14 [-64]=r15
        ret                       | CFA+8 r10=CFA-48 [-16]=r14 [-64]=r15
        """,
        scratch=(R10,),
    )


def test_pop_to_and_push_from_memory_by_the_stack_pointer() -> None:
    """PUSH reads its base before, POP after the stack pointer has moved (SDM, PUSH and POP)."""
    hold("""
        push %rbx                 | CFA-8
        pushq (%rsp)              | CFA-16 [-16]=bx
        pushq 8(%rsp)             | CFA-24 [-16]=bx [-24]=bx
        movq $0, 16(%rsp)         | CFA-32 [-16]=bx [-24]=bx [-32]=bx
        popq 8(%rsp)              | CFA-32 [-24]=bx [-32]=bx
        add $8, %rsp              | CFA-24 [-16]=bx [-24]=bx [-32]=bx
        pop %rbx                  | CFA-16 [-16]=bx [-24]=bx [-32]=bx
        ret                       | CFA-8 [-16]=bx [-24]=bx [-32]=bx
    """)


def test_x32_moves_the_stack_pointer_by_its_low_half() -> None:
    """Addresses are 32 bits wide there, saved registers 64."""
    hold(
        """
        push %rbp                 | CFA-8
        mov %esp, %ebp            | CFA-16 [-16]=bp
        push %rbx                 | CFA-16 bp=CFA-16 [-16]=bp
        sub $24, %esp             | CFA-24 bp=CFA-16 [-16]=bp [-24]=bx
        xor %ebx, %ebx            | CFA-48 bp=CFA-16 [-16]=bp [-24]=bx
        mov -8(%ebp), %rbx        | CFA-48 bx=other bp=CFA-16 [-16]=bp [-24]=bx
        lea 24(%rsp), %esp        | CFA-48 bp=CFA-16 [-16]=bp [-24]=bx
        add $8, %esp              | CFA-24 bp=CFA-16 [-16]=bp [-24]=bx
        pop %rbp                  | CFA-16 bp=CFA-16 [-16]=bp [-24]=bx
        ret                       | CFA-8 [-16]=bp [-24]=bx
        """,
        x32=True,
    )


def test_x86_64_loses_the_stack_pointer_by_its_low_half() -> None:
    hold("""
        push %rbx                 | CFA-8
        sub $24, %esp             | CFA-16 [-16]=bx
        nop                       | other [-16]=bx
        ret                       | other [-16]=bx
    """)


def test_x32_keeps_an_address_in_half_a_slot() -> None:
    """A pointer is saved in 32 bits; its neighbour is another's."""
    hold(
        """
        push %rbp                 | CFA-8
        mov %rsp, %rbp            | CFA-16 [-16]=bp
        mov %esp, -12(%rbp)       | CFA-16 bp=CFA-16 [-16]=bp
        movl $0, -8(%rbp)         | CFA-16 bp=CFA-16 [-16]=bp [-28]=half(CFA-16)
        movl $0, -16(%rbp)        | CFA-16 bp=CFA-16 [-16]=bp [-28]=half(CFA-16)
        sub $24, %esp             | CFA-16 bp=CFA-16 [-16]=bp [-28]=half(CFA-16)
        mov -12(%rbp), %esp       | CFA-40 bp=CFA-16 [-16]=bp [-28]=half(CFA-16)
        movb $0, -9(%rbp)         | CFA-16 bp=CFA-16 [-16]=bp [-28]=half(CFA-16)
        leave                     | CFA-16 bp=CFA-16 [-16]=bp
        ret                       | CFA-8 [-16]=bp
        """,
        x32=True,
    )


def test_x32_does_not_take_half_a_slot_for_a_word() -> None:
    hold(
        """
        mov %rsp, %rbp            | CFA-8
        mov %esp, -16(%rsp)       | CFA-8 bp=CFA-8
        mov -16(%rsp), %rbp       | CFA-8 bp=CFA-8 [-24]=half(CFA-8)
        ret                       | CFA-8 bp=unknown [-24]=half(CFA-8)
        """,
        x32=True,
    )


def test_x32_return_address_in_half_a_register() -> None:
    """A return address is 32 bits wide there, so that a 32-bit move keeps all of it."""
    hold(
        """
        mov (%rsp), %edx          | CFA-8
        lea 8(%rsp), %esp         | CFA-8 dx=ip
        jmp *%rdx                 | CFA+0 dx=ip
        """,
        x32=True,
        scratch=(DX,),
    )


def test_enter_copies_frame_pointers() -> None:
    """Intel SDM vol. 2, ENTER: with a level, the outer frame pointers and its own are pushed."""
    hold("""
        enter $16, $1        | CFA-8
        enter $8, $3         | CFA-40 bp=CFA-16 [-16]=bp [-24]=CFA-16
        mov -8(%rbp), %rax   | CFA-80 bp=CFA-48 [-16]=bp [-24]=CFA-16 [-48]=CFA-16 [-56]=CFA-16 \
[-72]=CFA-48
        leave                | CFA-80 bp=CFA-48 [-16]=bp [-24]=CFA-16 [-48]=CFA-16 [-56]=CFA-16 \
[-72]=CFA-48
        leave                | CFA-40 bp=CFA-16 [-16]=bp [-24]=CFA-16 [-48]=CFA-16 [-56]=CFA-16 \
[-72]=CFA-48
        ret                  | CFA-8 [-16]=bp [-24]=CFA-16 [-48]=CFA-16 [-56]=CFA-16 [-72]=CFA-48
    """)


def test_stack_pointer_out_of_pusha() -> None:
    held = "[-8]=ax [-12]=cx [-16]=dx [-20]=bx [-24]=CFA-4 [-28]=bp [-32]=si [-36]=di"
    hold(
        f"""
        pusha                | CFA-4
        mov 12(%esp), %esp   | CFA-36 {held}
        ret                  | CFA-4 {held}
        """,
        32,
    )


@pytest.mark.parametrize("compare", ["cmp %al, %spl", "cmp %ax, %sp", "cmp %eax, %esp"])
def test_equal_parts_of_registers_do_not_make_them_equal(compare: str) -> None:
    hold(f"""
        lea -0x8000(%rsp), %rax   | CFA-8
        1: sub $0x1000, %rsp      | joined+0
        {compare}                 | joined-4096
        jne 1b                    | joined-4096
        ret                       | joined-4096
    """)
