"""The stepped program, brought to where a scenario begins: under ptrace, and under gdb alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from fullframe.elf.image import Image
from fullframe.errors import InputError
from fullframe.run.stepped import (
    ARGUMENT_WORDS,
    CONTROL_BYTES,
    Control,
    SteppedProgram,
    control_field,
    read_control,
)
from fullframe.vdso.step.own import LoadedObject
from fullframe.vdso.step.scenario import STACK_ARGUMENT, Scenario, register_pattern
from fullframe.x86.registers import IP, SP

SIGUSR1, SIGUSR2 = 10, 12
#: What a mapping may have at most to be read as an ELF image.
_MOST_IMAGE_BYTES = 1 << 24


class Target(Protocol):
    """A process, or what stands for one, stopped at an instruction."""

    def registers(self) -> dict[int, int]:
        """Return hardware number (and ``IP``) to value."""
        ...

    def write_registers(self, values: Mapping[int, int]) -> None:
        """Set registers."""
        ...

    def read(self, address: int, size_bytes: int) -> bytes:
        """Read memory; fewer bytes where nothing is mapped."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Write memory; nothing where it is not mapped."""
        ...

    def run_to_breakpoint(self) -> None:
        """Run on to a breakpoint instruction of the program's own."""
        ...

    def step(self, number: int = 0) -> None:
        """Execute one instruction; with a signal, enter its handler."""
        ...

    def restart_clock(self) -> None:
        """Let the limit of time begin anew."""
        ...

    def stop_clock(self) -> None:
        """Let time pass until the clock is started again."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class Session:
    """One process of the program; started when first needed, again after it died.

    Args:
        program: what is run.
        start: starts it, and lets it run to its first breakpoint.
    """

    def __init__(self, program: SteppedProgram, start: Callable[[], Target]) -> None:
        self.program = program
        self._start = start
        self._target: Target | None = None
        self._stack_pointer = 0
        self.control: Control | None = None
        #: Called with each new process, when its image is loaded.
        self.prepare: Callable[[Target, Control], None] | None = None

    @property
    def target(self) -> Target:
        """The process, set up and waiting."""
        if self._target is None:
            target = self._start()
            self._target = target
            self._stack_pointer = target.registers()[SP]
            self.control = self.read_control()
            if self.prepare is not None:
                self.prepare(target, self.control)
            target.stop_clock()
        return self._target

    @property
    def started_control(self) -> Control:
        """What the program told when it was started; it is started if it has to be."""
        _ = self.target
        assert self.control is not None
        return self.control

    def close(self) -> None:
        """End the process, if there is one."""
        target, self._target = self._target, None
        if target is not None:
            target.close()

    def read_control(self) -> Control:
        """Read what the program tells."""
        return read_control(self.read_answer())

    def read_answer(self) -> bytes:
        """Read all of ``struct step_control``."""
        return self.target.read(self.program.symbols["step_control"], CONTROL_BYTES)

    def write_control(self, field: str, value: int) -> None:
        """Set one field of ``struct step_control``."""
        address = self.program.symbols["step_control"] + control_field(field)
        self.target.write(address, value.to_bytes(8, "little"))

    def launch(self, scenario: Scenario, call: Mapping[int, int | str], address: int) -> None:
        """Bring the program to just before the call, or to where it will be interrupted.

        Args:
            scenario: what is to be stepped.
            call: one of its calls.
            address: run-time address of its function.
        """
        target, symbols = self.target, self.program.symbols
        target.restart_clock()
        machine = self.program.machine
        word = machine.word_bytes
        self.write_control("is_signal", int(scenario.is_signal))
        self.write_control("with_siginfo", int(scenario.with_siginfo))
        target.write(symbols["step_target"], address.to_bytes(word, "little"))
        values = initial_registers(self.program, call)
        registers = b"".join(values.get(number, 0).to_bytes(word, "little") for number in range(16))
        target.write(symbols["step_registers"], registers[: 16 * word])
        target.write(self.program.stack_pointer, stack_arguments(self.program, call))
        # As behind a call: the return address takes the stack pointer off its alignment.
        stack = (self._stack_pointer - 1024 & -16) - word
        target.write_registers({IP: symbols["step_begin"], SP: stack})
        target.run_to_breakpoint()


def initial_registers(program: SteppedProgram, call: Mapping[int, int | str]) -> dict[int, int]:
    """Return the caller's registers at the call, by hardware number."""
    values = register_pattern(program.machine)
    for place, value in call.items():
        if place < STACK_ARGUMENT:
            values[place] = _number(program, value)
    return values


def stack_arguments(program: SteppedProgram, call: Mapping[int, int | str]) -> bytes:
    """Return the caller's stack from its stack pointer up."""
    word = program.machine.word_bytes
    words = [0] * ARGUMENT_WORDS
    for place, value in call.items():
        if place >= STACK_ARGUMENT:
            words[place - STACK_ARGUMENT] = _number(program, value)
    return b"".join(value.to_bytes(word, "little") for value in words)


def _number(program: SteppedProgram, value: int | str) -> int:
    if isinstance(value, str):
        return program.symbols["step_buffer"] + int(value.partition("+")[2])
    return value & (1 << program.machine.bits) - 1


# ------------------------------------------------------------------ what is where in the process


def kernel_object(pid: int, read: Callable[[int, int], bytes], name: str) -> LoadedObject | None:
    """Read the vDSO that the kernel mapped into a process; None if it mapped none."""
    for begin, end, _, path in _mappings(pid):
        if path == "[vdso]":
            data = read(begin, min(end - begin, _MOST_IMAGE_BYTES))
            return _placed(name, Image.from_bytes(data, name), begin, 0)
    return None


def file_object(pid: int, address: int) -> LoadedObject | None:
    """Find the file that an address of a process is mapped from, as a loaded object."""
    for begin, end, offset, path in _mappings(pid):
        if begin <= address < end and path.startswith("/"):
            try:
                return _placed(Path(path).name, Image.open(path), begin, offset)
            except InputError:
                return None
    return None


def _placed(name: str, image: Image, begin: int, offset: int) -> LoadedObject:
    """Make a loaded object of an image whose file offset ``offset`` is mapped at ``begin``."""
    for segment in image.segments:
        if segment.type == 1 and segment.offset & -4096 <= offset < (
            segment.offset + segment.file_size_bytes
        ):
            return LoadedObject(name, image, begin - (segment.address + offset - segment.offset))
    return LoadedObject(name, image, begin - offset)


def _mappings(pid: int) -> list[tuple[int, int, int, str]]:
    """Return (begin, end, file offset, path) of a process's mappings (proc(5))."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text("utf-8", "surrogateescape").splitlines():
        fields = line.split(None, 5)
        begin, _, end = fields[0].partition("-")
        path = fields[5] if len(fields) > 5 else ""
        found.append((int(begin, 16), int(end, 16), int(fields[2], 16), path))
    return found
