"""What a system call must do, written from the ABI and not from any entry code.

Sources: System V ABI x86-64, appendix A.2.1 (which registers a call takes and keeps); Linux's
``asm/ptrace.h`` and ``ptrace(2)`` (what a tracer sees and may change); Intel SDM vol. 2 (SYSCALL).

The specification of one call is a generator of the C calls that must happen, in order. Each says
what must be in the frame at that moment, and what the C function then does to it. When the
generator ends, the frame that it has kept says what the user must find.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from fullframe.run.scenario import Edits, Scenario
from fullframe.run.subject import Call, CallKind, FrameCheck
from fullframe.x86.kernel_layout import KernelLayout
from fullframe.x86.ptregs import INDEX_OF_REGISTER, INDEX_OF_SLOT
from fullframe.x86.registers import AX
from fullframe.x86.transitions import UserState

MASK_64 = (1 << 64) - 1
ENOSYS = -38 & MASK_64

ORIG_AX_SLOT = INDEX_OF_SLOT["orig_ax"]
AX_SLOT = INDEX_OF_SLOT["ax"]
FLAGS_SLOT = INDEX_OF_SLOT["flags"]
#: Slots of the six arguments in the order of the arguments.
ARGUMENT_SLOTS = tuple(INDEX_OF_SLOT[slot] for slot in ("di", "si", "dx", "r10", "r8", "r9"))
_NO_EDITS: Edits = {}


@dataclass(frozen=True, slots=True)
class CCall:
    """A call of a C function that must happen next.

    Attributes:
        symbol: the function.
        check: what must be in the frame.
        passes_frame: whether the frame's address is the first argument.
        argument: the first argument, if it is not the frame; None: any.
        arguments: whether the six arguments of the system call are passed.
        edits: what the function writes to the frame.
        result: what it returns; None: nothing in particular (rax is clobbered).
        raises: thread flags that it sets.
        clears: thread flags that it clears.
        is_handler: whether it is the C function of the system call.
    """

    symbol: str
    check: FrameCheck
    passes_frame: bool = True
    argument: int | None = None
    arguments: bool = False
    edits: Edits = field(default_factory=dict)
    result: int | None = None
    raises: int = 0
    clears: int = 0
    is_handler: bool = False


def frame_after_syscall(user: UserState) -> list[int]:
    """Return the frame that C code must find, 21 values from the lowest address.

    Every register as the user left it, but for what SYSCALL and the kernel's convention define:
    cx holds ip and r11 the flags (the user's own are lost), orig_ax the number, ax -ENOSYS.
    """
    frame = [0] * len(INDEX_OF_SLOT)
    for register, slot in enumerate(INDEX_OF_REGISTER):
        frame[slot] = user.registers[register]
    frame[ORIG_AX_SLOT] = user.registers[AX]
    frame[AX_SLOT] = ENOSYS
    frame[INDEX_OF_SLOT["ip"]] = frame[INDEX_OF_SLOT["cx"]] = user.ip
    frame[INDEX_OF_SLOT["flags"]] = frame[INDEX_OF_SLOT["r11"]] = user.flags
    frame[INDEX_OF_SLOT["cs"]] = user.cs
    frame[INDEX_OF_SLOT["ss"]] = user.ss
    return frame


def user_state_of_frame(frame: Sequence[int]) -> UserState:
    """Return the user's registers that a frame stands for."""
    return UserState(
        registers=tuple([frame[slot] for slot in INDEX_OF_REGISTER]),
        ip=frame[INDEX_OF_SLOT["ip"]],
        flags=frame[INDEX_OF_SLOT["flags"]],
        cs=frame[INDEX_OF_SLOT["cs"]],
        ss=frame[INDEX_OF_SLOT["ss"]],
    )


class Specification:
    """What must happen for the calls of one kernel.

    Args:
        calls: every call there is.
        layout: the kernel.
        frames_are_full: whether handlers of ordinary calls are promised a full frame too.
    """

    def __init__(self, calls: Sequence[Call], layout: KernelLayout, frames_are_full: bool) -> None:
        self._calls = {call.number: call for call in calls}
        self._layout = layout
        self._frames_are_full = frames_are_full
        # A number up to the last of its ABI that leads to no call is "not implemented", and its
        # result is -ENOSYS whatever a tracer has put into ax; above that no call is made at all.
        x32_bit = 1 << layout.x32_bit
        numbers = [call.number for call in calls]
        self._last_64 = max((n for n in numbers if n < x32_bit), default=-1)
        self._last_x32 = max((n for n in numbers if n >= x32_bit), default=-1)
        self._first_x32 = x32_bit

    def call(self, scenario: Scenario, frame: list[int]) -> Iterator[CCall]:
        """Yield the C calls of one system call, and keep ``frame`` as it must be.

        Args:
            scenario: the circumstances.
            frame: the frame after SYSCALL; changed along the way.
        """
        layout = self._layout
        flags = scenario.thread_flags
        make_call = True
        if flags & 1 << layout.seccomp_bit:
            edits = scenario.seccomp_edits if scenario.seccomp_refuses else _NO_EDITS
            yield CCall(
                "seccomp_filter",
                FrameCheck.PARTIAL,
                edits=edits,
                result=int(scenario.seccomp_refuses),
            )
            _apply(frame, edits)
            if scenario.seccomp_refuses:
                make_call = False
                frame[ORIG_AX_SLOT] = MASK_64
        if make_call and flags & 1 << layout.syscall_trace_bit:
            yield CCall(
                "ptrace_report_syscall_entry",
                FrameCheck.FULL,
                edits=scenario.tracer_entry_edits,
                result=int(scenario.tracer_refuses),
            )
            _apply(frame, scenario.tracer_entry_edits)
            make_call = not scenario.tracer_refuses
        if make_call:
            made = yield from self._make(scenario, frame)
            flags |= scenario.raised_flags if made else 0
        yield from self._exit_work(scenario, frame, flags)

    def child(self, scenario: Scenario, frame: list[int], previous_task: int) -> Iterator[CCall]:
        """Yield the C calls of a new task, from its first instruction to user mode.

        Args:
            scenario: the circumstances.
            frame: its copy of its parent's frame, edited; changed along the way.
            previous_task: what the switch to the task leaves in rax.
        """
        yield CCall("schedule_tail", FrameCheck.NONE, passes_frame=False, argument=previous_task)
        yield from self._exit_work(scenario, frame, scenario.child_flags)

    def resolve(self, number: int) -> Call | None:
        """Return the call that a number leads to, None if there is none."""
        return self._calls.get(number)

    def _make(self, scenario: Scenario, frame: list[int]) -> Generator[CCall, None, bool]:
        """Make the call that orig_ax names; the generator's value is whether there is one."""
        number = frame[ORIG_AX_SLOT]
        call = self._calls.get(number)
        if call is None or call.handler is None:
            in_table = number <= self._last_64 or self._first_x32 <= number <= self._last_x32
            if in_table:
                frame[AX_SLOT] = ENOSYS
            return False
        needs_full = call.kind is not CallKind.ORDINARY or call.annotated
        full = needs_full or self._frames_are_full
        edits, result = self._handler_acts(scenario, call, frame)
        yield CCall(
            call.handler,
            FrameCheck.FULL if full else FrameCheck.PARTIAL,
            passes_frame=False,
            arguments=True,
            edits=edits,
            result=result,
            raises=scenario.raised_flags,
            is_handler=True,
        )
        _apply(frame, edits)
        frame[AX_SLOT] = result
        return True

    def _handler_acts(self, scenario: Scenario, call: Call, frame: list[int]) -> tuple[Edits, int]:
        """Return what a C function writes to the frame and what it returns.

        The edits of a scenario were drawn for the call that user space asked for; a tracer may
        have sent it elsewhere, to a function that writes nothing.
        """
        if call.kind in (CallKind.ORDINARY, CallKind.FORK):
            return _NO_EDITS, scenario.result
        if call.kind is CallKind.FLAGS:
            slot = INDEX_OF_SLOT["flags"]
            return {slot: frame[slot] | 0x3000}, scenario.result
        edits = scenario.handler_edits
        if call.kind is CallKind.SIGRETURN and AX_SLOT in edits:
            # What sigreturn returns is the ax that it restored.
            return edits, edits[AX_SLOT]
        return edits, scenario.result

    def _exit_work(self, scenario: Scenario, frame: list[int], flags: int) -> Iterator[CCall]:
        layout = self._layout
        if flags & layout.work_syscall_exit:
            yield CCall(
                "ptrace_report_syscall_exit", FrameCheck.FULL, edits=scenario.tracer_exit_edits
            )
            _apply(frame, scenario.tracer_exit_edits)
        schedule_raises = scenario.schedule_raises
        resched = 1 << layout.need_resched_bit
        while flags & layout.work_user:
            if flags & resched:
                yield CCall(
                    "schedule",
                    FrameCheck.NONE,
                    passes_frame=False,
                    raises=schedule_raises,
                    clears=resched,
                )
                flags = flags & ~resched | schedule_raises
                schedule_raises = 0
                continue
            for bit, symbol, edits in (
                (layout.signal_pending_bit, "do_signal", scenario.signal_edits),
                (layout.notify_resume_bit, "tracehook_notify_resume", scenario.notify_edits),
            ):
                if flags & 1 << bit:
                    yield CCall(symbol, FrameCheck.FULL, edits=edits, clears=1 << bit)
                    _apply(frame, edits)
                    flags &= ~(1 << bit)


def _apply(frame: list[int], edits: Edits) -> None:
    for slot, value in edits.items():
        frame[slot] = value
