"""The catalogue of what the CFI checker reports; ``fullframe explain CODE`` reads it."""

from __future__ import annotations

from fullframe.diagnostics import Diagnostic, catalogue

DIAGNOSTICS = catalogue(
    (
        Diagnostic(
            "FF-C001",
            "wrong CFA",
            "At this instruction the rule for the canonical frame address (CFA) gives another "
            "address than the one the code's stack operations lead to. Everything that is found "
            "through the CFA, the return address first, is then read from the wrong place.",
            "A push, pop or stack adjustment without its .cfi_adjust_cfa_offset; a "
            ".cfi_def_cfa_register that was forgotten or left behind after the frame pointer was "
            "restored; a missing .cfi_remember_state/.cfi_restore_state around an early return; a "
            "directive one instruction early or late; code of another function under the same "
            ".cfi_startproc. At a call: a rule over a register that the callee may change, since "
            "the row of the call is what an unwind out of the callee looks up.",
            "Put the directive that the finding names right after the instruction that moves the "
            "stack pointer. In hand-written assembly, write one directive for every push, pop, "
            "add and sub of the stack pointer.",
        ),
        Diagnostic(
            "FF-C002",
            "wrong return address",
            "The CFA is right, but the rule for the return address does not lead to it.",
            "Code that moves or pops its return address (a retpoline, a stub that returns into "
            "another frame) without saying so.",
            "Say where the return address is: .cfi_offset, or .cfi_register with the register "
            "that holds it; .cfi_undefined where there is no caller.",
        ),
        Diagnostic(
            "FF-C003",
            "callee-saved register lost",
            "The rule for a callee-saved register (none means: unchanged) does not lead to the "
            "caller's value. An unwinder hands a wrong value to the caller's frame: variables "
            "shown by a debugger are wrong there, and an exception that is caught there resumes "
            "with a wrong register; if the caller's frame is found through that register, the "
            "rest of the stack is lost as well.",
            "A callee-saved register that is pushed or stored and then overwritten without "
            ".cfi_offset; a wrong offset or register number; a rule that is not taken back by "
            ".cfi_restore after the register was restored and its slot reused. At a call: a "
            "register kept in one that the callee may change, or below the stack pointer, where "
            "the call writes its return address.",
            "Add .cfi_offset (or .cfi_rel_offset) right after the instruction that saves the "
            "register, and .cfi_restore right after the one that restores it.",
        ),
        Diagnostic(
            "FF-C004",
            "saved value below the stack pointer",
            "The rule names the right slot, but the stack pointer has already moved above it by "
            "more than the red zone, so a signal handler's frame may overwrite it before an "
            "unwinder reads it. Only an unwind from a signal that arrives here is affected.",
            "A register is restored from a slot that is released at the same time, and its rule "
            "is kept. On i386 there is no red zone.",
            "Add .cfi_restore right after the register is restored.",
        ),
        Diagnostic(
            "FF-C006",
            "CFI contradicts itself",
            "No visible edge leads to this code, so its row was taken at its word. Followed from "
            "there, the code arrives at a place whose row says something else.",
            "One of the two rows is wrong; often a missing .cfi_restore_state before code that is "
            "reached through a jump table or a function pointer.",
            "Compare the two rows with the code that leads to each (fullframe cfi show).",
        ),
        Diagnostic(
            "FF-C007",
            "signal trampoline without S",
            "The code loads the number of sigreturn or rt_sigreturn and makes that system call, "
            "but its CIE lacks the S augmentation. For every frame without S an unwinder takes "
            "the address it came back to for a return address and looks up the byte before it; "
            "the address that a signal interrupted is none.",
            "A missing .cfi_signal_frame; CFI written as data with an augmentation string "
            "copied from an ordinary function.",
            "Add .cfi_signal_frame after .cfi_startproc (or S to the augmentation string).",
        ),
        Diagnostic(
            "FF-C008",
            "signal trampoline without a byte before it",
            "The CFI begins with the first instruction of a signal trampoline. Nothing calls a "
            "trampoline: a handler returns to its first instruction, and an unwinder that comes "
            "from the handler looks up the byte before that.",
            "The nop that belongs between .cfi_startproc and the trampoline's label was taken "
            "for padding and removed; a start address in CFI written as data that is not one "
            "byte early.",
            "Put a nop between .cfi_startproc and the label.",
        ),
        Diagnostic(
            "FF-C010",
            "malformed call-frame information",
            "An entry of .eh_frame or .debug_frame cannot be read as the DWARF standard or the "
            "LSB describe it, overlaps another, or describes code outside of any executable "
            "section. Unwinders ignore it, stop there, or read on at the wrong place.",
            "A damaged or truncated file, a wrong length in CFI that was written as data, or a "
            "linker that discarded the code and kept its CFI.",
            "Look at the entry at the offset given (readelf --debug-dump=frames) and rebuild the "
            "object that it came from.",
        ),
        Diagnostic(
            "FF-C011",
            ".eh_frame_hdr disagrees with .eh_frame",
            "The table by which unwinders find an FDE does not match the FDEs that are there.",
            "A tool changed one section without the other, or the linker was told to keep a table "
            "that it did not make.",
            "Link again with --eh-frame-hdr, after the last tool that edits .eh_frame.",
        ),
        Diagnostic(
            "FF-C012",
            "the file does not hold what its headers claim",
            "A header of the ELF file names sections, segments or relocations that are not in it. "
            "What is there was checked; of the rest nothing is known, and nothing is counted.",
            "A file that was cut off on its way, or an image saved from memory without the section "
            "headers that its ELF header still names.",
            "Compare the file's size with the original's; an image from memory is read by its "
            "program headers, and a baseline can hold this finding.",
        ),
        Diagnostic(
            "FF-C013",
            "part of a function without call-frame information",
            "Control goes on, within one function by its symbol's size, from code that an FDE "
            "covers to code that none does, or comes from there into it. An unwinder that starts "
            "in the uncovered part, or comes to it from a callee, finds no rule and ends there.",
            "A .cfi_endproc before the end of the function, as behind its first call; a "
            ".cfi_startproc behind its first instructions. Code that is a function of its own, "
            "without call-frame information, is not reported.",
            "Put .cfi_startproc right behind the function's label and .cfi_endproc right before "
            "its .size, and write the directives for the instructions between.",
        ),
    )
)
