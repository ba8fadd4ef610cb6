"""What happens around one system call: who calls, with which registers, and who meddles.

A scenario fixes everything that the entry code does not decide: the user's registers, the thread
flags, what the C function does, what a tracer or a signal writes. The same scenarios are run
under every strategy, so that the strategies can be held to one another as well as to the
specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fullframe.x86.transitions import UserState

#: Writes to the frame: index of the slot (``INDEX_OF_SLOT``) to its new value.
Edits = Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One system call and its circumstances.

    Attributes:
        label: what is special about it: ``plain``, ``traced`` ...
        user: the user's registers when SYSCALL executes; rax holds the number.
        thread_flags: flags that are set when the call comes in.
        raised_flags: flags that come up while the C function of the call runs.
        result: what the C function returns, as a 64-bit value.
        handler_edits: what the C function writes to the frame.
        seccomp_refuses: what the filter decides, if its flag is set.
        seccomp_edits: what the filter writes to the frame when it refuses.
        tracer_refuses: whether the tracer keeps the call from being made.
        tracer_entry_edits: what the tracer writes before the call.
        tracer_exit_edits: what it writes after the call.
        signal_edits: what the delivery of a signal writes.
        notify_edits: what the one who is called before user mode writes.
        schedule_raises: flags that come up while other tasks run.
        child_edits: what a fork-like call changes in the child's copy of the frame.
        child_flags: flags that are set when the child starts.
    """

    label: str
    user: UserState
    thread_flags: int = 0
    raised_flags: int = 0
    result: int = 0
    handler_edits: Edits = field(default_factory=dict)
    seccomp_refuses: bool = False
    seccomp_edits: Edits = field(default_factory=dict)
    tracer_refuses: bool = False
    tracer_entry_edits: Edits = field(default_factory=dict)
    tracer_exit_edits: Edits = field(default_factory=dict)
    signal_edits: Edits = field(default_factory=dict)
    notify_edits: Edits = field(default_factory=dict)
    schedule_raises: int = 0
    child_edits: Edits = field(default_factory=dict)
    child_flags: int = 0
