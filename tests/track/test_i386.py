"""The state at every instruction boundary of short i386 snippets."""

from __future__ import annotations

import pytest

from fullframe.x86.registers import AX, CX, DX
from tests.track.following import hold


@pytest.mark.parametrize("precise", [True, False])
def test_pushes_and_pops(precise: bool) -> None:
    hold(
        """
        push %ebp            | CFA-4
        push %edi            | CFA-8 [-8]=bp
        push %esi            | CFA-12 [-8]=bp [-12]=di
        push %ebx            | CFA-16 [-8]=bp [-12]=di [-16]=si
        sub $12, %esp        | CFA-20 [-8]=bp [-12]=di [-16]=si [-20]=bx
        xor %esi, %esi       | CFA-32 [-8]=bp [-12]=di [-16]=si [-20]=bx
        add $12, %esp        | CFA-32 si=other [-8]=bp [-12]=di [-16]=si [-20]=bx
        pop %ebx             | CFA-20 si=other [-8]=bp [-12]=di [-16]=si [-20]=bx
        pop %esi             | CFA-16 si=other [-8]=bp [-12]=di [-16]=si [-20]=bx
        pop %edi             | CFA-12 [-8]=bp [-12]=di [-16]=si [-20]=bx
        pop %ebp             | CFA-8 [-8]=bp [-12]=di [-16]=si [-20]=bx
        ret                  | CFA-4 [-8]=bp [-12]=di [-16]=si [-20]=bx
        """,
        32,
        precise=precise,
    )


@pytest.mark.parametrize("precise", [True, False])
def test_frame_pointer_and_leave(precise: bool) -> None:
    hold(
        """
        push %ebp            | CFA-4
        mov %esp, %ebp       | CFA-8 [-8]=bp
        and $-16, %esp       | CFA-8 bp=CFA-8 [-8]=bp
        push %edi            | realigned+0 bp=CFA-8 [-8]=bp
        leave                | realigned-4 bp=CFA-8 [-8]=bp [realigned-4]=di
        ret                  | CFA-4 [-8]=bp [realigned-4]=di
        """,
        32,
        precise=precise,
    )


def test_enter() -> None:
    hold(
        """
        enter $16, $0    | CFA-4
        leave            | CFA-24 bp=CFA-8 [-8]=bp
        ret              | CFA-4 [-8]=bp
        """,
        32,
    )


def test_callee_that_pops_its_arguments() -> None:
    hold(
        """
        push %ebx            | CFA-4
        push $1              | CFA-8 [-8]=bx
        push $2              | CFA-12 [-8]=bx
        call g               | CFA-16 [-8]=bx
        pop %ebx             | CFA-8 [-8]=bx
        ret                  | CFA-4 [-8]=bx
        """,
        32,
        others="g:\n.cfi_startproc\nret $8\n.cfi_endproc",
    )


def test_callee_that_pops_nothing() -> None:
    hold(
        """
        push %ebx            | CFA-4
        push %eax            | CFA-8 [-8]=bx
        call g               | CFA-12 [-8]=bx [-12]=ax
        pop %eax             | CFA-12 [-8]=bx [-12]=ax
        pop %ebx             | CFA-8 [-8]=bx [-12]=ax
        ret                  | CFA-4 [-8]=bx [-12]=ax
        """,
        32,
        others="g:\n.cfi_startproc\nret\n.cfi_endproc",
    )


def test_program_counter_thunk_changes_its_register_alone() -> None:
    hold(
        """
        push %ebx            | CFA-4
        call g               | CFA-8 [-8]=bx
        pop %ebx             | CFA-8 bx=other [-8]=bx
        ret                  | CFA-4 [-8]=bx
        """,
        32,
        others="g:\n.cfi_startproc\nmov (%esp), %ebx\nret\n.cfi_endproc",
        scratch=(AX, CX, DX),
    )


def test_program_counter_by_a_call_of_the_next_instruction() -> None:
    hold(
        """
        push %ebx            | CFA-4
        call 1f              | CFA-8 [-8]=bx
        1: pop %ebx          | CFA-12 [-8]=bx
        pop %ebx             | CFA-8 bx=other [-8]=bx
        ret                  | CFA-4 [-8]=bx
        """,
        32,
    )


def test_argument_pointer_in_ecx() -> None:
    """The compilers' prologue of a realigned main on i386."""
    before = "[realigned-4]=ip [realigned-8]=bp"
    after = f"{before} [realigned-12]=CFA+0"
    hold(
        f"""
        lea 4(%esp), %ecx    | CFA-4
        and $-16, %esp       | CFA-4 cx=CFA+0
        pushl -4(%ecx)       | realigned+0 cx=CFA+0
        push %ebp            | realigned-4 cx=CFA+0 [realigned-4]=ip
        mov %esp, %ebp       | realigned-8 cx=CFA+0 {before}
        push %ecx            | realigned-8 bp=realigned-8 cx=CFA+0 {before}
        mov -4(%ebp), %ecx   | realigned-12 bp=realigned-8 cx=CFA+0 {after}
        leave                | realigned-12 bp=realigned-8 cx=CFA+0 {after}
        lea -4(%ecx), %esp   | realigned-4 cx=CFA+0 {after}
        ret                  | CFA-4 cx=CFA+0 {after}
        """,
        32,
        scratch=(CX,),
    )


def test_partial_writes() -> None:
    hold(
        """
        mov %bx, %ax         | CFA-4
        mov %ebx, %ebx       | CFA-4
        mov %al, %bl         | CFA-4
        ret                  | CFA-4 bx=other
        """,
        32,
    )


def test_16_bit_push() -> None:
    hold(
        """
        pushw %bx            | CFA-4
        push %ebx            | CFA-6
        pop %ebx             | CFA-10 [-10]=bx
        popw %cx             | CFA-6 [-10]=bx
        ret                  | CFA-4 [-10]=bx
        """,
        32,
    )


def test_all_registers_at_once() -> None:
    """``pusha`` stores ax cx dx bx sp bp si di, downward; ``popa`` skips the stack pointer.

    The stack pointer's slot holds what it was before.
    """
    held = "[-8]=ax [-12]=cx [-16]=dx [-20]=bx [-24]=CFA-4 [-28]=bp [-32]=si [-36]=di"
    hold(
        f"""
        pusha                | CFA-4
        xor %ebx, %ebx       | CFA-36 {held}
        popa                 | CFA-36 bx=other {held}
        ret                  | CFA-4 {held}
        """,
        32,
    )
