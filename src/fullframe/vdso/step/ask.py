"""Asking each unwinder for the caller's registers, and holding its answer against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from fullframe.run.gdb import GdbError, GdbProcess
from fullframe.run.ptrace import TracedProcess
from fullframe.run.stepped import UNWINDERS_IN_PROCESS, AnsweredFrame, read_answered
from fullframe.vdso.step.own import CannotUnwindError, LoadedObject, Memory, unwind
from fullframe.vdso.step.result import Answer
from fullframe.vdso.step.session import SIGUSR2, Session
from fullframe.vdso.step.walk import BEYOND, Stop, register_name
from fullframe.x86.flags import RF, TF
from fullframe.x86.registers import AX, BP, BX, CX, DI, DX, FLAGS, IP, SI, SP, Machine

#: All of them, in the order of the columns.
UNWINDERS = ("gdb", "libgcc", "libunwind", "fullframe")

#: libunwind's own numbers of i386 (``libunwind-x86.h``: eax edx ecx ebx esi edi ebp esp eip); those
#: of x86-64 are DWARF's.
_LIBUNWIND_I386 = (AX, DX, CX, BX, SI, DI, BP, SP, IP)


#: Of the flags, those that single-stepping itself sets and clears as it pleases.
_STEPPING_FLAGS = TF | RF


class Asker(Protocol):
    """One or more unwinders that can be asked at a stop."""

    def ask(self, stop: Stop) -> dict[str, Answer]:
        """Return unwinder to answer."""
        ...


def judged(
    machine: Machine, expected: Mapping[int, int], got: Mapping[int, int], message: str = ""
) -> Answer:
    """Make an answer of what an unwinder gave."""
    given = {register_name(machine, number): got[number] for number in expected if number in got}
    if FLAGS in expected and FLAGS in got and not (expected[FLAGS] ^ got[FLAGS]) & ~_STEPPING_FLAGS:
        given[register_name(machine, FLAGS)] = expected[FLAGS]
    ok = all(
        given.get(register_name(machine, number)) == value for number, value in expected.items()
    )
    return Answer(ok and not message, given, message)


def without_flags(stop: Stop) -> Stop:
    """Expect no flags, of an unwinder that cannot be asked for them."""
    kept = {number: value for number, value in stop.expected.items() if number != FLAGS}
    return replace(stop, expected=kept)


def asks_beyond(stop: Stop) -> bool:
    """Tell whether the caller's caller is asked for, too."""
    return BEYOND + IP in stop.expected


def beyond(got: Mapping[int, int]) -> dict[int, int]:
    """Number the registers of the caller's caller apart from the caller's."""
    return {BEYOND + number: value for number, value in got.items()}


class AskGdb:
    """Asks gdb, which steps the process itself."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def ask(self, stop: Stop) -> dict[str, Answer]:
        """Ask for the registers of the frame that is meant."""
        target = self._session.target
        assert isinstance(target, GdbProcess)
        got: dict[int, int] = {}
        message = ""
        try:
            got = target.registers(stop.level)
            if asks_beyond(stop):
                got |= beyond(target.registers(stop.level + 1))
        except GdbError as error:
            # Without the frame beyond, its registers are just not there.
            message = "" if got else f"no frame {stop.level}: {error}"
        return {"gdb": judged(target.machine, stop.expected, got, message)}


class AskRows:
    """Asks fullframe itself: what the rows say, evaluated."""

    def __init__(self, machine: Machine, objects: Sequence[LoadedObject], memory: Memory) -> None:
        self._machine = machine
        self._objects = objects
        self._memory = memory

    def ask(self, stop: Stop) -> dict[str, Answer]:
        """Unwind by the rows."""
        got: dict[int, int] = {}
        message = ""
        try:
            got = unwind(self._objects, stop.registers, self._memory, stop.level)
            if asks_beyond(stop):
                further = unwind(self._objects, stop.registers, self._memory, stop.level + 1)
                got |= beyond(further)
        except CannotUnwindError as error:
            message = "" if got else str(error)
        return {"fullframe": judged(self._machine, stop.expected, got, message)}


class AskInProcess:
    """Asks the unwinders that run in the process itself, from a signal handler, as profilers do.

    Args:
        session: under ptrace.
        names: those of ``libgcc`` and ``libunwind`` that are to be asked.
    """

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        self._session = session
        self._names = names
        self._machine = session.program.machine

    def ask(self, stop: Stop) -> dict[str, Answer]:
        """Let each unwind from the interrupted instruction."""
        # libgcc cannot be asked for a register that may have no place, libunwind has no number.
        flags = (register_name(self._machine, FLAGS),)
        left_out = flags if FLAGS in stop.expected else ()
        asked = without_flags(stop)
        return {name: replace(self._ask(name, asked), not_asked=left_out) for name in self._names}

    def _ask(self, name: str, stop: Stop) -> Answer:
        session = self._session
        target = session.target
        assert isinstance(target, TracedProcess)
        session.write_control("asked", UNWINDERS_IN_PROCESS.index(name))
        session.write_control("frame_count", 0)
        wrong = target.ask(SIGUSR2)
        data = session.read_answer()
        frames = read_answered(data, session.read_control().frame_count)
        if len(frames) <= stop.level:
            found = f"it finds {max(len(frames) - 1, 0)} of {stop.level} frames"
            return judged(self._machine, stop.expected, {}, wrong or found)
        read = self._libgcc if name == "libgcc" else self._libunwind
        got = read(frames[stop.level])
        if asks_beyond(stop) and len(frames) > stop.level + 1:
            got |= beyond(read(frames[stop.level + 1]))
        return judged(self._machine, stop.expected, got, wrong or "")

    def _libgcc(self, frame: AnsweredFrame) -> dict[int, int]:
        mask = (1 << self._machine.bits) - 1
        got = {IP: frame.ip & mask, SP: frame.stack_pointer & mask}
        for number, hardware in self._machine.dwarf_to_hardware.items():
            if hardware not in got:
                got[hardware] = frame.registers[number] & mask
        return got

    def _libunwind(self, frame: AnsweredFrame) -> dict[int, int]:
        numbers: Mapping[int, int] = self._machine.dwarf_to_hardware
        if self._machine.bits == 32:
            numbers = dict(enumerate(_LIBUNWIND_I386))
        return {
            hardware: frame.registers[number]
            for number, hardware in numbers.items()
            if frame.known >> number & 1
        }
