"""Evaluation of DWARF expressions, over numbers or over symbolic values.

Source: DWARF 5, sections 2.5 and 6.4.2 (which operations an unwind rule may use). Where DWARF
leaves room, libgcc's unwinder decides: comparisons and division are signed, ``mod`` and ``shr``
are not, and the stack holds 64 values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from fullframe.cfi.operations import (
    ExpressionError,
    Operation,
    decode_expression,
    expression_text,
)
from fullframe.x86.registers import Machine

__all__ = [
    "ExpressionError", "IntegerReader", "Reader", "decode_expression", "evaluate",
    "expression_text", "fold",
]  # fmt: skip

V = TypeVar("V")

DEEPEST_STACK = 64
MOST_STEPS = 4096

_BINARY = {
    0x1A: "and", 0x1B: "div", 0x1C: "minus", 0x1D: "mod", 0x1E: "mul", 0x21: "or", 0x22: "plus",
    0x24: "shl", 0x25: "shr", 0x26: "shra", 0x27: "xor", 0x29: "eq", 0x2A: "ge", 0x2B: "gt",
    0x2C: "le", 0x2D: "lt", 0x2E: "ne",
}  # fmt: skip
_UNARY = {0x19: "abs", 0x1F: "neg", 0x20: "not"}


class Reader(Protocol[V]):
    """What an evaluation asks its surroundings, over any kind of value.

    A method may raise :class:`ExpressionError` where it has no answer.
    """

    def constant(self, value: int) -> V:
        """Return a known number (it may be negative; the reader cuts it to its word)."""
        ...

    def register(self, dwarf_register: int) -> V:
        """Return the value of a register in the frame being unwound."""
        ...

    def dereference(self, address: V, size_bytes: int) -> V:
        """Return what memory holds, zero-extended to a word."""
        ...

    def unary(self, operator: str, operand: V) -> V:
        """Apply ``abs``, ``neg`` or ``not``."""
        ...

    def binary(self, operator: str, left: V, right: V) -> V:
        """Apply an operator; ``right`` was on top of the stack.

        The operators: and or xor plus minus mul div mod shl shr shra eq ne lt le gt ge; the last
        six give 0 or 1.
        """
        ...

    def truth(self, value: V) -> bool | None:
        """Tell whether a value is other than zero; None if that is not known."""
        ...


def evaluate(
    code: bytes,
    machine: Machine,
    initial_stack: Sequence[V],
    reader: Reader[V],
    address_size_bytes: int | None = None,
) -> V:
    """Evaluate an expression.

    Args:
        code: its bytes.
        machine: whose words it computes with.
        initial_stack: what is on the stack at the start, the top last: the CFA for the rule of a
            register, nothing for the rule of the CFA.
        reader: registers, memory and arithmetic.
        address_size_bytes: size of an address in memory, if not the machine's word (x32: 4).

    Returns:
        The value on top of the stack at the end.

    Raises:
        ExpressionError: malformed, not meaningful in an unwind rule, a branch on a value that is
            not known, too many steps, a stack that runs empty or over.
    """
    size = address_size_bytes or machine.word_bytes
    operations = decode_expression(code, size)
    index_at = {operation.offset: index for index, operation in enumerate(operations)}
    index_at[len(code)] = len(operations)
    stack = list(initial_stack)
    index = steps = 0
    while index < len(operations):
        operation = operations[index]
        index += 1
        steps += 1
        if steps > MOST_STEPS:
            raise ExpressionError(f"an expression that takes more than {MOST_STEPS} steps")
        try:
            if operation.opcode in (0x28, 0x2F):
                if operation.opcode == 0x2F or _branches(operation, stack, reader):
                    index = _target(operation, index_at)
            else:
                _step(operation, stack, reader, size)
        except IndexError:
            reason = f"DW_OP_{operation.name} at byte {operation.offset} finds the stack empty"
            raise ExpressionError(reason) from None
        if len(stack) > DEEPEST_STACK:
            raise ExpressionError(f"a stack of more than {DEEPEST_STACK} values")
    if not stack:
        raise ExpressionError("an expression that leaves nothing on the stack")
    return stack[-1]


def _branches(operation: Operation, stack: list[V], reader: Reader[V]) -> bool:
    taken = reader.truth(stack.pop())
    if taken is None:
        raise ExpressionError(
            f"DW_OP_bra at byte {operation.offset} depends on a value that is not known"
        )
    return taken


def _target(operation: Operation, index_at: Mapping[int, int]) -> int:
    distance = operation.operands[0]
    assert isinstance(distance, int)
    target = index_at.get(operation.end + distance)
    if target is None:
        reason = f"DW_OP_{operation.name} at byte {operation.offset} leads into the middle of an "
        raise ExpressionError(reason + "operation or out of the expression")
    return target


def _step(operation: Operation, stack: list[V], reader: Reader[V], size: int) -> None:
    """Run one operation that is no branch."""
    opcode = operation.opcode
    operands = [operand for operand in operation.operands if isinstance(operand, int)]
    if opcode in _BINARY:
        right = stack.pop()
        stack.append(reader.binary(_BINARY[opcode], stack.pop(), right))
    elif 0x70 <= opcode < 0x90:  # breg
        stack.append(_plus(reader, reader.register(opcode - 0x70), operands[0]))
    elif opcode == 0x92:  # bregx
        stack.append(_plus(reader, reader.register(operands[0]), operands[1]))
    elif 0x30 <= opcode < 0x50:  # lit
        stack.append(reader.constant(opcode - 0x30))
    elif opcode == 0x03 or 0x08 <= opcode <= 0x11:  # addr, const
        stack.append(reader.constant(operands[0]))
    elif opcode == 0x06:  # deref
        stack.append(reader.dereference(stack.pop(), size))
    elif opcode == 0x94:  # deref_size
        if operands[0] not in (1, 2, 4, 8) or operands[0] > size:
            raise ExpressionError(f"DW_OP_deref_size of {operands[0]} bytes")
        stack.append(reader.dereference(stack.pop(), operands[0]))
    elif opcode == 0x23:  # plus_uconst
        stack.append(_plus(reader, stack.pop(), operands[0]))
    elif opcode in _UNARY:
        stack.append(reader.unary(_UNARY[opcode], stack.pop()))
    elif opcode in (0x12, 0x13, 0x14, 0x15, 0x16, 0x17):
        _rearrange(opcode, operands, stack)
    elif opcode != 0x96:  # nop
        reason = f"DW_OP_{operation.name} at byte {operation.offset}, which has no meaning in an "
        raise ExpressionError(reason + "unwind rule")


def _plus(reader: Reader[V], value: V, addend: int) -> V:
    return reader.binary("plus", value, reader.constant(addend)) if addend else value


def _rearrange(opcode: int, operands: Sequence[int], stack: list[V]) -> None:
    """Run dup, drop, over, pick, swap or rot."""
    if opcode == 0x12:
        stack.append(stack[-1])
    elif opcode == 0x13:
        stack.pop()
    elif opcode in (0x14, 0x15):
        depth = 1 if opcode == 0x14 else operands[0]
        stack.append(stack[-1 - depth])
    elif opcode == 0x16:
        stack[-1], stack[-2] = stack[-2], stack[-1]
    else:  # rot: the top becomes third
        stack[-1], stack[-2], stack[-3] = stack[-2], stack[-3], stack[-1]


def fold(operator: str, left: int, right: int, bits: int) -> int:
    """Compute a binary operator on words.

    Args:
        operator: as :meth:`Reader.binary` takes it.
        left: a word, 0 or more.
        right: a word, 0 or more; the value that was on top of the stack.
        bits: width of a word.

    Returns:
        A word, 0 or more.

    Raises:
        ExpressionError: division by zero.
    """
    mask = (1 << bits) - 1
    return _FOLDS[operator](left & mask, right & mask, bits) & mask


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _divide(left: int, right: int, bits: int) -> int:
    if right == 0:
        raise ExpressionError("division by zero")
    dividend, divisor = _signed(left, bits), _signed(right, bits)
    # DWARF says no more than "signed"; C, and so libgcc, cuts towards zero.
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


def _modulo(left: int, right: int, bits: int) -> int:
    if right == 0:
        raise ExpressionError("division by zero")
    return left % right


_FOLDS: dict[str, Callable[[int, int, int], int]] = {
    "and": lambda left, right, bits: left & right,
    "or": lambda left, right, bits: left | right,
    "xor": lambda left, right, bits: left ^ right,
    "plus": lambda left, right, bits: left + right,
    "minus": lambda left, right, bits: left - right,
    "mul": lambda left, right, bits: left * right,
    "div": _divide,
    "mod": _modulo,
    "shl": lambda left, right, bits: left << right if right < bits else 0,
    "shr": lambda left, right, bits: left >> right if right < bits else 0,
    "shra": lambda left, right, bits: _signed(left, bits) >> min(right, bits - 1),
    "eq": lambda left, right, bits: left == right,
    "ne": lambda left, right, bits: left != right,
    "lt": lambda left, right, bits: _signed(left, bits) < _signed(right, bits),
    "le": lambda left, right, bits: _signed(left, bits) <= _signed(right, bits),
    "gt": lambda left, right, bits: _signed(left, bits) > _signed(right, bits),
    "ge": lambda left, right, bits: _signed(left, bits) >= _signed(right, bits),
}


class IntegerReader:
    """Evaluates over plain numbers: what a debugger does with a live frame.

    Args:
        bits: width of a word.
        registers: DWARF number to value.
        memory: reads (address, size in bytes).
    """

    def __init__(
        self, bits: int, registers: Mapping[int, int], memory: Callable[[int, int], int]
    ) -> None:
        self._bits = bits
        self._mask = (1 << bits) - 1
        self._registers = registers
        self._memory = memory

    def constant(self, value: int) -> int:
        """Return a number as a word."""
        return value & self._mask

    def register(self, dwarf_register: int) -> int:
        """Return a register's value; an ExpressionError if it is not known."""
        if dwarf_register not in self._registers:
            raise ExpressionError(f"the value of DWARF register {dwarf_register} is not known")
        return self._registers[dwarf_register] & self._mask

    def dereference(self, address: int, size_bytes: int) -> int:
        """Read memory."""
        return self._memory(address, size_bytes)

    def unary(self, operator: str, operand: int) -> int:
        """Apply ``abs``, ``neg`` or ``not``."""
        if operator == "not":
            return ~operand & self._mask
        if operator == "neg":
            return -operand & self._mask
        return abs(_signed(operand, self._bits)) & self._mask

    def binary(self, operator: str, left: int, right: int) -> int:
        """Apply an operator."""
        return fold(operator, left, right, self._bits)

    def truth(self, value: int) -> bool | None:
        """Tell whether a number is other than zero."""
        return value != 0
