"""What the harness is told about the code it runs: a linked image, its calls, its kernel.

The harness knows no strategy and no table syntax; whoever built the image describes it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path

from fullframe.x86.kernel_layout import KernelLayout


class CallKind(StrEnum):
    """What a C handler does with the frame, beyond taking arguments and returning a value."""

    #: Nothing.
    ORDINARY = "ordinary"
    #: Copies all of it for a child.
    FORK = "fork-like"
    #: Writes all of it anew for another program.
    EXEC = "exec-like"
    #: Restores all of it from user memory.
    SIGRETURN = "sigreturn-like"
    #: Writes its flags slot.
    FLAGS = "iopl-like"
    #: Shows all of it to somebody who may change any slot.
    PROBE = "probe-like"


@dataclass(frozen=True, slots=True)
class Call:
    """One way to make one system call.

    Attributes:
        number: what user space puts in rax, the x32 bit included.
        abi: ``64`` or ``x32``.
        name: the call's name.
        handler: symbol of its C function; None if the number leads to no call (-ENOSYS).
        kind: what the C function does with the frame.
        annotated: whether the table says that it needs the full frame.
    """

    number: int
    abi: str
    name: str
    handler: str | None
    kind: CallKind = CallKind.ORDINARY
    annotated: bool = False


class FrameCheck(Enum):
    """How much of the frame must hold what the user is to see."""

    #: None of it: the function is not given the frame.
    NONE = "none"
    #: All but the callee-saved registers.
    PARTIAL = "partial"
    #: All of it.
    FULL = "full"


@dataclass(frozen=True, slots=True)
class InternalFunction:
    """A C function of the image itself, which takes the frame, and why it may be entered.

    Attributes:
        symbol: the function.
        interrupts: whether they must be on when it is entered.
        check: what must be in the frame then.
        work: thread flags of which at least one must be set.
        for_annotated: whether an annotated call may enter it without any.
        for_iret: whether flags that SYSRET cannot restore are a reason too.
        for_child: whether a new task may enter it without any.
        after: functions whose having been entered is reason enough.
    """

    symbol: str
    interrupts: bool
    check: FrameCheck
    work: int
    for_annotated: bool = False
    for_iret: bool = False
    for_child: bool = False
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """Entry code to run.

    Attributes:
        name: for reports: the strategy.
        image: the linked image, an ELF executable at its final addresses.
        layout: the kernel's numbers.
        calls: every call that the image's tables hold.
        entry: symbol of the first instruction after SYSCALL.
        child_entry: symbol of a new task's first instruction.
        frames_are_full: whether every C call finds a full frame, fast path included.
        internal_functions: C functions of the image itself at whose entry the harness looks too.
        table_overlays: pairs of symbols of tables of equal size: with the second's contents put
            over the first's, everything must work as before (the slow path calling by the fast
            path's table). Each pair is the table written over, and the table copied.
    """

    name: str
    image: Path
    layout: KernelLayout
    calls: tuple[Call, ...]
    entry: str = "entry_SYSCALL_64"
    child_entry: str = "ret_from_fork"
    frames_are_full: bool = False
    internal_functions: tuple[InternalFunction, ...] = ()
    table_overlays: tuple[tuple[str, str], ...] = ()
