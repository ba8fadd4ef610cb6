"""What the CPU does on the way in and out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullframe.run.specification import frame_after_syscall, user_state_of_frame
from fullframe.x86.flags import FIXED, IF, RF, SYSCALL_FMASK, TF, USER_SETTABLE
from fullframe.x86.kernel_layout import HARNESS_LAYOUT, KernelLayout
from fullframe.x86.ptregs import (
    FRAME_BYTES,
    INDEX_OF_SLOT,
    OFFSET_OF_SLOT,
    SLOTS,
    register_of_slot,
)
from fullframe.x86.registers import AX, CX, R11, SP
from fullframe.x86.transitions import (
    GeneralProtectionError,
    UserState,
    iret,
    is_canonical,
    syscall,
    sysret,
    sysret_would_do,
)

_WORD = st.integers(0, (1 << 64) - 1)
_USER = st.builds(
    UserState,
    registers=st.tuples(*[_WORD] * 16),
    ip=st.integers(0x1000, (1 << 47) - 0x1000),
    flags=_WORD.map(lambda value: value & USER_SETTABLE | FIXED | IF),
    cs=st.just(HARNESS_LAYOUT.user_cs),
    ss=st.just(HARNESS_LAYOUT.user_ss),
)


def test_frame_layout_is_that_of_asm_ptrace_h() -> None:
    # struct pt_regs of linux-libc-dev's asm/ptrace.h, 64-bit.
    assert FRAME_BYTES == 168
    assert [OFFSET_OF_SLOT[slot] for slot in ("r15", "bx", "r11", "ax", "orig_ax", "ip", "ss")] == [
        0, 40, 48, 80, 120, 128, 160,
    ]  # fmt: skip
    assert [register_of_slot(slot) for slot in ("bx", "r12", "r8", "di")] == [
        "rbx", "r12", "r8", "rdi",
    ]  # fmt: skip


def test_fmask_is_linux_s() -> None:
    assert SYSCALL_FMASK == 0x47700


@pytest.mark.parametrize(
    ("address", "bits", "canonical"),
    [
        (0, 48, True),
        ((1 << 47) - 1, 48, True),
        (1 << 47, 48, False),
        (0xFFFF_7FFF_FFFF_FFFF, 48, False),
        (0xFFFF_8000_0000_0000, 48, True),
        ((1 << 64) - 1, 48, True),
        (1 << 47, 57, True),
        (1 << 56, 57, False),
        (0xFF00_0000_0000_0000, 57, True),
    ],
)
def test_canonical(address: int, bits: int, canonical: bool) -> None:
    assert is_canonical(address, bits) is canonical


@given(_USER)
def test_syscall_loses_rcx_and_r11_only(user: UserState) -> None:
    state = syscall(user, HARNESS_LAYOUT)
    assert state.registers[CX] == user.ip
    assert state.registers[R11] == user.flags
    kept = [register for register in range(16) if register not in (CX, R11)]
    assert [state.registers[r] for r in kept] == [user.registers[r] for r in kept]
    assert not state.flags & SYSCALL_FMASK


@given(_USER)
def test_sysret_undoes_syscall(user: UserState) -> None:
    state = syscall(user, HARNESS_LAYOUT)
    after = sysret(state.registers, HARNESS_LAYOUT)
    assert (after.ip, after.flags, after.cs, after.ss) == (user.ip, user.flags, user.cs, user.ss)
    assert after.registers[SP] == user.registers[SP]


@given(_USER, _WORD)
def test_iret_takes_what_the_frame_says(user: UserState, sp: int) -> None:
    after = iret(user.registers, (user.ip, 0x23, user.flags | RF, sp, 0x2B))
    assert after.registers[SP] == sp
    assert (after.ip, after.cs, after.flags) == (user.ip, 0x23, user.flags | RF)


def test_sysret_to_a_non_canonical_address_faults_in_kernel_mode() -> None:
    registers = [0] * 16
    registers[CX] = 1 << 47
    with pytest.raises(GeneralProtectionError, match="0x800000000000"):
        sysret(registers, HARNESS_LAYOUT)
    five_level = KernelLayout(virtual_address_bits=57)
    assert sysret(registers, five_level).ip == 1 << 47


@given(_USER)
def test_the_frame_stands_for_the_user(user: UserState) -> None:
    frame = frame_after_syscall(user)
    assert frame[INDEX_OF_SLOT["orig_ax"]] == user.registers[AX]
    assert frame[INDEX_OF_SLOT["ax"]] == (1 << 64) - 38
    again = user_state_of_frame(frame)
    assert (again.ip, again.flags, again.cs, again.ss) == (user.ip, user.flags, user.cs, user.ss)
    for register in range(16):
        if register not in (AX, CX, R11):
            assert again.registers[register] == user.registers[register]


@given(_USER)
def test_conditions_of_sysret(user: UserState) -> None:
    frame = frame_after_syscall(user)
    assert sysret_would_do(frame, HARNESS_LAYOUT) is not bool(user.flags & TF)


@given(_USER, st.lists(st.tuples(st.sampled_from(SLOTS), _WORD), max_size=4))
def test_sysret_restores_the_frame_exactly_where_it_would_do(
    user: UserState, edits: list[tuple[str, int]]
) -> None:
    """The conditions are sufficient: SYSRET then gives the same user state as the frame says."""
    frame = frame_after_syscall(user)
    for slot, value in edits:
        frame[INDEX_OF_SLOT[slot]] = value
    if sysret_would_do(frame, HARNESS_LAYOUT):
        wanted = user_state_of_frame(frame)
        # Bits of RFLAGS that are reserved or that user mode cannot have are not restored.
        if wanted.flags & ~(USER_SETTABLE | IF) == FIXED:
            assert sysret(wanted.registers, HARNESS_LAYOUT) == wanted
