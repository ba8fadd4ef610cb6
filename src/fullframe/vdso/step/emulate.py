"""Stepping a way into the kernel in the emulator, where no process on this machine goes.

A real process and gdb are still asked: at each emulated instruction the emulated registers and
stack are put into them, and their unwinders unwind from there. Nothing of the image runs in them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from fullframe.elf.image import Image
from fullframe.run.stepped import STACK_WORDS, SteppedProgram
from fullframe.run.vsyscall_emulator import EmulatedProgram, SignalHandler
from fullframe.vdso.step.ask import AskRows
from fullframe.vdso.step.own import LoadedObject
from fullframe.vdso.step.record import Recorder, owner_of, rule_for_flags
from fullframe.vdso.step.result import Answer
from fullframe.vdso.step.scenario import Scenario
from fullframe.vdso.step.session import Session, initial_registers, stack_arguments
from fullframe.vdso.step.walk import Stop, WalkEnd, walk
from fullframe.x86.flags import CF, FIXED
from fullframe.x86.registers import FLAGS, IP, SP

#: Stack below the caller's that is put into a process: far more than the entries push.
_STACK_BYTES = 512


@dataclass(frozen=True, slots=True)
class PosedSession:
    """A session that is given the emulated state, and who is asked there.

    Attributes:
        name: of the session, for the recorder.
        session: stopped at the scenario's call.
        ask: asks its unwinders.
    """

    name: str
    session: Session
    ask: Callable[[Stop], dict[str, Answer]]


def emulate(
    program: SteppedProgram,
    scenario: Scenario,
    owner: LoadedObject,
    done: Collection[int],
    recorder: Recorder,
    posed: Sequence[PosedSession],
    *,
    with_rows: bool,
) -> WalkEnd:
    """Step through a way into the kernel in the emulator.

    Args:
        program: the caller.
        scenario: of an i386 image.
        owner: the image, where the processes have it.
        done: link-time addresses that a process came by: nobody is asked there again.
        recorder: takes the rows.
        posed: processes to ask in.
        with_rows: ask fullframe's own reading of the rows, too.

    Returns:
        How the emulated walk ended.
    """
    call = scenario.calls[0]
    word = program.machine.word_bytes
    stack = program.stack_pointer
    address = scenario.address + owner.load_bias
    begin = "step_interrupt_site" if scenario.is_signal else "step_call_site"
    values = initial_registers(program, call) | {IP: program.symbols[begin], SP: stack}
    emulated = EmulatedProgram(
        [*_segments(program.image, 0), *_segments(owner.image, owner.load_bias)],
        values | {FLAGS: FIXED | CF},
        handler=SignalHandler(program.symbols["step_handler"], address, scenario.with_siginfo),
    )
    emulated.write(stack, stack_arguments(program, call))
    emulated.write(program.symbols["step_target"], address.to_bytes(word, "little"))
    objects = [owner, LoadedObject("program", program.image, 0)]
    rows = AskRows(program.machine, objects, emulated.read)

    def visit(stop: Stop) -> None:
        where = owner_of(objects, stop.registers[IP])
        if where is owner and stop.registers[IP] - owner.load_bias in done:
            return
        for each in posed:
            _pose(each.session, emulated, stack)
            recorder.record(scenario.name, where, stop, each.name, each.ask, "emulator")
        ask = rows.ask if with_rows else _nobody
        recorder.record(scenario.name, where, stop, "rows", ask, "emulator")

    flags = rule_for_flags(owner, scenario.address)
    return walk(emulated, program, scenario, visit, with_flags=flags)


def _nobody(stop: Stop) -> dict[str, Answer]:
    return {}


def _pose(session: Session, emulated: EmulatedProgram, stack: int) -> None:
    """Put the emulated state into a process."""
    assert _STACK_BYTES < STACK_WORDS * 4
    target = session.target
    begin = stack - _STACK_BYTES
    target.write(begin, emulated.read(begin, _STACK_BYTES))
    values = emulated.registers()
    del values[FLAGS]  # single-stepping has its own
    target.write_registers(values)


def _segments(image: Image, load_bias: int) -> list[tuple[int, bytes]]:
    """Return what a loader puts into memory: (run-time address, bytes)."""
    found = []
    for segment in image.segments:
        if segment.type == 1 and segment.memory_size_bytes:
            data = bytes(image.read(segment.address, segment.file_size_bytes))
            size_bytes = min(segment.memory_size_bytes, 1 << 24)
            found.append((segment.address + load_bias, data.ljust(size_bytes, b"\0")))
    return found
