"""What the CPU itself does on SYSCALL, SYSRET and IRET, as pure functions.

Emulators do not all model these (Unicorn 2.1 raises "invalid instruction" on SYSRETQ), and a
proof about entry code must start and end with them. Sources: Intel SDM vol. 2 (SYSCALL, SYSRET,
IRET) and AMD APM vol. 3; where the two makers differ, the docstring says what is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fullframe.x86.flags import FIXED, IRET_MASK, RF, SYSRET_MASK, TF
from fullframe.x86.kernel_layout import KernelLayout
from fullframe.x86.ptregs import INDEX_OF_SLOT
from fullframe.x86.registers import CX, R11, SP


@dataclass(frozen=True, slots=True)
class UserState:
    """Everything of a user program that a system call can see or change.

    Attributes:
        registers: the sixteen general registers by hardware number, 64-bit values.
        ip: the next instruction's address.
        flags: RFLAGS.
        cs: code selector.
        ss: stack selector.
    """

    registers: tuple[int, ...]
    ip: int
    flags: int
    cs: int
    ss: int


@dataclass(frozen=True, slots=True)
class KernelEntryState:
    """The CPU at the first kernel instruction after SYSCALL.

    Attributes:
        registers: the sixteen general registers; rsp is still the user's.
        flags: RFLAGS with the masked bits cleared.
    """

    registers: tuple[int, ...]
    flags: int


class GeneralProtectionError(Exception):
    """The transition raises #GP while still in kernel mode."""


def is_canonical(address: int, virtual_address_bits: int) -> bool:
    """Tell whether all bits from the sign bit up are equal (Intel SDM vol. 1, section 3.3.7.1)."""
    upper = address >> (virtual_address_bits - 1)
    return upper in (0, (1 << (65 - virtual_address_bits)) - 1)


def syscall(user: UserState, layout: KernelLayout) -> KernelEntryState:
    """Execute SYSCALL in 64-bit mode: rcx takes rip, r11 takes rflags without RF.

    AMD documents that RF is cleared in what r11 receives; Intel's RFLAGS.RF is clear whenever a
    next instruction could run SYSCALL, so the two agree.
    """
    registers = list(user.registers)
    registers[CX] = user.ip
    registers[R11] = user.flags & ~RF
    return KernelEntryState(tuple(registers), user.flags & ~RF & ~layout.fmask | FIXED)


def sysret(registers: Sequence[int], layout: KernelLayout) -> UserState:
    """Execute SYSRETQ: rip from rcx, rflags from r11, both selectors from the STAR register.

    Args:
        registers: the sixteen general registers just before; rsp is already the user's.
        layout: the kernel, for the selectors and the canonical form.

    Raises:
        GeneralProtectionError: rcx is not canonical; Intel CPUs raise #GP in kernel mode, on the
            user's stack.
    """
    if not is_canonical(registers[CX], layout.virtual_address_bits):
        raise GeneralProtectionError(f"SYSRET with rcx {registers[CX]:#x}, which is not canonical")
    return UserState(
        registers=tuple(registers),
        ip=registers[CX],
        flags=registers[R11] & SYSRET_MASK | FIXED,
        cs=layout.user_cs,
        ss=layout.user_ss,
    )


def iret(registers: Sequence[int], popped: Sequence[int]) -> UserState:
    """Execute IRETQ from kernel mode to user mode.

    A non-canonical ip is taken as it is: IRET then faults, but on the kernel's stack and with a
    fixup, which ends in a signal for the program; that is the kernel's business, not the entry's.

    Args:
        registers: the sixteen general registers just before.
        popped: the five words at rsp: ip, cs, flags, sp, ss.
    """
    after = list(registers)
    ip, cs, flags, after[SP], ss = popped
    return UserState(tuple(after), ip, flags & IRET_MASK | FIXED, cs & 0xFFFF, ss & 0xFFFF)


def sysret_would_do(frame: Sequence[int], layout: KernelLayout) -> bool:
    """Tell whether SYSRET restores exactly what a register frame says.

    The conditions are those of Linux's opportunistic SYSRET (``entry_64.S``, since 4.1): SYSRET
    takes ip from rcx and flags from r11, cannot restore RF, traps too early with TF set, loads
    fixed selectors, and faults in kernel mode on a non-canonical ip.

    Args:
        frame: the 21 values of the frame, lowest address first.
        layout: the kernel.
    """
    ip, flags = frame[INDEX_OF_SLOT["ip"]], frame[INDEX_OF_SLOT["flags"]]
    return (
        frame[INDEX_OF_SLOT["cx"]] == ip
        and is_canonical(ip, layout.virtual_address_bits)
        and frame[INDEX_OF_SLOT["r11"]] == flags
        and not flags & (RF | TF)
        and frame[INDEX_OF_SLOT["cs"]] == layout.user_cs
        and frame[INDEX_OF_SLOT["ss"]] == layout.user_ss
    )
