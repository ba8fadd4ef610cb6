"""The bits of RFLAGS (Intel SDM vol. 1, section 3.4.3) and the masks that entry code meets."""

from __future__ import annotations

CF, FIXED, PF, AF, ZF, SF = 1 << 0, 1 << 1, 1 << 2, 1 << 4, 1 << 6, 1 << 7
TF, IF, DF, OF = 1 << 8, 1 << 9, 1 << 10, 1 << 11
IOPL = 3 << 12
NT, RF, VM, AC = 1 << 14, 1 << 16, 1 << 17, 1 << 18
VIF, VIP, ID = 1 << 19, 1 << 20, 1 << 21

#: What Linux clears on SYSCALL (MSR_SYSCALL_MASK as set by ``syscall_init`` since 3.17/4.0).
SYSCALL_FMASK = TF | DF | IF | IOPL | AC | NT
#: What SYSRET takes from R11 (Intel SDM vol. 2, SYSRET: ``RFLAGS := (R11 & 3C7FD7H) | 2``).
SYSRET_MASK = 0x3C7FD7
#: What IRETQ to an outer privilege level takes from the stack when it runs at level 0 (Intel SDM
#: vol. 2, IRET, 64-bit mode): all the defined flags but VM, which it leaves clear in 64-bit mode.
IRET_MASK = SYSRET_MASK | RF
#: The flags that a user-mode program can set by itself with POPF at IOPL 0, single-step included.
USER_SETTABLE = CF | PF | AF | ZF | SF | TF | DF | OF | NT | AC | ID
