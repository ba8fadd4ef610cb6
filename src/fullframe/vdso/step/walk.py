"""Stepping from a caller back to it, and knowing at every instruction what is true.

The truth is what the registers were: of the call that is being stepped through, and of every call
that the stepped code itself makes; or of the interrupted instruction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from iced_x86 import Decoder, FlowControl, Instruction

from fullframe.run.gdb import GdbError, GdbProcess
from fullframe.run.stepped import ProgramDiedError, SteppedProgram, TimeLimitError
from fullframe.vdso.step.scenario import Scenario
from fullframe.vdso.step.session import SIGUSR1, Target
from fullframe.x86.registers import FLAGS, IP, SP, Machine

#: Instructions after which a scenario is given up: a loop that waits for something.
MOST_STEPS = 20_000
#: Visits of an instruction after which a debugger runs on.
_LOOP_VISITS = 3


#: What is written below the stack: no address on either machine.
_BURIED_BYTES = 256
_BURIED = b"\xdb" * _BURIED_BYTES

#: What is added to a register's number where the caller's caller is meant.
BEYOND = 32


def register_name(machine: Machine, number: int) -> str:
    """Name a register that is expected: the caller's, or the caller's caller's."""
    if number < BEYOND:
        return machine.register_names[number]
    return f"caller's {machine.register_names[number - BEYOND]}"


@dataclass(frozen=True, slots=True)
class Stop:
    """The process about to execute one instruction.

    Attributes:
        registers: its registers.
        expected: hardware number to value: what the caller has there. From ``BEYOND`` on: what its
            own caller has.
        level: frames up to that caller.
        encoding: the instruction's bytes.
    """

    registers: dict[int, int]
    expected: dict[int, int]
    level: int
    encoding: bytes


@dataclass(frozen=True, slots=True)
class WalkEnd:
    """How a walk ended.

    Attributes:
        returned: it came back to the caller.
        message: why it did not; "" otherwise.
        last: registers at the last instruction seen.
        differing: registers that the caller did not get back: number to (expected, got).
    """

    returned: bool
    message: str
    last: dict[int, int]
    differing: dict[int, tuple[int, int]]


def walk(
    target: Target,
    program: SteppedProgram,
    scenario: Scenario,
    visit: Callable[[Stop], None],
    landmarks: Collection[int] = (),
    *,
    with_flags: bool = False,
) -> WalkEnd:
    """Step from the call to the return, or from the handler to the interrupted instruction.

    Args:
        target: launched, and stopped just before the call or the interruption.
        program: what it runs.
        scenario: what is stepped.
        visit: called before each instruction outside of the caller.
        landmarks: addresses of the function's instructions to which a debugger may run on from a
            loop; without any, loops are stepped to their end.
        with_flags: expect the interrupted instruction's flags, too.

    Returns:
        How it ended. A process that dies, or takes too long, ends the walk.
    """
    walker = _Walker(target, program, scenario, landmarks, with_flags)
    try:
        walker.enter()
        while not walker.is_back and walker.steps < MOST_STEPS:
            walker.bury()
            visit(walker.stop())
            walker.step()
    except (ProgramDiedError, TimeLimitError, GdbError) as error:
        return WalkEnd(False, str(error), walker.registers, {})
    target.stop_clock()
    if not walker.is_back:
        text = f"not back after {MOST_STEPS} instructions"
        return WalkEnd(False, text, walker.registers, {})
    expected = walker.expectations[0]
    differing = {
        number: (value, walker.registers[number])
        for number, value in expected.items()
        if number < BEYOND and number != FLAGS and walker.registers[number] != value
    }
    return WalkEnd(True, "", walker.registers, differing)


class _Walker:
    def __init__(
        self,
        target: Target,
        program: SteppedProgram,
        scenario: Scenario,
        landmarks: Collection[int],
        with_flags: bool,
    ) -> None:
        self._target = target
        self._program = program
        self._scenario = scenario
        self._machine: Machine = program.machine
        symbols = program.symbols
        self._end = symbols["step_interrupted" if scenario.is_signal else "step_returned"]
        self._handler = range(symbols["step_handler"], symbols["step_handler_end"])
        self._landmarks = set(landmarks)
        self._with_flags = with_flags
        self._visits: Counter[int] = Counter()
        self._encoding = b""
        self._instruction: Instruction | None = None
        self.registers = target.registers()
        self.expectations: list[dict[int, int]] = []
        self.steps = 0

    @property
    def is_back(self) -> bool:
        """Whether the caller's, or the interrupted, instruction is next."""
        return self.registers[IP] == self._end and len(self.expectations) == 1

    def enter(self) -> None:
        """Go to the function's, or the handler's, first instruction."""
        before = self.registers
        if self._scenario.is_signal:
            self._advance()
            # It is interrupted at the first instruction of a function.
            word = self._machine.word_bytes
            stack = self.registers[SP]
            back = int.from_bytes(self._target.read(stack, word), "little")
            truth = self.registers | {BEYOND + IP: back, BEYOND + SP: stack + word}
            if not self._with_flags:
                del truth[FLAGS]
            self.expectations = [truth]
            self._advance(SIGUSR1)
        else:
            expected = {number: before[number] for number in self._scenario.preserved}
            self.expectations = [expected | {SP: before[SP], IP: self._end}]
            self._advance()

    def _advance(self, number: int = 0) -> None:
        self._target.step(number)
        self.registers = self._target.registers()
        self.steps += 1

    def stop(self) -> Stop:
        """Decode the instruction that is next."""
        address = self.registers[IP]
        self._encoding = self._target.read(address, 15)
        decoded = Decoder(self._machine.bits, self._encoding, ip=address).decode()
        self._instruction = decoded
        level = 2 if address in self._handler and self._scenario.is_signal else 1
        length = decoded.len if not decoded.is_invalid else 1
        return Stop(self.registers, self.expectations[-1], level, self._encoding[:length])

    def bury(self) -> None:
        """Overwrite what lies below the stack pointer, where the next signal may.

        A rule that still leads there is right only by luck. The red zone is left alone.
        """
        end = self.registers[SP] - self._machine.red_zone_bytes
        self._target.write(end - _BURIED_BYTES, _BURIED)

    def step(self) -> None:
        """Execute it, and keep account of who calls whom."""
        instruction, before = self._instruction, self.registers
        if self._leaves_loop():
            return
        self._advance()
        if instruction is None or self._scenario.is_signal:
            return
        after = before[IP] + instruction.len
        # A call of the next instruction is how i386 code learns its own address: a push.
        called = (
            instruction.flow_control in (FlowControl.CALL, FlowControl.INDIRECT_CALL)
            and self.registers[IP] != after
            and self.registers[SP] == before[SP] - self._machine.word_bytes
        )
        if called:
            kept = {number: before[number] for number in self._machine.callee_saved}
            self.expectations.append(kept | {SP: before[SP], IP: after})
        elif len(self.expectations) > 1 and self.registers[IP] == self.expectations[-1][IP]:
            self.expectations.pop()

    def _leaves_loop(self) -> bool:
        """Run out of a loop, under a debugger.

        A loop that reads the time until nobody has changed it meanwhile never ends if it is
        stepped slowly: the kernel changes the time a few hundred times a second.
        """
        address = self.registers[IP]
        self._visits[address] += 1
        self._landmarks.discard(address)
        nested = len(self.expectations) > 1
        if nested or self._visits[address] < _LOOP_VISITS or not self._landmarks:
            return False
        assert isinstance(self._target, GdbProcess)
        self._target.run_to([*self._landmarks, self._end])
        self.registers = self._target.registers()
        self.steps += 1
        return True
