"""Effects: what one instruction does to a state.

Effects are small interned objects; two instructions with the same consequence share one, so
that a state's memory of what followed it serves all of them. An effect never looks at an
instruction's address: code is position-independent to the tracker.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from fullframe.track.state import State, StateSpace
from fullframe.track.values import (
    CFA_REGION,
    OTHER,
    UNKNOWN,
    VAGUE,
    VECTOR_REGION,
    Address,
    Constant,
    Derived,
    Entry,
    Value,
    address,
    constant,
    cut,
    derived,
    either,
    extended,
    is_joined,
    realigned,
)
from fullframe.x86.registers import BP, SP

Apply = Callable[[StateSpace, State], State]


class Effect:
    """What one instruction does: a named function from state to state.

    Attributes:
        apply: what it makes of a state; :meth:`after` remembers that.
        key: what it does; no other effect of its classifier has the same.
        number: no other effect has it.
        moves_frame: whether it is of those that build and take down frames: it moves the stack
            pointer, or sets up the frame pointer.
    """

    __slots__ = ("apply", "key", "moves_frame", "number")

    _numbers = count()

    def __init__(self, key: tuple[object, ...], apply: Apply, *, moves_frame: bool) -> None:
        self.key = key
        self.number = next(self._numbers)
        self.moves_frame = moves_frame
        self.apply = apply

    def __repr__(self) -> str:
        return f"<{' '.join(map(str, self.key))}>"

    def after(self, space: StateSpace, state: State) -> State:
        """Return the state after this effect, remembering it in ``state``."""
        found = state.following.get(self)
        if found is None:
            found = state.following[self] = self.apply(space, state)
        return found


#: A place in memory: base register (None: none), displacement in bytes, whether an index
#: register makes the exact place unknown.
Memory = tuple[int | None, int, bool]


def moved(value: Value, delta_bytes: int, space: StateSpace) -> Value:
    """Return ``value + delta_bytes`` for addresses and constants."""
    if isinstance(value, Address):
        return address(value.region, value.offset_bytes + delta_bytes)
    if isinstance(value, Constant):
        return constant((value.number + delta_bytes) & ((1 << space.machine.bits) - 1))
    if value in VAGUE or delta_bytes == 0 or isinstance(value, Derived):
        return value
    return OTHER


def place_of(space: StateSpace, state: State, memory: Memory) -> Value:
    """Return the address of a memory operand; ``OTHER`` for pointers of unknown origin."""
    base, displacement, indexed = memory
    if base is None:
        return OTHER
    value = state.registers[base]
    if indexed:
        return UNKNOWN if isinstance(value, Address) else OTHER
    return moved(value, displacement, space)


def assign(space: StateSpace, state: State, register: int, value: Value) -> State:
    """Return the state in which a register has taken a value, as far as the space keeps it."""
    if (
        not space.precise
        and not (register in (SP, BP) and isinstance(value, Address | Derived))
        and (not isinstance(value, Entry) or register not in space.machine.callee_saved)
        and not (value in VAGUE and register == SP)
    ):
        # The coarse space keeps frame addresses in the stack and frame pointers only.
        value = OTHER
    elif isinstance(value, Derived):
        if register == SP:
            origin = value.origin
            if origin.region is CFA_REGION and origin.offset_bytes >= -space.machine.word_bytes:
                # From the return address upward: the frame is left for another one further out
                # (__builtin_eh_return in an unwinder).
                return space.with_register(state, SP, OTHER)
            return _extend(space, state, origin)
        if not space.precise:
            value = OTHER
    return space.with_register(state, register, value)


def set_register(register: int, value: Value) -> Apply:
    """The register takes a fixed value."""
    return lambda space, state: assign(space, state, register, value)


def clobber(registers: tuple[int, ...]) -> Apply:
    """The registers take values that are nobody's."""

    def apply(space: StateSpace, state: State) -> State:
        values = list(state.registers)
        if all(values[register] is OTHER for register in registers):
            return state
        for register in registers:
            values[register] = OTHER
        return space.with_registers(state, tuple(values))

    return apply


def copy(target: int, source: int) -> Apply:
    """``mov source, target``."""
    return lambda space, state: assign(space, state, target, state.registers[source])


def maybe_copy(target: int, source: int | None) -> Apply:
    """``cmov``: the target keeps its value or takes the source's."""

    def apply(space: StateSpace, state: State) -> State:
        old = state.registers[target]
        new = OTHER if source is None else state.registers[source]
        return assign(space, state, target, either(old, new))

    return apply


def exchange(one: int, other: int) -> Apply:
    """``xchg`` of two registers."""

    def apply(space: StateSpace, state: State) -> State:
        first, second = state.registers[one], state.registers[other]
        return assign(space, assign(space, state, one, second), other, first)

    return apply


def load_address(target: int, memory: Memory) -> Apply:
    """``lea``."""

    def apply(space: StateSpace, state: State) -> State:
        base, displacement, indexed = memory
        if base is None:
            return assign(space, state, target, OTHER)
        value = state.registers[base]
        result = moved(value, displacement, space)
        if indexed:
            result = _near_to(result)
        return assign(space, state, target, result)

    return apply


def load_sum(target: int, base: int, index: int, scale: int, displacement: int) -> Apply:
    """``lea`` of a base and an index; exact where the index is a constant."""

    def apply(space: StateSpace, state: State) -> State:
        value, count = state.registers[base], state.registers[index]
        if isinstance(count, Address) and scale == 1:
            value, count = count, value
        if isinstance(value, Address) and isinstance(count, Constant):
            distance = _signed(count.number, space) * scale + displacement
            return assign(space, state, target, moved(value, distance, space))
        result = _near_to(moved(value, displacement, space))
        if result is OTHER:
            result = _near_to(moved(count, displacement, space))
        return assign(space, state, target, result)

    return apply


def narrowed(registers: tuple[int, ...]) -> Apply:
    """The registers lose their upper halves (x32): see :func:`fullframe.track.values.cut`."""

    def apply(space: StateSpace, state: State) -> State:
        for register in registers:
            state = space.with_register(state, register, cut(state.registers[register]))
        return state

    return apply


def add(register: int, delta_bytes: int) -> Apply:
    """``add``, ``sub``, ``inc`` or ``dec`` by a known number."""

    def apply(space: StateSpace, state: State) -> State:
        return assign(space, state, register, moved(state.registers[register], delta_bytes, space))

    return apply


def add_register(register: int, source: int, sign: int) -> Apply:
    """``add`` or ``sub`` of a register: exact for constants, a new region for the stack."""

    def apply(space: StateSpace, state: State) -> State:
        value, distance = state.registers[register], state.registers[source]
        if isinstance(distance, Constant) and isinstance(value, Address | Constant):
            delta = sign * _signed(distance.number, space)
            return assign(space, state, register, moved(value, delta, space))
        if isinstance(value, Constant) and isinstance(distance, Address) and sign > 0:
            result = moved(distance, _signed(value.number, space), space)
            return assign(space, state, register, result)
        result = _near_to(value)
        if result is OTHER and sign > 0:
            result = _near_to(distance)
        return assign(space, state, register, result)

    return apply


def add_something(register: int) -> Apply:
    """``add`` or ``sub`` of a number that is not tracked."""
    return lambda space, state: assign(space, state, register, _near_to(state.registers[register]))


def align(register: int, mask: int) -> Apply:
    """``and`` with a mask that rounds an address down."""

    def apply(space: StateSpace, state: State) -> State:
        value = state.registers[register]
        if isinstance(value, Address):
            return assign(space, state, register, address(realigned(value), 0))
        if isinstance(value, Constant):
            return assign(space, state, register, constant(value.number & mask))
        return assign(space, state, register, _near_to(value))

    return apply


def _near_to(value: Value) -> Value:
    """Return what an address, moved by an unknown distance, becomes."""
    if isinstance(value, Address):
        return derived(value)
    return value if value in VAGUE or isinstance(value, Derived) else OTHER


def _extend(space: StateSpace, state: State, pointer: Address) -> State:
    region = extended(pointer)
    # The region is made anew: what an earlier turn of a loop left in it is gone.
    slots = {key: value for key, value in state.slots.items() if key[0] is not region}
    return assign(space, space.make(state.registers, slots), SP, address(region, 0))


def to_vector(vector: int, source: int) -> Apply:
    """``movq`` from a general register into a vector register."""

    def apply(space: StateSpace, state: State) -> State:
        return space.with_word(
            state,
            address(VECTOR_REGION, 16 * vector),
            space.machine.word_bytes,
            state.registers[source],
        )

    return apply


def from_vector(target: int, vector: int) -> Apply:
    """``movq`` from a vector register into a general one."""

    def apply(space: StateSpace, state: State) -> State:
        return assign(space, state, target, state.word_at(address(VECTOR_REGION, 16 * vector)))

    return apply


def clobber_vector(vector: int) -> Apply:
    """A vector register takes another value."""

    def apply(space: StateSpace, state: State) -> State:
        return space.with_word(state, address(VECTOR_REGION, 16 * vector), 16, OTHER)

    return apply


def equate(one: int, other: int) -> Apply:
    """What a branch that is taken on equality tells: both registers hold the same."""

    def unsettled(value: Value) -> bool:
        return value in VAGUE or (isinstance(value, Address) and is_joined(value.region))

    def apply(space: StateSpace, state: State) -> State:
        first, second = state.registers[one], state.registers[other]
        if isinstance(first, Address) and not unsettled(first) and unsettled(second):
            return space.with_register(state, other, first)
        if isinstance(second, Address) and not unsettled(second) and unsettled(first):
            return space.with_register(state, one, second)
        return state

    return apply


def sequence(parts: tuple[Apply, ...]) -> Apply:
    """Several effects in turn."""

    def apply(space: StateSpace, state: State) -> State:
        for part in parts:
            state = part(space, state)
        return state

    return apply


def _signed(number: int, space: StateSpace) -> int:
    bits = space.machine.bits
    return number - (1 << bits) if number >> (bits - 1) else number
