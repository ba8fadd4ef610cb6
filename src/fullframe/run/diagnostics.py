"""The catalogue of what the harness reports."""

from __future__ import annotations

from fullframe.diagnostics import Diagnostic, catalogue

WRONG_REGISTER = "FF-R001"
WRONG_SLOT = "FF-R002"
UNWRITTEN_SLOT = "FF-R003"
WRONG_C_CALL = "FF-R004"
WRONG_ARGUMENT = "FF-R005"
WRONG_MODE = "FF-R006"
WRONG_STACK = "FF-R007"
WRONG_WAY_OUT = "FF-R008"
NOT_LEFT = "FF-R009"
NOT_ALIKE = "FF-R010"

DIAGNOSTICS = catalogue(
    (
        Diagnostic(
            WRONG_REGISTER,
            "user mode finds a wrong register",
            "After the call a register does not hold what the call must leave in it.",
            "A register is not restored, or from the wrong slot; or it was never saved; or a "
            "call that rewrites the frame came back by a path that does not reload it.",
            "Look at the path that this call took; if the call writes the frame, annotate it "
            "in the table.",
        ),
        Diagnostic(
            WRONG_SLOT,
            "a C function finds a wrong value in the frame",
            "A slot of struct pt_regs does not hold the user's value when C code looks.",
            "A register was saved into the wrong slot, after it was clobbered, or not at all.",
            "Look at the saves between the entry and this C call.",
        ),
        Diagnostic(
            UNWRITTEN_SLOT,
            "a slot that nobody has written is read",
            "The frame is partial, and code that needs all of it looks at it: it sees leftovers "
            "of the kernel stack.",
            "A call that needs the full frame is not annotated in the table, or a slow path "
            "forgot to complete the frame.",
            "Annotate the call, or save bx, bp and r12-r15 before this C call.",
        ),
        Diagnostic(
            WRONG_C_CALL,
            "a C function is called that should not be, or is not called that should be",
            "The order of tracing, filter, call and exit work is not the specified one.",
            "Thread flags were not tested, or the wrong ones; a number led to the wrong slot of "
            "the dispatch table.",
            "Look at the tests of thread flags and at the dispatch on this path.",
        ),
        Diagnostic(
            WRONG_ARGUMENT,
            "a C function gets a wrong argument",
            "A system call's argument, or the address of the frame, is not what it must be.",
            "Argument 4 was not moved from r10 to rcx; arguments were not reloaded after C code "
            "had run; rsp does not point to the frame.",
            "Look at what is loaded before this call.",
        ),
        Diagnostic(
            WRONG_MODE,
            "GS base, interrupts or flags are wrong",
            "C code runs with the user's GS base, with interrupts in the wrong state, or with "
            "flags set that SYSCALL clears; or user mode would run with the kernel's GS base.",
            "A swapgs, sti or cli is missing, or one too many is there.",
            "Follow the path from the last C call that was right.",
        ),
        Diagnostic(
            WRONG_STACK,
            "the stack pointer is wrong",
            "rsp is outside the stack, inside the frame, or not where IRET needs it.",
            "Pushes and pops, or adjustments of rsp, do not balance.",
            "Count what the path pushes and pops.",
        ),
        Diagnostic(
            WRONG_WAY_OUT,
            "SYSRET where only IRET will do, or the other way round",
            "SYSRET cannot restore what the frame says (or would fault in kernel mode); or IRET "
            "was used although SYSRET would do.",
            "One of the conditions of SYSRET is not tested, or tested on the wrong slot.",
            "Compare the tests before SYSRET with the conditions: cx equals ip, ip canonical, "
            "cs and ss the user's, r11 equals flags, RF and TF clear.",
        ),
        Diagnostic(
            NOT_LEFT,
            "the call never came back",
            "The code faulted, ran into memory that is not mapped, or did not end.",
            "A wrong return address, a wrong stack pointer, or a loop whose flag is never clear.",
            "Look at the address where it ended.",
        ),
        Diagnostic(
            NOT_ALIKE,
            "two strategies end the same call differently",
            "The same call in the same circumstances left different registers behind.",
            "One of the two has another difference as well, which says more.",
            "Mend that one first.",
        ),
    )
)
