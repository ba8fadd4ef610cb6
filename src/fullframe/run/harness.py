"""Run entry code, one system call after another, and hold it to the specification.

From the instant after SYSCALL to SYSRET or IRET the real code runs on an emulated CPU. Every C
function of the kernel is a stand-in at which the harness stops: it looks at the frame, the
registers and the mode bits, then does to them what the function of a kernel would do, clobbering
every register that C code may clobber.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from fullframe.run.diagnostics import (
    NOT_LEFT,
    UNWRITTEN_SLOT,
    WRONG_ARGUMENT,
    WRONG_C_CALL,
    WRONG_MODE,
    WRONG_REGISTER,
    WRONG_SLOT,
    WRONG_STACK,
    WRONG_WAY_OUT,
)
from fullframe.run.emulator import (
    FLAGS_ID,
    FRAME,
    GS_BASE_ID,
    IP_ID,
    PER_CPU_BASE,
    REGISTER_IDS,
    STACK_BASE,
    USER_GS_BASE,
    Emulator,
    leaving_instructions,
)
from fullframe.run.image import Image, load_image
from fullframe.run.result import MAX_KEPT, MAX_KEPT_PER_CALL, Difference, Outcome
from fullframe.run.scenario import Scenario
from fullframe.run.specification import (
    ARGUMENT_SLOTS,
    FLAGS_SLOT,
    MASK_64,
    ORIG_AX_SLOT,
    CCall,
    Specification,
    frame_after_syscall,
    user_state_of_frame,
)
from fullframe.run.subject import CallKind, FrameCheck, InternalFunction, Subject
from fullframe.x86.flags import FIXED, IF, RF, TF
from fullframe.x86.ptregs import CALLEE_SAVED_SLOTS, FRAME_BYTES, SLOT_BYTES, SLOTS
from fullframe.x86.registers import AX, CX, DI, DX, R8, R9, R10, R11, SI, SLOT_OF_REGISTER, SP
from fullframe.x86.trace import TracedInstruction
from fullframe.x86.transitions import (
    GeneralProtectionError,
    UserState,
    iret,
    syscall,
    sysret,
    sysret_would_do,
)

_FRAME = struct.Struct(f"<{len(SLOTS)}Q")
_IRET = struct.Struct("<5Q")
_CALLEE_SAVED = len(CALLEE_SAVED_SLOTS)
#: Registers in which a C function takes its arguments (System V ABI x86-64, section 3.2.3).
_C_ARGUMENTS = (DI, SI, DX, CX, R8, R9)
_C_CLOBBERED = (CX, DX, SI, DI, R8, R9, R10, R11)
_AT_CALL = (*(REGISTER_IDS[r] for r in (*_C_ARGUMENTS, SP)), FLAGS_ID, GS_BASE_ID)
_AT_EXIT = (*REGISTER_IDS, FLAGS_ID, GS_BASE_ID)
_NOISE = 64


class Harness:
    """Runs the calls of one subject.

    Args:
        subject: the entry code.
        noise_seed: of the values that C functions leave in clobbered registers, and of poison.
        image: the subject's image, if it is loaded already.
    """

    def __init__(self, subject: Subject, noise_seed: int = 0, image: Image | None = None) -> None:
        self.subject = subject
        self.image = load_image(subject.image) if image is None else image
        self.differences: list[Difference] = []
        self.difference_count = 0
        self.differences_by_call: Counter[str] = Counter()
        self.calls = self.children = 0
        self.left_by: Counter[str] = Counter()
        self.handlers_reached: set[tuple[int, str]] = set()
        #: Names of the slots that held something written when the last handler was reached.
        self.slots_written: tuple[str, ...] = ()
        self._specification = Specification(subject.calls, subject.layout, subject.frames_are_full)
        self._emulator = Emulator(self.image, subject.layout)
        self._leaving = leaving_instructions(self.image)
        self._make_noise(noise_seed)
        self._hook()
        self._record: Callable[[int], None] | None = None
        self._clean = True
        self._index = 0
        self._child: tuple[bytes, list[int]] | None = None

    def record_path(self) -> list[TracedInstruction]:
        """Record every instruction that is executed from now on, stand-ins left out.

        Must come before the first run: Unicorn does not look again at code it has translated.
        """
        recorded: list[TracedInstruction] = []
        address, size_bytes = self.image.sections[".text"]
        lengths: dict[int, bytes] = {}

        def record(at: int) -> None:
            if at not in lengths:
                import iced_x86

                code = self._emulator.read(at, min(15, address + size_bytes - at))
                lengths[at] = code[: iced_x86.Decoder(64, code, ip=at).decode().len]
            recorded.append(TracedInstruction(at, lengths[at]))

        # At the last instruction the harness ends the run before this hook is called.
        self._record = record
        self._emulator.hook_code(address, address + size_bytes, record)
        return recorded

    def run(self, index: int, scenario: Scenario) -> Outcome:
        """Execute one system call, and the child that it may make, and compare.

        Args:
            index: the scenario's index, for reports.
            scenario: the circumstances.

        Returns:
            How it ended; differences are appended to :attr:`differences`.
        """
        self._index, self._scenario = index, scenario
        frame = frame_after_syscall(scenario.user)
        self._child = None
        self._begin(frame, self._specification.call(scenario, frame), scenario.thread_flags)
        poison = self._poisons[index % _NOISE]
        self._poison = poison
        self._emulator.set_memory(
            self._poison_bytes[index % _NOISE], self._garbage, poison[0], scenario.thread_flags
        )
        state = syscall(scenario.user, self.subject.layout)
        self._emulator.write_registers(
            [*zip(REGISTER_IDS, state.registers, strict=True), (FLAGS_ID, state.flags)]
        )
        self.calls += 1
        outcome = self._go(self.subject.entry)
        if outcome.left_by:
            self.left_by[outcome.left_by] += 1
        child = self._child_made()
        if child is not None:
            outcome = Outcome(outcome.user, outcome.left_by, self._run_child(*child))
        return outcome

    def _child_made(self) -> tuple[bytes, list[int]] | None:
        """Return the child's copy of the frame, as it is in memory and as it must be."""
        return self._child

    def _run_child(self, copied: bytes, frame: list[int]) -> Outcome:
        """Follow a child from its first instruction to user mode."""
        scenario = self._scenario
        real = list(_FRAME.unpack(copied))
        for slot, value in scenario.child_edits.items():
            real[slot] = frame[slot] = value
        # A new task's registers hold what the one that made it left there: nothing of the user's.
        values = self._poisons[(self._index + 1) % _NOISE]
        self._begin(
            frame, self._specification.child(scenario, frame, values[AX]), scenario.child_flags
        )
        self._in_child = True
        noise = self._clobbers[self._index % _NOISE]
        self._emulator.set_memory(
            _FRAME.pack(*real), self._garbage, noise[0][1], scenario.child_flags
        )
        self._emulator.write_registers(
            [*zip(REGISTER_IDS, values[:16], strict=True), (REGISTER_IDS[SP], FRAME)]
        )
        self._emulator.write_registers([(FLAGS_ID, FIXED | IF)])
        self._emulator.enter_kernel_gs()
        self.children += 1
        return self._go(self.subject.child_entry)

    def _begin(self, frame: list[int], calls: Iterator[CCall], thread_flags: int) -> None:
        if not self._clean:
            self._emulator.load()
        self._frame, self._calls, self._thread_flags = frame, calls, thread_flags
        self._next = next(calls, None)
        self._entered: set[str] = set()
        self._left_by = ""
        self._user: UserState | None = None
        self._stopped = False
        self._where = "entry"
        self._in_child = False

    def _go(self, symbol: str) -> Outcome:
        """Run from a symbol to user mode, and compare what the user finds."""
        before = self.difference_count
        reason = self._emulator.start(self.image.symbols[symbol])
        if not self._left_by and not self._stopped:
            (ip,) = self._emulator.read_registers((IP_ID,))
            self._differ(
                NOT_LEFT, "user mode", "reached", "yes", f"{reason or 'too long'} at {ip:#x}"
            )
        elif self._left_by:
            missing = self._next
            if missing is not None:
                self._differ(
                    WRONG_C_CALL, "user mode", "C calls", f"{missing.symbol} before", "not called"
                )
            elif self._user is not None:
                self._compare_user(self._user)
        self._clean = self.difference_count == before and self._emulator.kernel_gs_ready()
        return Outcome(self._user, self._left_by)

    def _make_noise(self, seed: int) -> None:
        # Not for secrets: the same seed must give the same run.
        draw = random.Random(seed)
        values = [[draw.getrandbits(64) | 1 << 63 for _ in SLOTS] for _ in range(_NOISE)]
        self._poisons = values
        self._poison = values[0]
        self._poison_bytes = [_FRAME.pack(*poison) for poison in values]
        self._garbage = draw.randbytes(512)
        self._clobbers = [
            [(REGISTER_IDS[register], draw.getrandbits(64)) for register in _C_CLOBBERED]
            for _ in range(_NOISE)
        ]
        self._noise_at = 0

    def _hook(self) -> None:
        emulator, symbols = self._emulator, self.image.symbols
        address, size_bytes = self.image.sections[".handlers"]
        self._by_address = {
            value: name
            for name, value in symbols.items()
            if address <= value < address + size_bytes
        }
        emulator.hook_code(address, address + size_bytes, self._at_c_call)
        for at in self._leaving:
            emulator.hook_code(at, at + 1, self._at_exit)
        for function in self.subject.internal_functions:
            at = symbols[function.symbol]
            emulator.hook_code(at, at + 1, partial(self._at_internal, function))
        emulator.hook_callee_saved_reads(self._at_frame_read)

    def _at_c_call(self, address: int) -> None:
        """A C function of the kernel is entered: judge, then act."""
        symbol = self._by_address.get(address)
        call = self._next
        if call is None or call.symbol != symbol:
            expected = "user mode" if call is None else call.symbol
            self._differ(WRONG_C_CALL, self._where, "C call", expected, symbol or f"{address:#x}")
            self._stop()
            return
        self._where = symbol
        registers = self._emulator.read_registers(_AT_CALL)
        sp = registers[6]
        if not STACK_BASE + 512 <= sp < FRAME or sp % SLOT_BYTES:
            self._differ(WRONG_STACK, symbol, "sp", f"below the frame at {FRAME:#x}", f"{sp:#x}")
            self._stop()
            return
        self._check_mode(symbol, registers[7], registers[8], interrupts=True)
        if call.passes_frame and registers[0] != FRAME:
            self._differ(
                WRONG_ARGUMENT, symbol, "argument", f"frame at {FRAME:#x}", f"{registers[0]:#x}"
            )
        if call.argument is not None and registers[0] != call.argument:
            self._differ_value(WRONG_ARGUMENT, symbol, "argument", call.argument, registers[0])
        if call.arguments:
            self._check_arguments(symbol, registers)
        memory = self._emulator.read(FRAME, FRAME_BYTES)
        self._check_frame(symbol, call.check, memory)
        if call.is_handler:
            self._at_handler(symbol, memory)
        self._act(call, sp)
        # What the function does to the frame counts from here on.
        self._next = next(self._calls, None)

    def _at_handler(self, symbol: str, memory: bytes) -> None:
        values = _FRAME.unpack(memory)
        self.slots_written = tuple(
            slot
            for slot, value, poison in zip(SLOTS, values, self._poison, strict=True)
            if value != poison
        )
        number = self._frame[ORIG_AX_SLOT]
        self.handlers_reached.add((number, symbol))
        made = self._specification.resolve(number)
        if made is not None and made.kind is CallKind.FORK:
            self._child = (memory, list(self._frame))

    def _act(self, call: CCall, sp: int) -> None:
        """Do what the C function does: to the frame, to the thread, to clobbered registers."""
        emulator = self._emulator
        for slot, value in call.edits.items():
            emulator.write(FRAME + slot * SLOT_BYTES, value.to_bytes(8, "little"))
        if call.raises or call.clears:
            self._thread_flags = self._thread_flags & ~call.clears | call.raises
            emulator.set_thread_flags(self._thread_flags)
        self._noise_at = (self._noise_at + 1) % _NOISE
        clobbers = self._clobbers[self._noise_at]
        # Its own stack frame was below its return address; other tasks used the scratch word.
        emulator.write(sp - 128, self._garbage[self._noise_at : self._noise_at + 128])
        emulator.set_user_sp(clobbers[0][1])
        result = clobbers[1][1] if call.result is None else call.result
        emulator.write_registers([*clobbers, (REGISTER_IDS[AX], result)])

    def _at_internal(self, function: InternalFunction, _address: int) -> None:
        """A C function of the image is entered: judge whether it may be, and what it is given."""
        where = function.symbol
        registers = self._emulator.read_registers(_AT_CALL)
        self._check_mode(where, registers[7], registers[8], interrupts=function.interrupts)
        if registers[0] != FRAME:
            self._differ(
                WRONG_ARGUMENT, where, "argument", f"frame at {FRAME:#x}", f"{registers[0]:#x}"
            )
        self._check_frame(where, function.check, self._emulator.read(FRAME, FRAME_BYTES))
        call = self._specification.resolve(self._frame[ORIG_AX_SLOT])
        reason = (
            bool(self._thread_flags & function.work)
            or (function.for_annotated and call is not None and call.annotated)
            or (function.for_iret and bool(self._frame[FLAGS_SLOT] & (TF | RF)))
            or (function.for_child and self._in_child)
            or not self._entered.isdisjoint(function.after)
        )
        self._entered.add(where)
        if not reason:
            self._differ(WRONG_C_CALL, where, "reason to be here", "some work", "none")

    def _at_exit(self, address: int) -> None:
        """SYSRET or IRET is about to execute: execute it."""
        *registers, flags, gs_base = self._emulator.read_registers(_AT_EXIT)
        self._left_by = self._leaving[address]
        if self._record is not None:
            self._record(address)
        if flags & IF:
            self._differ(WRONG_MODE, "user mode", "interrupts before leaving", "off", "on")
        if gs_base != USER_GS_BASE:
            self._differ(WRONG_MODE, "user mode", "GS base", "the user's", f"{gs_base:#x}")
        try:
            if self._left_by == "sysret":
                self._user = sysret(registers, self.subject.layout)
            else:
                if registers[SP] != FRAME + 16 * SLOT_BYTES:
                    expected = f"{FRAME + 16 * SLOT_BYTES:#x}"
                    self._differ(WRONG_STACK, "iret", "sp", expected, f"{registers[SP]:#x}")
                else:
                    popped = _IRET.unpack(self._emulator.read(registers[SP], 40))
                    self._user = iret(registers, popped)
        except GeneralProtectionError as error:
            self._differ(WRONG_WAY_OUT, "user mode", "#GP in kernel mode", "none", str(error))
        self._stop()

    def _at_frame_read(self, address: int, size_bytes: int) -> None:
        """Code of the image is about to read one of the slots that may be unwritten."""
        offset_bytes = address - FRAME
        poison = self._poison_bytes[self._index % _NOISE][offset_bytes : offset_bytes + size_bytes]
        if self._emulator.read(address, size_bytes) == poison and not self._in_child:
            what = f"read of slot {SLOTS[offset_bytes // SLOT_BYTES]}"
            self._differ(UNWRITTEN_SLOT, self._where, what, "none while it is unwritten", "a read")

    def _stop(self) -> None:
        self._stopped = True
        self._emulator.stop()

    def _check_mode(self, where: str, flags: int, gs_base: int, *, interrupts: bool) -> None:
        if gs_base != PER_CPU_BASE:
            self._differ(WRONG_MODE, where, "GS base", "the kernel's", f"{gs_base:#x}")
        if bool(flags & IF) is not interrupts:
            on_off = ("off", "on")
            self._differ(
                WRONG_MODE, where, "interrupts", on_off[interrupts], on_off[not interrupts]
            )
        if flags & self.subject.layout.fmask & ~IF:
            self._differ(
                WRONG_MODE, where, "flags", "those that SYSCALL clears clear", f"{flags:#x}"
            )

    def _check_arguments(self, where: str, registers: tuple[int, ...]) -> None:
        for number, slot in enumerate(ARGUMENT_SLOTS):
            if registers[number] != self._frame[slot]:
                what = f"argument {number + 1} ({SLOTS[slot]})"
                self._differ_value(
                    WRONG_ARGUMENT, where, what, self._frame[slot], registers[number]
                )

    def _check_frame(self, where: str, check: FrameCheck, memory: bytes) -> None:
        if check is FrameCheck.NONE:
            return
        first = 0 if check is FrameCheck.FULL else _CALLEE_SAVED
        expected = _FRAME.pack(*self._frame)
        if memory[first * SLOT_BYTES :] == expected[first * SLOT_BYTES :]:
            return
        got = _FRAME.unpack(memory)
        for slot in range(first, len(SLOTS)):
            if got[slot] != self._frame[slot]:
                unwritten = got[slot] == self._poison[slot] and not self._in_child
                code = UNWRITTEN_SLOT if unwritten else WRONG_SLOT
                what = f"slot {SLOTS[slot]}{' (unwritten)' if unwritten else ''}"
                self._differ_value(code, where, what, self._frame[slot], got[slot])

    def _compare_user(self, user: UserState) -> None:
        expected = user_state_of_frame(self._frame)
        if user != expected:
            names = (*SLOT_OF_REGISTER[:16], "ip", "flags", "cs", "ss")
            for name, right, got in zip(names, _values(expected), _values(user), strict=True):
                if got != right:
                    self._differ_value(WRONG_REGISTER, "user mode", name, right, got)
        way = "sysret" if sysret_would_do(self._frame, self.subject.layout) else "iret"
        if self._left_by != way:
            self._differ(WRONG_WAY_OUT, "user mode", "left by", way, self._left_by)

    def _differ_value(self, code: str, where: str, what: str, expected: int, got: int) -> None:
        self._differ(code, where, what, f"{expected:#x}", f"{got & MASK_64:#x}")

    def _differ(self, code: str, where: str, what: str, expected: str, got: str) -> None:
        self.difference_count += 1
        number = self._scenario.user.registers[AX]
        call = self._specification.resolve(number)
        name = "-" if call is None else f"{call.name}/{call.abi}"
        self.differences_by_call[name] += 1
        # So many of each call: a call that breaks often must not hide another.
        full = len(self.differences) >= MAX_KEPT
        if full or self.differences_by_call[name] > MAX_KEPT_PER_CALL:
            return
        self.differences.append(
            Difference(
                code=code,
                subject=self.subject.name,
                scenario=self._index,
                label=self._scenario.label,
                number=number,
                name=name,
                where=where,
                what=what,
                expected=expected,
                got=got,
            )
        )


def _values(user: UserState) -> tuple[int, ...]:
    return (*user.registers, user.ip, user.flags, user.cs, user.ss)
