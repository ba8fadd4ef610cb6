"""Landing pads, and calls that do not return: the state at every boundary.

Nothing in the code leads to a landing pad; the table of the function's call sites does (Itanium
C++ ABI, exception handling, level II). That a call does not return may be told only by the rows
around it.
"""

from __future__ import annotations

import pytest

from fullframe.x86.registers import AX, DI
from tests.track.following import hold

#: A function's table: no base for landing pads, no types, call sites as ULEB128.
_TABLE = """
.section .gcc_except_table,"a",@progbits
.Ltable: .byte 0xff, 0xff, 1
.uleb128 .Lend - .Lbegin
.Lbegin:
{sites}
.Lend:
.text
"""


def _site(begin: str, end: str, pad: str | None) -> str:
    where = "0" if pad is None else f"{pad}-f"
    return f".uleb128 {begin}-f\n.uleb128 {end}-{begin}\n.uleb128 {where}\n.uleb128 0"


def _table(*sites: tuple[str, str, str | None]) -> str:
    return _TABLE.format(sites="\n".join(_site(*site) for site in sites))


_OPEN = ".cfi_personality 0x9b, DW.ref.__gxx_personality_v0\n.cfi_lsda 0x1b, .Ltable\n"


@pytest.mark.parametrize("precise", [True, False])
def test_landing_pad_has_the_frame_of_the_call(precise: bool) -> None:
    """The unwinder restores callee-saved registers and the stack pointer; others are its own."""
    hold(
        _OPEN
        + """
        push %rbx                | CFA-8
        .cfi_def_cfa_offset 16
        .cfi_offset %rbx, -16
        sub $16, %rsp            | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 32
        .Lfirst: call g          | CFA-32 [-16]=bx
        .Lafter: add $16, %rsp   | CFA-32 [-16]=bx
        .cfi_remember_state
        .cfi_def_cfa_offset 16
        pop %rbx                 | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 8
        ret                      | CFA-8 [-16]=bx
        .cfi_restore_state
        .Lpad: mov %rax, %rbx    | CFA-32 [-16]=bx
        mov %rbx, %rdi           | CFA-32 bx=other [-16]=bx
        call _Unwind_Resume      | CFA-32 bx=other [-16]=bx
        """,
        precise=precise,
        others=_table((".Lfirst", ".Lafter", ".Lpad")),
    )


def test_landing_pad_of_no_call_site_is_not_reached() -> None:
    hold(
        _OPEN
        + """
        push %rbx                | CFA-8
        .cfi_def_cfa_offset 16
        .Lfirst: call g          | CFA-16 [-16]=bx
        .Lafter: pop %rbx        | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 8
        ret                      | CFA-8 [-16]=bx
        .cfi_def_cfa_offset 16
        .Lpad: mov %rax, %rdi    | unreached
        call _Unwind_Resume      | unreached
        """,
        others=_table((".Lfirst", ".Lafter", None)),
    )


def test_landing_pads_of_two_calls_join() -> None:
    """One pad for two calls with a register changed in between."""
    hold(
        _OPEN
        + """
        push %rbx                | CFA-8
        .cfi_def_cfa_offset 16
        .cfi_offset %rbx, -16
        .Lfirst: call g          | CFA-16 [-16]=bx
        mov %r12, %rbx           | CFA-16 [-16]=bx
        call g                   | CFA-16 bx=r12 [-16]=bx
        .Lafter: pop %rbx        | CFA-16 bx=r12 [-16]=bx
        .cfi_remember_state
        .cfi_def_cfa_offset 8
        ret                      | CFA-8 [-16]=bx
        .cfi_restore_state
        .Lpad: mov %rax, %rdi    | CFA-16 bx=different on different paths [-16]=bx
        call _Unwind_Resume      | CFA-16 bx=different on different paths [-16]=bx
        """,
        others=_table((".Lfirst", ".Lafter", ".Lpad")),
    )


@pytest.mark.parametrize("precise", [True, False])
def test_arguments_are_popped_on_the_way_to_a_landing_pad(precise: bool) -> None:
    """What DW_CFA_GNU_args_size says is on the stack at the call is not there at the pad."""
    hold(
        _OPEN.replace("0x9b, DW.ref.", "0, ").replace("0x1b", "0")
        + """
        push %ebx                | CFA-4
        .cfi_def_cfa_offset 8
        .cfi_offset %ebx, -8
        push $5                  | CFA-8 [-8]=bx
        .cfi_def_cfa_offset 12
        .cfi_escape 0x2e, 4
        .Lfirst: call g          | CFA-12 [-8]=bx
        .Lafter: add $4, %esp    | CFA-12 [-8]=bx
        .cfi_def_cfa_offset 8
        .cfi_escape 0x2e, 0
        .Lpad: pop %ebx          | CFA-8 [-8]=bx
        .cfi_def_cfa_offset 4
        ret                      | CFA-4 [-8]=bx
        """,
        32,
        precise=precise,
        others=_table((".Lfirst", ".Lafter", ".Lpad")),
    )


def test_record_that_runs_on_over_calls_that_cannot_throw() -> None:
    """GCC's records cover calls that cannot throw; their frames need not be the pad's."""
    hold(
        _OPEN
        + """
        push %rbx                | CFA-8
        .cfi_def_cfa_offset 16
        .cfi_offset %rbx, -16
        .Lfirst: call g          | CFA-16 [-16]=bx
        sub $16, %rsp            | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 32
        call h                   | CFA-32 [-16]=bx
        .Lafter: add $16, %rsp   | CFA-32 [-16]=bx
        .cfi_def_cfa_offset 16
        pop %rbx                 | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 8
        ret                      | CFA-8 [-16]=bx
        .cfi_def_cfa_offset 16
        .Lpad: mov %rax, %rdi    | CFA-16 [-16]=bx
        call _Unwind_Resume      | CFA-16 [-16]=bx
        """,
        others=_table((".Lfirst", ".Lafter", ".Lpad")),
    )


def test_call_that_does_not_return_by_its_shape() -> None:
    """What stands behind the call has the row of another path: the compiler knew."""
    hold("""
        push %rbx                | CFA-8
        .cfi_def_cfa_offset 16
        .cfi_offset %rbx, -16
        test %edi, %edi          | CFA-16 [-16]=bx
        jz 1f                    | CFA-16 [-16]=bx
        sub $32, %rsp            | CFA-16 [-16]=bx
        .cfi_remember_state
        .cfi_def_cfa_offset 48
        call dies                | CFA-48 [-16]=bx
        .cfi_restore_state
        1: pop %rbx              | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 8
        ret                      | CFA-8 [-16]=bx
    """)


def test_call_that_does_not_return_by_a_row_of_its_own() -> None:
    """No label is behind the call, and the row there is not the call's."""
    hold("""
        push %rbx                | CFA-8
        .cfi_def_cfa_offset 16
        .cfi_offset %rbx, -16
        sub $32, %rsp            | CFA-16 [-16]=bx
        .cfi_def_cfa_offset 48
        call dies                | CFA-48 [-16]=bx
        .cfi_def_cfa_offset 16
        pop %rbx                 | unreached
        ret                      | unreached
    """)


def test_call_that_returns_although_the_row_changes() -> None:
    """Behind the call the row is another, and true: the call returns."""
    hold(
        """
        push %rbx                | CFA-8
        .cfi_def_cfa_offset 16
        mov %rdi, %rbx           | CFA-16 [-16]=bx
        call g                   | CFA-16 bx=di [-16]=bx
        .cfi_offset %rbx, -16
        mov %rax, %rdi           | CFA-16 bx=di ax=other di=other [-16]=bx
        pop %rbx                 | CFA-16 bx=di ax=other di=other [-16]=bx
        .cfi_def_cfa_offset 8
        ret                      | CFA-8 ax=other di=other [-16]=bx
        """,
        scratch=(AX, DI),
    )


def test_callee_that_pops_by_the_shape_of_the_rows() -> None:
    """i386: the row behind the call takes its arguments off the CFA's distance."""
    hold(
        """
        push $1                  | CFA-4
        .cfi_def_cfa_offset 8
        push $2                  | CFA-8
        .cfi_def_cfa_offset 12
        call stdcall_two         | CFA-12
        .cfi_def_cfa_offset 4
        xor %eax, %eax           | CFA-4
        ret                      | CFA-4
        """,
        32,
    )
