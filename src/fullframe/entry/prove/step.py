"""What one instruction that does not transfer control does to what is known.

The tracker's effects serve for whatever only moves whole registers and addresses; the
instructions that entry code is made of besides (modes, parts of registers, tests, CR3) are
modelled here. An instruction that is modelled nowhere clobbers what iced-x86 says it writes, and
if it writes memory, the path ends as not proved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from iced_x86 import (
    Instruction,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpKind,
    Register,
    RegisterExt,
)

from fullframe.entry.prove.contract import Contract
from fullframe.entry.prove.memory import Memory, signed
from fullframe.entry.prove.state import UNSURE, USERS, Condition, Known, Modes
from fullframe.entry.prove.values import (
    KERNEL_TABLES,
    LIVE_FLAGS,
    USER_TABLES,
    PageTables,
    expression,
    something,
)
from fullframe.track.classify import WRITES, Classifier
from fullframe.track.operands import HARDWARE
from fullframe.track.state import StateSpace
from fullframe.track.values import OTHER, Address, Constant, Value, address, constant
from fullframe.x86.flags import AC, DF, IF, NT
from fullframe.x86.registers import AX, CX, DX, SP

_MASK64 = (1 << 64) - 1
#: Bit of CR3 that tells the user's half of a pair of page tables from the kernel's (Linux
#: ``PTI_USER_PGTABLE_BIT``: the page-sized halves of an 8 KiB root).
_USER_TABLES_BIT = 1 << 12


class Stepper:
    """Steps over instructions.

    Args:
        contract: harmless registers and the like.
        memory: the image's memory.
        space: the tracker's states.

    Attributes:
        problems: what the last step did that is wrong.
        unproved: why the last step could not be followed.
    """

    def __init__(self, contract: Contract, memory: Memory, space: StateSpace) -> None:
        self.contract = contract
        self.memory = memory
        self.space = space
        self.classifier = Classifier(space)
        self.problems: list[str] = []
        self.unproved: list[str] = []
        self._info = InstructionInfoFactory()

    def step(self, known: Known, i: Instruction, raw: bytes) -> Known:
        """Return what is known after an instruction; problems go to the two lists."""
        handler = _HANDLERS.get(i.mnemonic)
        if handler is not None:
            return handler(self, known, i)
        return self._unmodelled(known, i, raw)

    # ------------------------------------------------------------------ operands

    def size(self, i: Instruction, operand: int) -> int:
        """Return an operand's size in bytes."""
        kind = i.op_kind(operand)
        if kind == OpKind.REGISTER:
            return int(RegisterExt.size(i.op_register(operand)))
        if kind == OpKind.MEMORY:
            return int(MemorySizeExt.size(i.memory_size))
        return 8

    def value(self, known: Known, i: Instruction, operand: int) -> Value:
        """Return an operand's value, zero-extended to a word (immediates: sign-extended)."""
        kind = i.op_kind(operand)
        if kind == OpKind.REGISTER:
            return self.register(known, i.op_register(operand))
        if kind == OpKind.MEMORY:
            place = self.memory.place(known, i)
            return self.memory.read(known, place, self.size(i, operand), self.problems)
        return constant(i.immediate(operand) & _MASK64)

    def register(self, known: Known, register: Any) -> Value:
        """Return what a general register, or a part of one, holds."""
        number = HARDWARE.get(register)
        if number is None:
            return OTHER
        value = known.machine.registers[number]
        size = RegisterExt.size(register)
        if size == 8:
            return value
        if size == 4:
            return expression("low32", value)
        if register in (Register.AH, Register.BH, Register.CH, Register.DH):
            return something("a part of a register")
        return expression("and", value, (1 << 8 * size) - 1)

    def set(self, known: Known, i: Instruction, operand: int, value: Value) -> Known:
        """Write an operand."""
        if i.op_kind(operand) == OpKind.MEMORY:
            place = self.memory.place(known, i)
            size = self.size(i, operand)
            return self.memory.write(known, place, size, value, self.problems, self.unproved)
        register = i.op_register(operand)
        number = HARDWARE.get(register)
        if number is None:
            self.unproved.append(f"writes a register that is not modelled: {i}")
            return known
        size = RegisterExt.size(register)
        if size == 4:
            value = expression("low32", value)
        elif size < 4:
            value = something("a register of which a part was overwritten")
        return self.set_register(known, number, value)

    def set_register(self, known: Known, number: int, value: Value) -> Known:
        """Write a whole general register."""
        if value is OTHER:
            value = something("something")
        return known._replace(machine=self.space.with_register(known.machine, number, value))

    def push(self, known: Known, value: Value) -> Known:
        """Push a word."""
        pointer = known.machine.registers[SP]
        if not isinstance(pointer, Address):
            self.unproved.append("pushes to a stack that is not known")
            return known
        place = address(pointer.region, pointer.offset_bytes - 8)
        known = self.memory.write(known, place, 8, value, self.problems, self.unproved)
        return self.set_register(known, SP, place)

    def pop(self, known: Known) -> tuple[Known, Value]:
        """Pop a word."""
        pointer = known.machine.registers[SP]
        if not isinstance(pointer, Address):
            self.unproved.append("pops from a stack that is not known")
            return known, OTHER
        value = self.memory.read(known, pointer, 8, self.problems)
        beyond = address(pointer.region, pointer.offset_bytes + 8)
        return self.set_register(known, SP, beyond), value

    # ------------------------------------------------------------------ everything else

    def _unmodelled(self, known: Known, i: Instruction, raw: bytes) -> Known:
        info = self._info.info(i)
        if any(memory.access in WRITES for memory in info.used_memory()):
            self.unproved.append(f"writes memory in a way that is not modelled: {i}")
            return known
        machine = known.machine
        effect = self.classifier.effect_of(i, raw)
        if effect is not None:
            after = effect.after(self.space, machine)
            values = tuple(
                something(f"the result of {i}") if value is OTHER else value
                for value in after.registers
            )
            machine = self.space.make(values, after.slots)
        if i.rflags_modified:
            known = known._replace(condition=None)
        return known._replace(machine=machine)


Handler = Callable[[Stepper, Known, Instruction], Known]


def _is_register_twice(i: Instruction) -> bool:
    kinds = i.op0_kind == OpKind.REGISTER == i.op1_kind
    return kinds and i.op0_register == i.op1_register


def _result(s: Stepper, known: Known, i: Instruction, value: Value) -> Known:
    """Write operand 0 and let the flags stand for the result."""
    mask = (1 << 8 * s.size(i, 0)) - 1
    known = s.set(known, i, 0, value)
    return known._replace(condition=Condition("test", value, None, mask))


def _mov(s: Stepper, known: Known, i: Instruction) -> Known:
    if i.op0_kind == OpKind.REGISTER and i.op0_register not in HARDWARE:
        return _mov_to_system(s, known, i)
    if i.op1_kind == OpKind.REGISTER and i.op1_register not in HARDWARE:
        return s.set(known, i, 0, _system_register(known, i.op1_register))
    return s.set(known, i, 0, s.value(known, i, 1))


def _system_register(known: Known, register: int) -> Value:
    if register == Register.CR3 and known.modes.tables in ("user", "kernel"):
        return USER_TABLES if known.modes.tables == "user" else KERNEL_TABLES
    return something("a system register")


def _mov_to_system(s: Stepper, known: Known, i: Instruction) -> Known:
    value = s.value(known, i, 1)
    if i.op0_register == Register.CR3 and isinstance(value, PageTables):
        return known._replace(modes=known.modes._replace(tables=value.whose))
    s.unproved.append(f"writes a system register: {i}")
    return known


def _movsxd(s: Stepper, known: Known, i: Instruction) -> Known:
    if s.size(i, 0) == 8 and s.size(i, 1) == 4:
        if i.op1_kind == OpKind.REGISTER:
            return s.set(known, i, 0, expression("int", s.register(known, i.op1_register)))
        return s.set(known, i, 0, expression("int", s.value(known, i, 1)))
    return s.set(known, i, 0, something("a sign-extended value"))


def _movzx(s: Stepper, known: Known, i: Instruction) -> Known:
    return s.set(known, i, 0, s.value(known, i, 1))


def _lea(s: Stepper, known: Known, i: Instruction) -> Known:
    if i.is_ip_rel_memory_operand:
        return s.set(known, i, 0, constant(i.ip_rel_memory_address))
    place = s.memory.place(known, i)
    value = place if isinstance(place, Address) else something(f"the result of {i}")
    return s.set(known, i, 0, value)


def _push(s: Stepper, known: Known, i: Instruction) -> Known:
    if i.stack_pointer_increment != -8:
        s.unproved.append(f"pushes less than a word: {i}")
        return known
    return s.push(known, s.value(known, i, 0))


def _pop(s: Stepper, known: Known, i: Instruction) -> Known:
    if i.stack_pointer_increment != 8:
        s.unproved.append(f"pops less than a word: {i}")
        return known
    known, value = s.pop(known)
    return s.set(known, i, 0, value)


def _pushf(s: Stepper, known: Known, i: Instruction) -> Known:
    modes = known.modes
    if modes.ac == modes.df == modes.nt == USERS:
        return s.push(known, LIVE_FLAGS)
    return s.push(known, something("the kernel's flags"))


def _popf(s: Stepper, known: Known, i: Instruction) -> Known:
    known, value = s.pop(known)
    if isinstance(value, Constant):
        flags = value.number
        modes = known.modes._replace(
            interrupts="on" if flags & IF else "off",
            ac=int(bool(flags & AC)),
            df=int(bool(flags & DF)),
            nt=int(bool(flags & NT)),
        )
    else:
        modes = known.modes._replace(interrupts=UNSURE, ac=UNSURE, df=UNSURE, nt=UNSURE)
    return known._replace(modes=modes, condition=None)


def _modes(**changed: str | int) -> Handler:
    def handler(s: Stepper, known: Known, i: Instruction) -> Known:
        modes: Modes = known.modes._replace(**changed)  # type: ignore[arg-type]
        return known._replace(modes=modes)

    return handler


def _swapgs(s: Stepper, known: Known, i: Instruction) -> Known:
    other = {"user": "kernel", "kernel": "user"}.get(known.modes.gs, UNSURE)
    return known._replace(modes=known.modes._replace(gs=other))


def _add_or_sub(sign: int) -> Handler:
    def handler(s: Stepper, known: Known, i: Instruction) -> Known:
        one, other = s.value(known, i, 0), s.value(known, i, 1)
        if i.mnemonic == Mnemonic.SUB and _is_register_twice(i):
            return _result(s, known, i, constant(0))
        return _result(s, known, i, _sum(one, other, sign, i))

    return handler


def _sum(one: Value, other: Value, sign: int, i: Instruction) -> Value:
    if isinstance(other, Constant):
        delta = sign * signed(other.number)
        if isinstance(one, Address):
            return address(one.region, one.offset_bytes + delta)
        if isinstance(one, Constant):
            return constant((one.number + delta) & _MASK64)
    return something(f"the result of {i}")


def _increment(delta: int) -> Handler:
    def handler(s: Stepper, known: Known, i: Instruction) -> Known:
        return _result(s, known, i, _sum(s.value(known, i, 0), constant(1), delta, i))

    return handler


def _logic(s: Stepper, known: Known, i: Instruction) -> Known:
    one, other = s.value(known, i, 0), s.value(known, i, 1)
    if i.mnemonic == Mnemonic.XOR and _is_register_twice(i):
        return _result(s, known, i, constant(0))
    return _result(s, known, i, _combine(i, one, other))


def _combine(i: Instruction, one: Value, other: Value) -> Value:
    if isinstance(one, Constant) and isinstance(other, Constant):
        a, b = one.number, other.number
        result = {Mnemonic.AND: a & b, Mnemonic.OR: a | b, Mnemonic.XOR: a ^ b}[i.mnemonic]
        return constant(result)
    if isinstance(one, PageTables) and isinstance(other, Constant):
        mask = other.number
        if i.mnemonic == Mnemonic.OR:
            return USER_TABLES if mask & _USER_TABLES_BIT else one
        if i.mnemonic == Mnemonic.AND and mask >> 13 == _MASK64 >> 13:
            return one if mask & _USER_TABLES_BIT else KERNEL_TABLES
    if i.mnemonic == Mnemonic.AND and isinstance(other, Constant) and not isinstance(one, Address):
        return expression("and", one, other.number)
    return something(f"the result of {i}")


def _shift(s: Stepper, known: Known, i: Instruction) -> Known:
    count = s.value(known, i, 1)
    operation = {Mnemonic.SHL: "shl", Mnemonic.SAR: "sar"}.get(i.mnemonic)
    if operation is None or not isinstance(count, Constant) or s.size(i, 0) != 8:
        return _result(s, known, i, something(f"the result of {i}"))
    return _result(s, known, i, expression(operation, s.value(known, i, 0), count.number & 63))


def _bit(s: Stepper, known: Known, i: Instruction) -> Known:
    """BT, BTS, BTR, BTC: of a register only by a known number; of memory the place may be any."""
    if i.op0_kind == OpKind.MEMORY and i.op1_kind == OpKind.REGISTER:
        return _bit_string(s, known, i)
    one, number = s.value(known, i, 0), s.value(known, i, 1)
    if not isinstance(number, Constant):
        known = known._replace(condition=None)
        if i.mnemonic == Mnemonic.BT:
            return known
        return s.set(known, i, 0, something(f"the result of {i}"))
    bit = number.number & (8 * s.size(i, 0) - 1)
    condition = Condition("bit", one, None, bit)
    if i.mnemonic == Mnemonic.BTR:
        known = s.set(known, i, 0, expression("without bit", one, bit))
    elif i.mnemonic == Mnemonic.BTS and isinstance(one, PageTables) and bit == 63:
        pass  # the bit that keeps the TLB: which page tables they are stays
    elif i.mnemonic != Mnemonic.BT:
        known = s.set(known, i, 0, something(f"the result of {i}"))
    return known._replace(condition=condition)


def _bit_string(s: Stepper, known: Known, i: Instruction) -> Known:
    place = s.memory.place(known, i)
    s.memory.read(known, place, 8, s.problems)
    if i.mnemonic != Mnemonic.BT:
        spoilt = something("a bit string")
        known = s.memory.write(known, place, 8, spoilt, s.problems, s.unproved)
    return known._replace(condition=None)


def _cmp(s: Stepper, known: Known, i: Instruction) -> Known:
    size = s.size(i, 0)
    one, other = s.value(known, i, 0), s.value(known, i, 1)
    if isinstance(other, Constant) and size < 8:
        other = constant(other.number & ((1 << 8 * size) - 1))
    return known._replace(condition=Condition("compare", one, other, 8 * size))


def _test(s: Stepper, known: Known, i: Instruction) -> Known:
    size = s.size(i, 0)
    mask = (1 << 8 * size) - 1
    one, other = s.value(known, i, 0), s.value(known, i, 1)
    if i.op0_kind == OpKind.REGISTER == i.op1_kind:
        same = i.op0_register == i.op1_register
        number = mask if same else None
    elif isinstance(other, Constant):
        number = other.number & mask
    else:
        number = None
    if number is None:
        return known._replace(condition=None)
    return known._replace(condition=Condition("test", one, None, number))


def _wrmsr(s: Stepper, known: Known, i: Instruction) -> Known:
    register = known.machine.registers[CX]
    if not isinstance(register, Constant) or register.number not in s.contract.harmless_msrs:
        s.unproved.append("writes a model-specific register of which the contract says nothing")
    return known


def _rdmsr(s: Stepper, known: Known, i: Instruction) -> Known:
    for number in (AX, DX):
        known = s.set_register(known, number, something("a model-specific register"))
    return known


def _cannot(s: Stepper, known: Known, i: Instruction) -> Known:
    s.unproved.append(f"changes what the prover does not follow: {i}")
    return known


def _nothing(s: Stepper, known: Known, i: Instruction) -> Known:
    return known


def _flags_lost(s: Stepper, known: Known, i: Instruction) -> Known:
    return known._replace(condition=None)


_HANDLERS: dict[int, Handler] = {
    Mnemonic.MOV: _mov, Mnemonic.MOVSXD: _movsxd, Mnemonic.MOVZX: _movzx,
    Mnemonic.LEA: _lea, Mnemonic.PUSH: _push, Mnemonic.POP: _pop,
    Mnemonic.PUSHFQ: _pushf, Mnemonic.POPFQ: _popf,
    Mnemonic.ADD: _add_or_sub(1), Mnemonic.SUB: _add_or_sub(-1),
    Mnemonic.INC: _increment(1), Mnemonic.DEC: _increment(-1),
    Mnemonic.AND: _logic, Mnemonic.OR: _logic, Mnemonic.XOR: _logic,
    Mnemonic.SHL: _shift, Mnemonic.SHR: _shift, Mnemonic.SAR: _shift,
    Mnemonic.BT: _bit, Mnemonic.BTS: _bit, Mnemonic.BTR: _bit, Mnemonic.BTC: _bit,
    Mnemonic.CMP: _cmp, Mnemonic.TEST: _test,
    Mnemonic.SWAPGS: _swapgs,
    Mnemonic.STI: _modes(interrupts="on"), Mnemonic.CLI: _modes(interrupts="off"),
    Mnemonic.CLD: _modes(df=0), Mnemonic.STD: _modes(df=1),
    Mnemonic.CLAC: _modes(ac=0), Mnemonic.STAC: _modes(ac=1),
    Mnemonic.WRMSR: _wrmsr, Mnemonic.RDMSR: _rdmsr,
    Mnemonic.WRGSBASE: _cannot, Mnemonic.LGDT: _cannot, Mnemonic.LIDT: _cannot,
    Mnemonic.LTR: _cannot, Mnemonic.LLDT: _cannot, Mnemonic.LMSW: _cannot,
    Mnemonic.NOP: _nothing, Mnemonic.ENDBR64: _nothing, Mnemonic.PAUSE: _nothing,
    Mnemonic.LFENCE: _nothing, Mnemonic.MFENCE: _nothing, Mnemonic.SFENCE: _nothing,
    Mnemonic.VERW: _flags_lost,
}  # fmt: skip
