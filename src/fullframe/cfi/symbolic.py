"""DWARF expressions over the tracker's values."""

from __future__ import annotations

from fullframe.cfi.expressions import fold
from fullframe.track.effects import moved
from fullframe.track.state import State, StateSpace
from fullframe.track.values import UNKNOWN, VECTOR_REGION, Constant, Value, address, constant
from fullframe.x86.registers import IP


class Symbols:
    """Lets DWARF expressions be evaluated over the tracker's values."""

    def __init__(self, space: StateSpace, state: State, address: int) -> None:
        self._space = space
        self._state = state
        self._address = address

    def constant(self, value: int) -> Value:
        """Return a number that the expression holds."""
        return constant(value & ((1 << self._space.machine.bits) - 1))

    def register(self, dwarf_register: int) -> Value:
        """Return what a register holds; ``UNKNOWN`` where the space does not follow it."""
        hardware = self._space.machine.dwarf_to_hardware.get(dwarf_register)
        if hardware is None:
            vector = self._space.machine.dwarf_to_vector(dwarf_register)
            if vector is None or not self._space.precise:
                return UNKNOWN  # the coarse space does not follow vector registers
            return self._state.word_at(address(VECTOR_REGION, 16 * vector))
        return constant(self._address) if hardware == IP else self._state.registers[hardware]

    def dereference(self, address: Value, size_bytes: int) -> Value:
        """Return the word at an address."""
        if size_bytes != self._space.machine.word_bytes:
            return UNKNOWN
        return self._state.word_at(address)

    def unary(self, operator: str, operand: Value) -> Value:
        """Nothing is known of negated values and the like."""
        return UNKNOWN

    def binary(self, operator: str, left: Value, right: Value) -> Value:
        """Calculate with numbers, and move addresses by them."""
        bits = self._space.machine.bits
        if isinstance(left, Constant) and isinstance(right, Constant):
            return constant(fold(operator, left.number, right.number, bits) & ((1 << bits) - 1))
        if operator == "plus" and isinstance(left, Constant):
            left, right = right, left
        if operator in ("plus", "minus") and isinstance(right, Constant):
            distance = right.number - (1 << bits) if right.number >> (bits - 1) else right.number
            return moved(left, distance if operator == "plus" else -distance, self._space)
        return UNKNOWN

    def truth(self, value: Value) -> bool | None:
        """Return whether a number is not 0; None of anything else."""
        return value.number != 0 if isinstance(value, Constant) else None
