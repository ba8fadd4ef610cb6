"""What a kernel provides to generated entry code: its layout, and the C functions it is called by.

The generator knows no kernel. It is given a platform; the emulator harness is one, a real kernel
is another.
"""

from __future__ import annotations

from dataclasses import dataclass

from fullframe.x86.kernel_layout import HARNESS_LAYOUT, KernelLayout


@dataclass(frozen=True, slots=True)
class PlatformFunction:
    """A C function that the kernel provides and generated code calls.

    Attributes:
        declaration: its C prototype, without ``extern`` and semicolon.
        name: its symbol.
        purpose: one sentence for the header: what it may do to the frame, and when it is called.
    """

    name: str
    declaration: str
    purpose: str


SECCOMP = PlatformFunction(
    "seccomp_filter",
    "int seccomp_filter(struct pt_regs *regs)",
    "Decide on a call by its number, arguments and ip. Must not touch bx, bp, r12-r15: the frame\n"
    "may be partial. Nonzero: do not make the call; regs->ax is then what the caller gets.",
)
TRACE_ENTRY = PlatformFunction(
    "ptrace_report_syscall_entry",
    "int ptrace_report_syscall_entry(struct pt_regs *regs)",
    "Stop for the tracer before the call. It may read and write every slot of regs, orig_ax (the\n"
    "number) included. Nonzero: do not make the call.",
)
TRACE_EXIT = PlatformFunction(
    "ptrace_report_syscall_exit",
    "void ptrace_report_syscall_exit(struct pt_regs *regs)",
    "Stop for the tracer after the call. It may read and write every slot of regs.",
)
SIGNAL = PlatformFunction(
    "do_signal",
    "void do_signal(struct pt_regs *regs)",
    "Deliver pending signals: save every slot of regs to the user's stack, set up the handler.\n"
    "Clears its thread flag.",
)
NOTIFY_RESUME = PlatformFunction(
    "tracehook_notify_resume",
    "void tracehook_notify_resume(struct pt_regs *regs)",
    "Whatever wants to run before user mode does; may read and write every slot of regs.\n"
    "Clears its thread flag.",
)
SCHEDULE = PlatformFunction(
    "schedule",
    "void schedule(void)",
    "Let other tasks run. Clears its thread flag.",
)
SCHEDULE_TAIL = PlatformFunction(
    "schedule_tail",
    "void schedule_tail(void *previous)",
    "Finish the switch to a task that runs for the first time.",
)

#: Every function that some strategy calls.
PLATFORM_FUNCTIONS = (
    SECCOMP,
    TRACE_ENTRY,
    TRACE_EXIT,
    SIGNAL,
    NOTIFY_RESUME,
    SCHEDULE,
    SCHEDULE_TAIL,
)


@dataclass(frozen=True, slots=True)
class Platform:
    """One kernel, as entry code sees it.

    Attributes:
        name: for the banner of generated files.
        layout: per-CPU offsets, thread flags, selectors.
    """

    name: str
    layout: KernelLayout


#: The platform that the emulator harness and the cost driver provide.
HARNESS_PLATFORM = Platform("harness", HARNESS_LAYOUT)
