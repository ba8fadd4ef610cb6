"""The catalogue of what the prover reports."""

from __future__ import annotations

from fullframe.diagnostics import Diagnostic, catalogue

WRONG_SLOT = "FF-P001"
PARTIAL_FRAME = "FF-P002"
WRONG_REGISTER = "FF-P003"
WRONG_MODE_AT_CALL = "FF-P004"
WRONG_MODE_AT_EXIT = "FF-P005"
UNTESTED_SYSRET = "FF-P006"
WRONG_STACK = "FF-P007"
WRONG_ARGUMENT = "FF-P008"
WRONG_MEMORY = "FF-P009"
WORK_PASSED_OVER = "FF-P010"
WRONG_ORDER = "FF-P011"
WRONG_DISPATCH = "FF-P012"
NO_WAY_OUT = "FF-P013"
NOT_PROVED = "FF-P100"

DIAGNOSTICS = catalogue(
    (
        Diagnostic(
            WRONG_SLOT,
            "a slot does not hold the user's value at a C call",
            "On some path a C function that takes the register frame finds, in a slot that it "
            "needs, something else than the user's value (or than what C left there before).",
            "A register was saved into the wrong slot, after it was overwritten, or not at all.",
            "Follow the path in the report from the way in; look at the save of that slot.",
        ),
        Diagnostic(
            PARTIAL_FRAME,
            "a handler that needs the full frame runs on a partial one",
            "A C function that reads or writes bx, bp, r12-r15 in the frame is reachable with "
            "these slots unwritten: it would see leftovers of the kernel stack.",
            "A call that needs the full frame is not annotated in the table; a stub or a slow "
            "path does not complete the frame.",
            "Annotate the call, or save the six registers before this C call.",
        ),
        Diagnostic(
            WRONG_REGISTER,
            "the user does not get back what the frame says",
            "At a way out a register, flags, the stack pointer or the instruction pointer comes "
            "from somewhere else than from the frame as C left it.",
            "A register is not reloaded after C may have changed its slot, is loaded from "
            "another slot, or pops and pushes differ in order.",
            "Compare what this way out loads with the frame's layout.",
        ),
        Diagnostic(
            WRONG_MODE_AT_CALL,
            "C code is called in the wrong mode",
            "At a C call GS base or CR3 are the user's, interrupts are in the wrong state, or AC "
            "or DF is not clear.",
            "A swapgs, sti, cli, cld or a switch of page tables is missing or doubled.",
            "Look at the mode changes on the path in the report.",
        ),
        Diagnostic(
            WRONG_MODE_AT_EXIT,
            "user mode is entered in the wrong mode",
            "At a way out GS base or CR3 are still the kernel's, or interrupts are on between "
            "the last look at the frame and user mode.",
            "A swapgs, cli or a switch of page tables is missing or doubled.",
            "Look at the mode changes on the path in the report.",
        ),
        Diagnostic(
            UNTESTED_SYSRET,
            "SYSRET without its conditions",
            "SYSRET is reached on a path on which not all was tested that it needs to give the "
            "user what the frame says, and not to fault in kernel mode.",
            "A test was left out, inverted, or made on another slot.",
            "Test on this path: cx equals ip, ip canonical, cs and ss, r11 equals flags, RF and "
            "TF clear; or leave with IRET.",
        ),
        Diagnostic(
            WRONG_STACK,
            "the stack is not balanced",
            "The stack pointer is not where a C call, a return or a way out needs it.",
            "Pushes, pops and adjustments of rsp do not balance on this path.",
            "Count what the path pushes and pops.",
        ),
        Diagnostic(
            WRONG_ARGUMENT,
            "a C function gets a wrong argument",
            "An argument register does not hold the frame's address, or not the value of the "
            "slot that the contract names.",
            "An argument was not loaded or reloaded, or rdi is not set to the frame.",
            "Look at what is loaded before this call.",
        ),
        Diagnostic(
            WRONG_MEMORY,
            "kernel memory is used in a way that cannot be right",
            "Per-CPU data is used with the user's GS base, a word that others rely on is "
            "overwritten, or a store goes beyond the end of a stack.",
            "swapgs is missing, or a displacement is wrong.",
            "Look at the instruction.",
        ),
        Diagnostic(
            WORK_PASSED_OVER,
            "work is not looked for, or not done",
            "A handler runs, or user mode is entered, on a path that did not look whether a "
            "tracer, a signal or the scheduler wants something first, looked while interrupts "
            "were on, or found work and did not do it.",
            "A test of thread flags is missing, inverted or on other bits; a call is missing.",
            "Test the flags with interrupts off right before leaving, and do what is found.",
        ),
        Diagnostic(
            WRONG_ORDER,
            "the system call is made twice or not at all, or work comes after it",
            "A C function that makes the call, or has to run before it, is reached on a path on "
            "which the call has been made already.",
            "A jump is missing, and control falls into what follows.",
            "Look at the end of the path in the report.",
        ),
        Diagnostic(
            WRONG_DISPATCH,
            "a dispatch table is used without a check of the number",
            "The index is not the call's number, is not bounded by the table's end, or the ABI's "
            "marker bit was not tested.",
            "A comparison or a bit test is missing or inverted, or the table's address is wrong.",
            "Compare the number with the table's last entry on every path to the call.",
        ),
        Diagnostic(
            NO_WAY_OUT,
            "no path leads out",
            "Nothing that starts at this way in ever reaches a way out.",
            "The code loops, or ends in something that is not a way out.",
            "Look at the paths and at what could not be followed.",
        ),
        Diagnostic(
            NOT_PROVED,
            "a path could not be followed",
            "The prover met something that it does not model, or of which the contract says "
            "nothing. What lies behind it is not proved.",
            "A function that the contract does not name, a store through an unknown pointer, an "
            "indirect jump, an instruction that is not modelled.",
            "Add to the contract what is missing; or rely on it only after looking yourself.",
        ),
    )
)
