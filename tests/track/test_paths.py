"""Where paths part and meet: the state at every boundary, and where control does not go."""

from __future__ import annotations

import pytest

from fullframe.x86.registers import AX, R10, R11
from tests.track.following import hold


@pytest.mark.parametrize("precise", [True, False])
def test_early_return(precise: bool) -> None:
    hold(
        """
        push %rbx            | CFA-8
        test %rdi, %rdi      | CFA-16 [-16]=bx
        jz 1f                | CFA-16 [-16]=bx
        pop %rbx             | CFA-16 [-16]=bx
        ret                  | CFA-8 [-16]=bx
        1: sub $16, %rsp     | CFA-16 [-16]=bx
        add $16, %rsp        | CFA-32 [-16]=bx
        pop %rbx             | CFA-16 [-16]=bx
        ret                  | CFA-8 [-16]=bx
        """,
        precise=precise,
    )


def test_paths_that_disagree_on_a_register() -> None:
    hold("""
        push %rbx            | CFA-8
        test %rdi, %rdi      | CFA-16 [-16]=bx
        jz 1f                | CFA-16 [-16]=bx
        mov %r12, %rbx       | CFA-16 [-16]=bx
        1: nop               | CFA-16 bx=different on different paths [-16]=bx
        pop %rbx             | CFA-16 bx=different on different paths [-16]=bx
        ret                  | CFA-8 [-16]=bx
    """)


def test_paths_that_disagree_on_a_slot() -> None:
    hold("""
        sub $8, %rsp         | CFA-8
        test %rdi, %rdi      | CFA-16
        jz 1f                | CFA-16
        mov %rbx, (%rsp)     | CFA-16
        1: mov (%rsp), %rbx  | CFA-16 [-16]=different on different paths
        add $8, %rsp         | CFA-16 bx=different on different paths \
[-16]=different on different paths
        ret                  | CFA-8 bx=different on different paths \
[-16]=different on different paths
    """)


def test_loop_that_moves_the_stack_pointer() -> None:
    """What lies at a distance from the stack pointer is known although the place is not."""
    hold("""
        push %rbp            | CFA-8
        mov %rsp, %rbp       | CFA-16 [-16]=bp
        1: sub $16, %rsp     | joined+0 bp=CFA-16 [-16]=bp
        dec %edi             | joined-16 bp=CFA-16 [-16]=bp
        jnz 1b               | joined-16 bp=CFA-16 [-16]=bp
        leave                | joined-16 bp=CFA-16 [-16]=bp
        ret                  | CFA-8 [-16]=bp
    """)


def test_probing_loop() -> None:
    """The loop ends where the stack pointer equals a register whose place is known."""
    hold(
        """
        lea -0x8000(%rsp), %r11   | CFA-8
        1: sub $0x1000, %rsp      | joined+0 r11=CFA-32776
        orq $0, (%rsp)            | joined-4096 r11=CFA-32776
        cmp %r11, %rsp            | joined-4096 r11=CFA-32776
        jne 1b                    | joined-4096 r11=CFA-32776
        sub $0x10, %rsp           | CFA-32776 r11=CFA-32776
        add $0x8010, %rsp         | CFA-32792 r11=CFA-32776
        ret                       | CFA-8 r11=CFA-32776
        """,
        scratch=(R11,),
    )


def test_call_keeps_the_callee_saved_and_changes_the_rest() -> None:
    hold(
        """
        push %rbx            | CFA-8
        mov %rdi, %rbx       | CFA-16 [-16]=bx
        mov %r12, -8(%rsp)   | CFA-16 bx=di [-16]=bx
        mov %r12, %r10       | CFA-16 bx=di [-16]=bx [-24]=r12
        call g               | CFA-16 bx=di r10=r12 [-16]=bx [-24]=r12
        pop %rbx             | CFA-16 bx=di ax=other r10=other [-16]=bx
        ret                  | CFA-8 ax=other r10=other [-16]=bx
        """,
        scratch=(AX, R10),
    )


def test_call_of_a_function_that_never_returns_by_name() -> None:
    hold("""
        sub $8, %rsp         | CFA-8
        test %edi, %edi      | CFA-16
        jz 1f                | CFA-16
        call abort           | CFA-16
        add $64, %rsp        | unreached
        nop                  | unreached
        1: add $8, %rsp      | CFA-16
        ret                  | CFA-8
    """)


def test_call_of_a_function_that_never_returns_by_its_code() -> None:
    hold(
        """
        sub $8, %rsp         | CFA-8
        test %edi, %edi      | CFA-16
        jz 1f                | CFA-16
        call g               | CFA-16
        add $64, %rsp        | unreached
        1: add $8, %rsp      | CFA-16
        ret                  | CFA-8
        """,
        others="g:\n.cfi_startproc\nsub $8, %rsp\ncall abort\n.cfi_endproc",
    )


def test_trap_ends_the_path() -> None:
    hold("""
        push %rbx            | CFA-8
        ud2                  | CFA-16 [-16]=bx
        pop %rbx             | unreached
        ret                  | unreached
    """)


def test_call_inside_of_a_function_of_its_own() -> None:
    """Its row says that it starts as a function does, so it is followed as one."""
    hold("""
        push %rbx            | CFA-8
        .cfi_def_cfa_offset 16
        call 1f              | CFA-16 [-16]=bx
        pop %rbx             | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 8
        ret                  | CFA-8 [-16]=bx
        1: xor %eax, %eax    | CFA-8
        ret                  | CFA-8
    """)


def test_call_inside_of_a_part_of_the_function() -> None:
    """Its row counts from the outer frame: there is a return address more on the stack."""
    hold("""
        push %rbx            | CFA-8
        .cfi_def_cfa_offset 16
        call 1f              | CFA-16 [-16]=bx
        pop %rbx             | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 8
        ret                  | CFA-8 [-16]=bx
        .cfi_def_cfa_offset 24
        1: xor %eax, %eax    | CFA-24 [-16]=bx
        ret                  | CFA-24 [-16]=bx
    """)


def test_jump_past_a_lock_prefix() -> None:
    """The C library jumps over the prefix on one processor; the state there is the same."""
    hold("""
        push %rbx            | CFA-8
        test %edi, %edi      | CFA-16 [-16]=bx
        je 1f+1              | CFA-16 [-16]=bx
        1: lock decl (%rdi)  | CFA-16 [-16]=bx
        pop %rbx             | CFA-16 [-16]=bx
        ret                  | CFA-8 [-16]=bx
    """)


def test_code_behind_an_indirect_jump_is_not_reached() -> None:
    hold("""
        push %rbx            | CFA-8
        jmp *%rdi            | CFA-16 [-16]=bx
        pop %rbx             | unreached
        ret                  | unreached
    """)


def test_system_call_changes_what_the_kernel_changes() -> None:
    """rcx and r11 hold rip and rflags, rax the result (System V ABI x86-64, A.2.1)."""
    hold(
        """
        mov %rbx, %r10       | CFA-8
        syscall              | CFA-8 r10=bx
        mov %r10, %rbx       | CFA-8 ax=other r10=bx r11=other
        ret                  | CFA-8 ax=other r10=bx r11=other
        """,
        scratch=(AX, R10, R11),
    )


def test_probing_loop_on_i386() -> None:
    hold(
        """
        lea -0x8000(%esp), %eax   | CFA-4
        1: sub $0x1000, %esp      | joined+0 ax=CFA-32772
        orl $0, (%esp)            | joined-4096 ax=CFA-32772
        cmp %eax, %esp            | joined-4096 ax=CFA-32772
        jne 1b                    | joined-4096 ax=CFA-32772
        add $0x8000, %esp         | CFA-32772 ax=CFA-32772
        ret                       | CFA-4 ax=CFA-32772
        """,
        32,
        scratch=(AX,),
    )


def test_loop_that_moves_the_stack_pointer_both_ways_comes_to_an_end() -> None:
    """What is not known of a joined stack has one form only, or two states would alternate."""
    first = "[-16]=bx [-24]=different on different paths [joined+0]=bx"
    hold(f"""
        push %rbx     | CFA-8
        1: push %rbx  | joined+0 {first}
        jz 1b         | joined-8 {first} [joined-8]=bx
        pop %rbx      | joined-8 {first} [joined-8]=bx
        jz 1b         | joined+0 {first} [joined-8]=bx
        ret           | joined+0 {first} [joined-8]=bx
    """)
