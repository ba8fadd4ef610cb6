"""From decoded instructions to effects.

Most instructions have no effect on what is tracked and must be dismissed at once: a table
indexed by ``Instruction.code`` says which never matter, which matter only for the register or
the memory they write, and which need a full look. The table fills itself from what iced-x86
says of the first instruction of each code. Full looks are remembered by encoding. An
instruction that is not modelled clobbers what iced-x86 says it writes.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from typing import Final

from iced_x86 import (
    Code,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
)

from fullframe.track import effects as fx
from fullframe.track import stack_effects as stack
from fullframe.track.coarse import in_coarse_space
from fullframe.track.effects import Apply, Effect, Memory
from fullframe.track.handlers import HANDLERS
from fullframe.track.operands import HARDWARE, IMMEDIATES, SIZE_BYTES, VECTOR, VECTORS_ONLY
from fullframe.track.state import StateSpace
from fullframe.track.values import UNKNOWN
from fullframe.x86.registers import AX, BP, BX, CX, DI, DX, R11, SI, SP

#: What a code needs: nothing, a look at what operand 0 is, or a full look.
DISMISSED: Final = 0
WRITES_OPERAND_0: Final = 1
FULL_LOOK: Final = 2
FLOW: Final = 3
CONDITIONAL_BRANCH: Final = 4
DIRECT_CALL: Final = 5
NEAR_JUMP: Final = 6
RETURN: Final = 7
UNSEEN: Final = -1

WRITES = frozenset(
    {OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE}
)
_MOST_ENCODINGS = 1 << 16
_MOST_EFFECTS = 1 << 15
_CODES: Final = max(getattr(Code, name) for name in dir(Code) if name.isupper()) + 1
_REGISTERS: Final = 256


#: Registers that a system call by an instruction of its own changes, by word size. SYSCALL: the
#: way back in rcx, the flags in r11. 32-bit code: ecx, and edx where SYSEXIT needs it; ebp brings
#: an argument or the stack pointer, and which value of it comes back depends on the kernel
#: (arch/x86/entry/entry_64_compat.S).
FAST_CALL_WRITES: Final = {
    (64, Mnemonic.SYSCALL): (AX, CX, R11),
    (64, Mnemonic.SYSENTER): (AX, CX, R11),
    (32, Mnemonic.SYSCALL): (AX, CX, BP),
    (32, Mnemonic.SYSENTER): (AX, CX, DX, BP),
}


def _fast_call(bits: int, written: tuple[int, ...]) -> fx.Apply:
    if bits == 64:
        return fx.clobber(written)
    return fx.sequence((fx.clobber(written), fx.set_register(BP, UNKNOWN)))


#: Stands for the effect of an instruction that has none.
NO_EFFECT: Final = Effect(("nothing",), lambda space, state: state, moves_frame=False)


class Classifier:
    """Turns instructions of one machine into effects for one state space.

    Args:
        space: the states that the effects will act on.

    Attributes:
        relevance: per ``Instruction.code``, what it needs (``UNSEEN`` until it is met).
        tracked_register: per iced register, whether a write to it matters.
        tracked_base: per iced register, whether a store through it matters.
        effects: those made so far, by number.
        by_encoding: encodings already looked at, to their effect; ``NO_EFFECT`` where there is
            none.
    """

    def __init__(self, space: StateSpace) -> None:
        self.space = space
        machine = space.machine
        self.word_bytes = machine.word_bytes
        self.relevance = array("b", [UNSEEN]) * _CODES
        self.by_encoding: dict[bytes, Effect] = {}
        self.tracked_register = bytearray(_REGISTERS)
        self.tracked_base = bytearray(_REGISTERS)
        tracked = range(16) if space.precise else (*machine.callee_saved, SP)
        bases = range(16) if space.precise else (SP, BP)
        for iced, hardware in HARDWARE.items():
            self.tracked_register[iced] = hardware in tracked
            self.tracked_base[iced] = hardware in bases
        if space.precise:
            for iced in VECTOR:
                self.tracked_register[iced] = True
        self._factory = InstructionInfoFactory()
        self._interned: dict[object, Effect] = {}
        self.effects: dict[int, Effect] = {}
        self.scratch = tuple(
            register
            for register in range(16 if machine.bits == 64 else 8)
            if register != SP and register not in machine.callee_saved
        )
        self.call = self.intern(("call",), lambda: stack.call(self.scratch))
        self.call_inside = self.intern(
            ("call inside",), lambda: stack.call_as_push(self.word_bytes)
        )
        kernel = (AX, CX, R11) if machine.bits == 64 else (AX,)
        self.system_call = self.intern(("system call",), lambda: fx.clobber(kernel))
        self._fast_calls: dict[int, Effect] = {
            mnemonic: self.intern(("fast call", written), partial(_fast_call, bits, written))
            for (bits, mnemonic), written in FAST_CALL_WRITES.items()
            if bits == machine.bits
        }

    def intern(self, key: tuple[object, ...], make: Callable[[], Apply]) -> Effect:
        """Return the one effect of that key, making it on first use."""
        found = self._interned.get(key)
        if found is None:
            found = self._interned[key] = Effect(key, make(), moves_frame=_moves_frame(key))
            self.effects[found.number] = found
        return found

    def trim(self) -> None:
        """Keep memory bounded; between functions only."""
        if len(self._interned) > _MOST_EFFECTS:
            # States remember what followed them by effect: they go as well.
            self._interned.clear()
            self.by_encoding.clear()
            # Whoever still has effects by number keeps what there were.
            self.effects = {}
            self.space.forget()
        self.space.trim()

    def system_call_by(self, mnemonic: int) -> Effect:
        """Return the effect of a system call by ``syscall``, ``sysenter`` or ``int``."""
        return self._fast_calls.get(mnemonic, self.system_call)

    def call_that_pops(self, popped_bytes: int) -> Effect:
        """A call whose callee takes ``popped_bytes`` of arguments off the stack."""
        return self.intern(
            ("call pops", popped_bytes), lambda: stack.call(self.scratch, popped_bytes)
        )

    def call_that_keeps(self, kept: frozenset[int]) -> Effect:
        """A call whose callee leaves these caller-clobbered registers alone."""
        scratch = tuple(register for register in self.scratch if register not in kept)
        return self.intern(("call keeps", kept), lambda: stack.call(scratch))

    def call_that_clobbers(self, registers: tuple[int, ...]) -> Effect:
        """A call of a thunk that loads these registers and changes nothing else.

        Compilers know their own thunks, and keep other values in caller-clobbered registers.
        """
        return self.intern(("call clobbers", registers), lambda: stack.call(registers))

    def equal_registers(self, one: int, other: int) -> Effect:
        """On this edge both registers hold the same."""
        return self.intern(("equal", one, other), lambda: fx.equate(one, other))

    # -- relevance ---------------------------------------------------------------------------

    def look_at_code(self, instruction: Instruction) -> int:
        """Find out what an unseen code needs, and remember it."""
        level = self._relevance_of(instruction)
        self.relevance[instruction.code] = level
        return level

    def _relevance_of(self, instruction: Instruction) -> int:
        flow = instruction.flow_control
        if instruction.op_count == 1 and instruction.op0_kind in (
            OpKind.NEAR_BRANCH32,
            OpKind.NEAR_BRANCH64,
        ):
            if flow == FlowControl.CONDITIONAL_BRANCH:
                return CONDITIONAL_BRANCH
            if flow == FlowControl.UNCONDITIONAL_BRANCH:
                return NEAR_JUMP
            if flow == FlowControl.CALL:
                return DIRECT_CALL
        if flow == FlowControl.RETURN and instruction.mnemonic == Mnemonic.RET:
            return RETURN
        if flow != FlowControl.NEXT or instruction.mnemonic in (
            Mnemonic.HLT,
            Mnemonic.IRET,
            Mnemonic.IRETD,
            Mnemonic.IRETQ,
        ):
            return FLOW
        if instruction.is_stack_instruction or instruction.mnemonic in _NEEDS_FULL_LOOK:
            return FULL_LOOK
        info = self._factory.info(instruction)
        operand_registers = set()
        level = DISMISSED
        for operand in range(instruction.op_count):
            if instruction.op_kind(operand) == OpKind.REGISTER:
                operand_registers.add(RegisterExt.full_register(instruction.op_register(operand)))
            if info.op_access(operand) in WRITES:
                if operand != 0:
                    return FULL_LOOK
                level = WRITES_OPERAND_0
        for used in info.used_registers():
            if used.access not in WRITES:
                continue
            full = RegisterExt.full_register(used.register)
            if full not in operand_registers and self.tracked_register[used.register]:
                return FULL_LOOK
        if level == DISMISSED and any(m.access in WRITES for m in info.used_memory()):
            return FULL_LOOK
        if not self.space.precise and instruction.op_code().op0_kind in VECTORS_ONLY:
            return DISMISSED
        return level

    # -- the full look -----------------------------------------------------------------------

    def effect_of(self, instruction: Instruction, encoding: bytes) -> Effect:
        """Return what an instruction that does not transfer control does to a state.

        Args:
            instruction: decoded from ``encoding``.
            encoding: its bytes, the key under which the answer is remembered.

        Returns:
            The effect; ``NO_EFFECT`` where nothing that is tracked changes.
        """
        if len(self.by_encoding) > _MOST_ENCODINGS:
            self.by_encoding.clear()
        effect = self.by_encoding[encoding] = self._look(instruction) or NO_EFFECT
        return effect

    def _look(self, i: Instruction) -> Effect | None:
        handler = HANDLERS.get(i.mnemonic)
        if handler is not None:
            key_and_make = handler(self, i)
            if key_and_make is not None:
                key, make = key_and_make
                if make is None:
                    return None
                if self.space.narrow_pointers:
                    key, make = self._narrowed(i, key, make)
                elif not self.space.precise:
                    key, make = in_coarse_space(self.space.machine, key, make)
                return self.intern(key, make)
        return self._unmodelled(i)

    def _narrowed(
        self, i: Instruction, key: tuple[object, ...], make: Callable[[], Apply]
    ) -> tuple[tuple[object, ...], Callable[[], Apply]]:
        """Add, to what a 32-bit instruction of x32 does, that its targets' upper halves go."""
        narrow = [
            i.op_kind(operand) == OpKind.REGISTER and SIZE_BYTES.get(i.op_register(operand)) == 4
            for operand in range(i.op_count)
        ]
        if i.mnemonic == Mnemonic.LEA and SIZE_BYTES.get(i.memory_base) == 4:
            narrow[0] = True
        registers = tuple(
            HARDWARE[i.op_register(operand)]
            for operand in ((0, 1) if i.mnemonic == Mnemonic.XCHG else (0,))
            if operand < len(narrow) and narrow[operand]
        )
        if not registers:
            return key, make
        cut = fx.narrowed(registers)
        return ("narrow", *key, registers), lambda: fx.sequence((make(), cut))

    def _unmodelled(self, i: Instruction) -> Effect | None:
        """Clobber the registers and the stack slots that iced-x86 says are written."""
        if self._leaves_memory(i):
            return None
        if self.relevance[i.code] == WRITES_OPERAND_0 and i.op0_register in HARDWARE:
            written = HARDWARE[i.op0_register]
            return self.intern(("clobber", written), lambda: fx.clobber((written,)))
        info = self._factory.info(i)
        registers, vectors, parts = set(), set(), []
        for used in info.used_registers():
            if used.access in WRITES and self.tracked_register[used.register]:
                if used.register in VECTOR:
                    vectors.add(VECTOR[used.register])
                else:
                    registers.add(HARDWARE[used.register])
        key: list[object] = ["clobber", *sorted(registers)]
        if i.is_stack_instruction:
            delta = i.stack_pointer_increment
            registers.discard(SP)
            key += ["sp", delta]
            parts.append(stack.push(None, -delta) if delta < 0 else stack.pop(None, delta))
        if registers:
            values = tuple(sorted(registers))
            parts.append(fx.clobber(values))
        for vector in sorted(vectors):
            key += ["vector", vector]
            parts.append(fx.clobber_vector(vector))
        if not i.is_stack_instruction and not i.has_rep_prefix and not i.has_repne_prefix:
            for memory in info.used_memory():
                if memory.access not in WRITES or not self.tracked_base[memory.base]:
                    continue
                size = max(self._memory_size(i), 1)
                place = self._memory_operand(i)
                key += ["store", place, size]
                parts.append(stack.store(place, None, size))
                break
        if not parts:
            return None
        return self.intern(tuple(key), lambda: fx.sequence(tuple(parts)))

    def _leaves_memory(self, i: Instruction) -> bool:
        """Return whether an instruction writes back what it read (``lock orl $0, (%esp)``).

        It is the memory fence of CPUs without ``mfence``, aimed at whatever is on top of the
        stack: in a leaf function the return address.
        """
        if i.op_count != 2 or i.op0_kind != OpKind.MEMORY:
            return False
        if i.mnemonic in (Mnemonic.OR, Mnemonic.ADD, Mnemonic.SUB, Mnemonic.XOR):
            return self._immediate(i, 1) == 0
        return i.mnemonic == Mnemonic.AND and self._immediate(i, 1) == -1

    # -- operands ----------------------------------------------------------------------------

    def _memory_size(self, i: Instruction) -> int:
        return int(MemorySizeExt.size(i.memory_size))

    def _memory_operand(self, i: Instruction) -> Memory:
        base = i.memory_base
        if i.segment_prefix in (Register.FS, Register.GS) or base not in HARDWARE:
            return (None, 0, False)
        if SIZE_BYTES[base] != self.word_bytes and not self.space.narrow_pointers:
            return (None, 0, False)  # an address cut to 32 bits is nowhere near the stack
        indexed = i.memory_index != Register.NONE
        return (HARDWARE[base], self._displacement(i), indexed)

    def _displacement(self, i: Instruction) -> int:
        value: int = i.memory_displacement
        # x32 code addresses the stack through 32-bit registers, which cut the displacement.
        bits = 8 * SIZE_BYTES[i.memory_base]
        return value - (1 << bits) if value >> (bits - 1) else value

    def whole_register(self, i: Instruction, operand: int) -> int | None:
        """Hardware number of a whole-register operand; None for narrower or other ones.

        On x32 the lower half of a register holds a whole address.
        """
        if i.op_kind(operand) != OpKind.REGISTER:
            return None
        register = i.op_register(operand)
        size = SIZE_BYTES.get(register)
        if size == self.word_bytes or (self.space.narrow_pointers and size == 4):
            return HARDWARE[register]
        return None

    def _immediate(self, i: Instruction, operand: int) -> int | None:
        kind = i.op_kind(operand)
        if kind in IMMEDIATES:
            value: int = i.immediate(operand)
            bits = self.space.machine.bits
            value &= (1 << bits) - 1
            return value - (1 << bits) if value >> (bits - 1) else value
        return None


def _moves_frame(key: tuple[object, ...]) -> bool:
    """Return whether an effect is of those that build and take down frames, by its key."""
    kind, *operands = key
    if kind == "narrow":
        return _moves_frame(tuple(operands))
    if kind in _STACK_EFFECTS:
        return True
    if kind == "clobber":
        return "sp" in operands
    if kind == "xchg":
        return SP in operands
    if kind in ("copy", "lea") and operands[0] == BP:
        source = operands[1]
        return (source[0] if isinstance(source, tuple) else source) == SP
    return kind in _SETS_REGISTER and operands[0] == SP


_STACK_EFFECTS = frozenset({"push", "pop", "pusha", "popa", "leave", "enter"})
_SETS_REGISTER = frozenset(
    {"copy", "load", "load half", "set", "lea", "add", "add register", "add something", "align"}
    | {"cmov"}
)

_NEEDS_FULL_LOOK = frozenset({Mnemonic.XCHG, Mnemonic.LEAVE, Mnemonic.ENTER})

__all__ = ["AX", "BX", "DI", "DX", "SI", "Classifier"]
