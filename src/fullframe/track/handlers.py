"""What single mnemonics do: from an instruction to the key and the making of its effect.

An instruction without a handler, and one that a handler does not want, clobbers what iced-x86
says it writes (:mod:`fullframe.track.classify`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from iced_x86 import Code, Instruction, Mnemonic, OpKind

from fullframe.track import effects as fx
from fullframe.track import stack_effects as stack
from fullframe.track.effects import Apply
from fullframe.track.operands import HARDWARE, SIZE_BYTES, VECTOR
from fullframe.track.values import OTHER, constant
from fullframe.x86.registers import AX, BP, BX, CX, DI, DX, SI, SP

if TYPE_CHECKING:
    from fullframe.track.classify import Classifier

Made = tuple[tuple[object, ...], Callable[[], Apply] | None] | None
Handler = Callable[["Classifier", Instruction], Made]
_NOTHING: Final[Made] = (("nothing",), None)


def _made(key: tuple[object, ...], apply: Apply) -> Made:
    return key, lambda: apply


def _mov(c: Classifier, i: Instruction) -> Made:
    target, source = c.whole_register(i, 0), c.whole_register(i, 1)
    if target is not None:
        if source is not None:
            return _made(("copy", target, source), fx.copy(target, source))
        if i.op1_kind == OpKind.MEMORY:
            place = c._memory_operand(i)
            if place[0] is not None:
                if c._memory_size(i) < c.word_bytes:
                    return _made(("load half", target, place), stack.load_half(target, place))
                return _made(("load", target, place), stack.load(target, place))
            return None
        number = c._immediate(i, 1)
        if number is not None:
            value = constant(number & ((1 << c.space.machine.bits) - 1))
            return _made(("set", target, number), fx.set_register(target, value))
        return None
    if i.op0_kind == OpKind.REGISTER and SIZE_BYTES.get(i.op0_register) == 4 and c.word_bytes == 8:
        number = c._immediate(i, 1)
        if number is not None:  # a 32-bit move zero-extends
            hardware = HARDWARE[i.op0_register]
            value = constant(number & 0xFFFFFFFF)
            return _made(("set", hardware, value), fx.set_register(hardware, value))
        return None
    if i.op0_kind == OpKind.MEMORY:
        place = c._memory_operand(i)
        if place[0] is None:
            return _NOTHING
        if place[2]:
            if source is None or not c.space.precise:
                return _NOTHING
            return _made(("store indexed", place[0], source), stack.store_indexed(place[0], source))
        size = c._memory_size(i)
        return _made(("store", place, source, size), stack.store(place, source, size))
    return None


def _lea(c: Classifier, i: Instruction) -> Made:
    target = c.whole_register(i, 0)
    if target is None or i.memory_base not in HARDWARE:
        return None
    base, displacement, indexed = c._memory_operand(i)
    if base is None:
        return None
    if indexed:
        index, scale = HARDWARE.get(i.memory_index), i.memory_index_scale
        if index is None:
            return None
        return _made(
            ("lea", target, base, index, scale, displacement),
            fx.load_sum(target, base, index, scale, displacement),
        )
    place = (base, displacement, False)
    return _made(("lea", target, place), fx.load_address(target, place))


def _push(c: Classifier, i: Instruction) -> Made:
    size = -i.stack_pointer_increment
    if (
        i.op_count
        and i.op0_kind == OpKind.REGISTER
        and SIZE_BYTES.get(i.op0_register) == c.word_bytes
    ):
        register = HARDWARE[i.op0_register]
        return _made(("push", register, size), stack.push(register, size))
    if i.op_count and i.op0_kind == OpKind.MEMORY:
        place = c._memory_operand(i)
        if place[0] is not None and not place[2] and size == c.word_bytes:
            return _made(("push", place, size), stack.push_memory(place, size))
    return _made(("push", None, size), stack.push(None, size))


def _pop(c: Classifier, i: Instruction) -> Made:
    size = i.stack_pointer_increment
    if i.op_count and i.op0_kind == OpKind.REGISTER and i.op0_register in HARDWARE:
        register = HARDWARE[i.op0_register]
        if size == c.word_bytes:
            return _made(("pop", register, size), stack.pop(register, size))
        return _made(
            ("pop part", register, size),
            fx.sequence((stack.pop(None, size), fx.set_register(register, OTHER))),
        )
    if i.op_count and i.op0_kind == OpKind.MEMORY:
        place = c._memory_operand(i)
        return _made(("pop", place, size), stack.pop_memory(place, size))
    return _made(("pop", None, size), stack.pop(None, size))


def _pusha(c: Classifier, i: Instruction) -> Made:
    if i.mnemonic != Mnemonic.PUSHAD:
        return None
    return _made(("pusha",), stack.push_all(4))


def _popa(c: Classifier, i: Instruction) -> Made:
    if i.mnemonic != Mnemonic.POPAD:
        return None
    order = (DI, SI, BP, None, BX, DX, CX, AX)  # not the stack pointer (SDM, POPA/POPAD)
    return _made(("popa",), fx.sequence(tuple(stack.pop(target, 4) for target in order)))


def _add_or_sub(sign: int) -> Handler:
    def handler(c: Classifier, i: Instruction) -> Made:
        target = c.whole_register(i, 0)
        if target is None:
            return None
        number = c._immediate(i, 1)
        if number is not None:
            return _made(("add", target, sign * number), fx.add(target, sign * number))
        source = c.whole_register(i, 1)
        if source is not None and source != target:
            return _made(
                ("add register", target, source, sign), fx.add_register(target, source, sign)
            )
        if c.space.precise or target == SP:  # a distance from memory: alloca
            return _made(("add something", target), fx.add_something(target))
        return None

    return handler


def _increment(delta: int) -> Handler:
    def handler(c: Classifier, i: Instruction) -> Made:
        target = c.whole_register(i, 0)
        return None if target is None else _made(("add", target, delta), fx.add(target, delta))

    return handler


def _and(c: Classifier, i: Instruction) -> Made:
    target, mask = c.whole_register(i, 0), c._immediate(i, 1)
    if target is None or mask is None:
        return None
    return _made(("align", target, mask), fx.align(target, mask))


def _xchg(c: Classifier, i: Instruction) -> Made:
    one, other = c.whole_register(i, 0), c.whole_register(i, 1)
    if one is not None and other is not None:
        return _made(("xchg", one, other), fx.exchange(one, other))
    if i.op0_kind == OpKind.MEMORY and other is not None:
        place = c._memory_operand(i)
        if place[0] is not None and not place[2]:
            apply = stack.exchange_memory(other, place, c._memory_size(i))
            return _made(("xchg", place, other), apply)
    return None


def _cmov(c: Classifier, i: Instruction) -> Made:
    target = c.whole_register(i, 0)
    if target is None:
        return None
    source = c.whole_register(i, 1)
    return _made(("cmov", target, source), fx.maybe_copy(target, source))


def _leave(c: Classifier, i: Instruction) -> Made:
    return _made(("leave",), stack.leave(c.word_bytes))


def _enter(c: Classifier, i: Instruction) -> Made:
    if i.code == Code.ENTERW_IMM16_IMM8:
        return None
    size, level = i.immediate16, i.immediate8_2nd % 32
    return _made(("enter", size, level), stack.enter(size, level, c.word_bytes))


def _movq(c: Classifier, i: Instruction) -> Made:
    if not c.space.precise:
        # The coarse space does not follow vector registers.
        general = i.op0_kind == OpKind.REGISTER and i.op0_register in HARDWARE
        return None if general or i.op0_kind == OpKind.MEMORY else _NOTHING
    if i.op0_kind == OpKind.REGISTER and i.op1_kind == OpKind.REGISTER:
        if i.mnemonic in (Mnemonic.MOVD, Mnemonic.VMOVD) and c.word_bytes == 8:
            return None  # half of a register
        target, source = c.whole_register(i, 0), c.whole_register(i, 1)
        if target is not None and i.op1_register in VECTOR:
            vector = VECTOR[i.op1_register]
            return _made(("from vector", target, vector), fx.from_vector(target, vector))
        if source is not None and i.op0_register in VECTOR:
            vector = VECTOR[i.op0_register]
            return _made(("to vector", vector, source), fx.to_vector(vector, source))
    return None


def _nothing(c: Classifier, i: Instruction) -> Made:
    return _NOTHING


HANDLERS: Final[dict[int, Handler]] = {
    Mnemonic.MOV: _mov,
    Mnemonic.LEA: _lea,
    Mnemonic.PUSH: _push,
    Mnemonic.PUSHF: _push,
    Mnemonic.PUSHFD: _push,
    Mnemonic.PUSHFQ: _push,
    Mnemonic.POP: _pop,
    Mnemonic.POPF: _pop,
    Mnemonic.POPFD: _pop,
    Mnemonic.POPFQ: _pop,
    Mnemonic.PUSHAD: _pusha,
    Mnemonic.POPAD: _popa,
    Mnemonic.ADD: _add_or_sub(1),
    Mnemonic.SUB: _add_or_sub(-1),
    Mnemonic.INC: _increment(1),
    Mnemonic.DEC: _increment(-1),
    Mnemonic.AND: _and,
    Mnemonic.XCHG: _xchg,
    Mnemonic.LEAVE: _leave,
    Mnemonic.ENTER: _enter,
    Mnemonic.MOVQ: _movq,
    Mnemonic.MOVD: _movq,
    Mnemonic.VMOVQ: _movq,
    Mnemonic.VMOVD: _movq,
    Mnemonic.NOP: _nothing,
}
for _name in dir(Mnemonic):
    if _name.startswith("CMOV"):
        HANDLERS[getattr(Mnemonic, _name)] = _cmov
