"""The catalogue of what ``fullframe table lint`` reports."""

from __future__ import annotations

from fullframe.diagnostics import Diagnostic, catalogue

MISSING_ANNOTATION = "FF-T001"
NEEDLESS_ANNOTATION = "FF-T002"
HALF_ANNOTATED = "FF-T003"
UNKNOWN_LATER_COLUMN = "FF-T004"
READ_DIFFERENTLY = "FF-T005"

DIAGNOSTICS = catalogue(
    (
        Diagnostic(
            MISSING_ANNOTATION,
            "call needs the full register frame and is not annotated",
            "The call's handler reads or writes slots of struct pt_regs that the fast path does "
            "not write at entry or does not reload at exit. Called from the fast path it takes "
            "leftovers of the kernel stack for the user's bx, bp and r12-r15, or what it writes "
            "never reaches the user.",
            "A call was added, moved to another ABI, or given an entry point of its own, and the "
            "annotation was forgotten in that line; or the table is of a kernel without a fast "
            "path (Linux 4.16 and newer need no annotation, every frame is full there).",
            "Write :regs (or /ptregs) after the entry point.",
        ),
        Diagnostic(
            NEEDLESS_ANNOTATION,
            "annotation that nothing needs",
            "No call of this name or entry point is known to use more of the frame than its "
            "arguments and its return value. The annotation sends it through the slow path "
            "for nothing, or the entry point is not implemented at all.",
            "A line was copied, or the handler no longer uses the frame; or it is a call of your "
            "own that does, which fullframe cannot know.",
            "Take the annotation out; for a call of your own that needs the full frame, name it: "
            "fullframe table lint --needs NAME.",
        ),
        Diagnostic(
            HALF_ANNOTATED,
            "one entry point of the call is annotated, the other is not",
            "The entry has two entry points that both need the full register frame, and only one "
            "says so: processes that come in by the other way get a partial frame.",
            "The annotation was written in one column and forgotten in the other.",
            "Annotate both entry points.",
        ),
        Diagnostic(
            UNKNOWN_LATER_COLUMN,
            "later column that no kernel is known to have",
            "After the entry points comes a word that is not noreturn, the only one that Linux "
            "tables have there.",
            "A misspelling, a blank inside a name, or a column of a newer kernel.",
            "Correct it if it is a mistake; it is kept as it is, and nothing depends on it.",
        ),
        Diagnostic(
            READ_DIFFERENTLY,
            "line that the kernel's own scripts read differently",
            "The kernel's syscalltbl.sh takes only lines that begin with a digit, and every word "
            "after that for a column: it drops an indented entry, and takes a comment behind an "
            "entry for entry points.",
            "The line was indented, or a comment was put behind an entry.",
            "Begin entries in the first column, and give each comment a line of its own.",
        ),
    )
)
